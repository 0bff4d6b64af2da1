import io
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvvae_cli.container import layout
from cvvae_cli.container.header import Header, parse_header
from cvvae_cli.container.reader import CvlReader
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.errors import CorruptFileError, UnsupportedFormatError
from cvvae_cli.types import SideStream

HEADER = Header(
    model="compact-1",
    weights="0" * 64,
    size=(640, 360),
    latent=(32, 4, 8),
    chunk=4,
    context=(6, 6),
    coder="context-1",
    period=32,
    level=None,
    time_base=(1, 12800),
    rate=(25, 1),
    color=(1, 1, 1, 0),
    rotation=0,
    depth=8,
    aspect=(1, 1),
    side=(SideStream("audio", "aac", "eng"),),
    chapters=0,
    computed="cpu fp32",
    source="0" * 32,
)


def make_file(
    frames: int = 22, symbols: bytes = b"abcd", side: bytes = b"", header: Header = HEADER
) -> bytes:
    file = io.BytesIO()
    with CvlWriter(file, header) as cvl:
        while cvl.num_frames < frames:
            latents = range(cvl.num_latents, cvl.num_latents + 4)
            covered = HEADER.geometry.frames_of(latents)
            covered = range(covered.start, min(covered.stop, frames))
            count = HEADER.geometry.num_latents(covered.stop) - cvl.num_latents
            cvl.write_chunk(count, [512 * i for i in covered], symbols)
            cvl.write_side([(len(cvl._index) * 1000, side)] if side else [])
    return file.getvalue()


WHOLE = make_file(side=b"sound")


def read_everything(data: bytes) -> tuple[int, bytes]:
    with CvlReader(io.BytesIO(data)) as cvl:
        cvl.verify()
        symbols = [cvl.read_chunk(i).symbols for i in range(len(cvl.index))]
        return cvl.num_frames, b"".join(symbols) + b"".join(cvl.side_data())


def test_what_was_written_is_read():
    with CvlReader(io.BytesIO(WHOLE)) as cvl:
        assert cvl.header == HEADER
        assert (cvl.num_frames, cvl.num_latents) == (22, 7)
        chunk = cvl.read_chunk(1)
        assert chunk.latents == range(4, 7)
        assert chunk.pts == tuple(512 * i for i in range(13, 22))
        assert [cvl.chunk_at(frame) for frame in (0, 12, 13, 21)] == [0, 0, 1, 1]
    assert read_everything(WHOLE) == (22, b"abcd" * 2 + b"sound" * 2)


@pytest.mark.parametrize("frames", [1, 2, 13, 14, 29, 30, 64])
def test_every_number_of_frames_is_kept(frames):
    assert read_everything(make_file(frames))[0] == frames


def test_the_fixed_overhead_of_a_short_clip_is_small():
    assert len(make_file(64, symbols=b"", header=replace(HEADER, side=()))) <= 600


@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_a_file_cut_anywhere_is_reported_as_corrupt(cut):
    with pytest.raises(CorruptFileError):
        read_everything(WHOLE[:cut])


@pytest.mark.parametrize("place", range(len(WHOLE)))
def test_a_flipped_bit_anywhere_is_noticed(place):
    damaged = bytearray(WHOLE)
    for bit in range(8):
        damaged[place] ^= 1 << bit
        with pytest.raises((CorruptFileError, UnsupportedFormatError)):
            read_everything(bytes(damaged))
        damaged[place] ^= 1 << bit


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, len(WHOLE)))
def test_bytes_put_in_anywhere_are_noticed(extra, place):
    data = WHOLE[:place] + extra + WHOLE[place:]
    if extra:
        with pytest.raises((CorruptFileError, UnsupportedFormatError)):
            read_everything(data)


def reframe(data: bytes, tag: bytes, change) -> bytes:
    """Change the payload of the first record of a kind, with a right checksum."""
    place = data.index(tag)
    (size,) = struct.unpack_from("<I", data, place + 4)
    payload = change(data[place + 8 : place + 8 + size])
    body = tag + struct.pack("<I", len(payload)) + payload
    return data[:place] + body + struct.pack("<I", zlib.crc32(body)) + data[place + 12 + size :]


