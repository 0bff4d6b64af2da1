from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvvae_cli.container import layout
from cvvae_cli.container.header import parse_header
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.errors import CorruptFileError, UnsupportedFormatError


@given(st.integers(0, 2**63 - 1))
def test_every_number_survives_a_varint(value):
    packed = layout.pack_varint(value)
    assert layout.unpack_varint(packed, 0) == (value, len(packed))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 10, b"\xff" * 9 + b"\x7f"])
def test_a_broken_varint_is_reported(data):
    with pytest.raises(CorruptFileError):
        layout.unpack_varint(data, 0)


@given(st.integers(-(2**40), 2**40), st.lists(st.integers(1, 2**30), max_size=40))
def test_every_timestamp_survives(first, deltas):
    pts = [first]
    for delta in deltas:
        pts.append(pts[-1] + delta)
    packed = layout.pack_times(pts)
    assert layout.unpack_times(packed, 0, len(pts)) == (tuple(pts), len(packed))


def test_timestamps_that_do_not_fit_their_frames_are_reported():
    packed = layout.pack_times([0, 10, 20, 35])
    for frames in (1, 2, 3, 5):
        with pytest.raises(CorruptFileError):
            layout.unpack_times(packed, 0, frames)


def test_a_newer_major_version_is_refused_with_a_hint():
    payload = bytes([layout.VERSION[0] + 1, 0]) + b"{}"
    with pytest.raises(UnsupportedFormatError) as caught:
        layout.unpack_header(payload)
    assert "newer" in caught.value.hint


def test_a_file_from_before_the_format_was_settled_is_refused_with_a_hint():
    with pytest.raises(UnsupportedFormatError) as caught:
        layout.unpack_header(b"\0\1{}")
    assert "the version of cvvae that made it" in caught.value.hint


@pytest.mark.parametrize("payload", [b"", b"\1", b"\1\0", b"\1\0[]", b"\1\0" + b"[" * 60_000, b"\1\0\xff"])
def test_a_header_that_is_no_json_object_is_reported(payload):
    with pytest.raises(CorruptFileError):
        layout.unpack_header(payload)


@pytest.mark.parametrize(
    "window",
    [
        "wide",
        [4, 0, 72],
        [4, 4, 72, 56],
        [0, 0, 72, 56],
        [4, 0, 56, 72],
        [4, 0, 72, 20],
        [4, -1, 72, 56],
        [4.0, 0, 72, 56],
    ],
)
def test_windows_that_make_no_sense_are_refused(window):
    golden = Path(__file__).parent.parent / "golden" / "v1.0-exact.cvl"
    with open_cvl(golden) as cvl:
        values = cvl.header.to_json()
    assert parse_header(values | {"window": [4, 1, 72, 56]}).window == (4, 1, 72, 56)
    assert "window" not in values
    with pytest.raises(CorruptFileError, match="window"):
        parse_header(values | {"window": window})