HOSTILE = {
    "a record that claims four gigabytes": WHOLE.replace(b"LATS", b"LATS\xff\xff\xff\xff", 1),
    "an index that points into the header": reframe(
        WHOLE, b"INDX", lambda p: p[:8] + struct.pack("<Q", 8) + p[16:]
    ),
    "an index that points at itself": reframe(
        WHOLE, b"INDX", lambda p: p[:16] + struct.pack("<Q", len(WHOLE) - 120) + p[24:]
    ),
    "an index in the wrong order": reframe(WHOLE, b"INDX", lambda p: p[:8] + p[16:24] + p[8:16] + p[24:]),
    "an index with an entry too many": reframe(WHOLE, b"INDX", lambda p: p + p[-8:]),
    "an index that claims four thousand million chunks": reframe(
        WHOLE, b"INDX", lambda p: b"\xff" * 8 + p[8:]
    ),
    "an index of another side record": reframe(WHOLE, b"INDX", lambda p: p[:-8] + struct.pack("<q", 7)),
    "an index without the side records": reframe(
        WHOLE, b"INDX", lambda p: struct.pack("<II", 2, 0) + p[8:24]
    ),
    "a side record that is too short": reframe(WHOLE, b"SIDE", lambda p: p[:4]),
    "a footer with other frames": reframe(
        WHOLE, b"FOOT", lambda p: p[:8] + struct.pack("<Q", 2**60) + p[16:]
    ),
    "a footer that points beyond the file": reframe(
        WHOLE, b"FOOT", lambda p: struct.pack("<Q", 2**63) + p[8:]
    ),
    "a chunk of no latents": reframe(WHOLE, b"LATS", lambda p: p[:4] + b"\0\0" + p[6:]),
    "a chunk with other frames": reframe(WHOLE, b"LATS", lambda p: p[:6] + b"\x0c\0" + p[8:]),
    "a second header": WHOLE.replace(b"SIDE", b"HEAD"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_reported_as_corrupt(name):
    with pytest.raises(CorruptFileError):
        read_everything(HOSTILE[name])


def test_an_unknown_record_with_a_right_checksum_is_skipped():
    body = b"NEWS" + struct.pack("<I", 3) + b"abc"
    record = body + struct.pack("<I", zlib.crc32(body))
    place = WHOLE.index(b"INDX")
    (offset,) = struct.unpack_from("<Q", WHOLE, len(WHOLE) - 36)  # of the index
    grown = WHOLE[:place] + record + WHOLE[place:]
    footer = struct.pack("<QQQQ", offset + len(record), 22, 7, len(grown))
    assert read_everything(reframe(grown, b"FOOT", lambda _: footer))[0] == 22


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", [8, 360]),
        ("size", [640, 2**40]),
        ("size", "640x360"),
        ("latent", [32, 4]),
        ("latent", [True, 4, 8]),
        ("chunk", 0),
        ("period", 30),
        ("time_base", [1, 0]),
        ("color", [1, 1, 1, 2]),
        ("model", ""),
        ("level", 1.5),
        ("rotation", 45),
        ("depth", 0),
        ("aspect", [0, 1]),
        ("side", {}),
        ("side", [{"kind": "audio"}]),
        ("side", [{"kind": "audio", "codec": 3}]),
        ("side", [{"kind": "audio", "codec": "aac"}] * 65),
        ("chapters", -1),
    ],
)
def test_a_header_with_a_value_out_of_range_is_reported(key, value):
    with pytest.raises(CorruptFileError):
        parse_header(HEADER.to_json() | {key: value})


def test_every_key_of_the_header_is_needed():
    for key in HEADER.to_json():
        values = HEADER.to_json()
        del values[key]
        if key in ("side", "source"):
            assert parse_header(values) == replace(HEADER, **{key: () if key == "side" else None})
            continue
        with pytest.raises(CorruptFileError):
            parse_header(values)


def test_side_data_beyond_a_record_is_split():
    sound = bytes(range(256)) * 2**15  # 8 MiB
    file = io.BytesIO()
    with CvlWriter(file, HEADER) as cvl:
        cvl.write_chunk(1, [0], b"abcd")
        cvl.write_side([(0, sound)])
    with CvlReader(file) as cvl:
        parts = list(cvl.side_data())
        assert [len(p) for p in parts] == [layout.MAX_SIDE_BYTES] * 2 + [16]
        assert b"".join(parts) == sound
        assert cvl.side_bytes() == len(sound) + 3 * (
            layout.RECORD_OVERHEAD + layout.SIDE_HEAD.size + layout.SIDE_ENTRY.size
        )


def test_side_data_is_read_from_the_last_cluster_before_a_time():
    file = io.BytesIO()
    with CvlWriter(file, HEADER) as cvl:
        cvl.write_side([(None, b"head ")])
        cvl.write_chunk(1, [0], b"abcd")
        cvl.write_side([(0, b"zero "), (2000, b"two "), (4000, b"four ")])
    with CvlReader(file) as cvl:
        read = {time: b"".join(cvl.side_data(time)) for time in (None, -5, 0, 1999, 2000, 9999)}
    whole = b"head zero two four "
    assert read[None] == read[-5] == read[0] == read[1999] == whole
    assert read[2000] == b"head two four "
    assert read[9999] == b"head four "


@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_a_file_cut_anywhere_is_read_up_to_its_last_whole_record(cut):
    try:
        reader = CvlReader(io.BytesIO(WHOLE[:cut]), allow_partial=True)
    except CorruptFileError:
        assert cut < WHOLE.index(b"SIDE\x0d")  # not even the first chunk is whole
        return
    with reader as cvl:
        assert cvl.is_cut
        cvl.verify()
        chunks = 1 if cut < WHOLE.rindex(b"SIDE\x0d") else 2
        assert (len(cvl.index), cvl.num_frames) == (chunks, 13 if chunks == 1 else 22)
        file = io.BytesIO()
        with CvlWriter(file, cvl.header) as saved:
            saved.copy(cvl)
    data = file.getvalue()
    assert read_everything(data)[0] == (13 if chunks == 1 else 22)
    if cut >= WHOLE.index(b"INDX"):
        assert data == WHOLE  # only index and footer were missing


def test_a_whole_file_is_not_cut():
    with CvlReader(io.BytesIO(WHOLE), allow_partial=True) as cvl:
        assert not cvl.is_cut
