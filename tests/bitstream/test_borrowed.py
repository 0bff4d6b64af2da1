"""What a file says of frames that the group beside shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from bitstream.test_flow import coder as plain_coder
from bitstream.test_flow import smooth_fields
from tiny import (
    BORROWING,
    assert_all_is_measured,
    assert_an_interrupted_encode_goes_on,
    assert_parts_are_those_of_the_whole,
    assert_the_encoder_sees_what_the_decoder_shows,
    frames_of,
    moving_picture,
)

from cvvae_cli import codec, latents
from cvvae_cli.bitstream import cosine_choice
from cvvae_cli.bitstream.flow import BorrowingFlowCoder
from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine.base import network_to_pixels
from cvvae_cli.errors import CorruptFileError
from cvvae_cli.flow.field import FIRST, LARGEST, LAST, SECOND, moved_by
from cvvae_cli.metrics.psnr import psnr
from cvvae_cli.models.registry import MODELS
from cvvae_cli.options import EncodeOptions

OPTIONS = EncodeOptions(model=f"tiny-{BORROWING}", device="cpu", dtype="fp32", quality=9)
CUTS = (6, 19, 29, 36, 47, 60)  # after frames 1, 2, 4, 3, 2 and 3 of groups, the last with a chunk's end


def film():
    """62 frames of scenes that move, five chunks; in the middle of one a period begins."""
    rgb = moving_picture(62, 44, 38, seed=3)
    for cut in CUTS:
        rgb[cut:] = np.roll(255 - rgb[cut:, ::-1], 1, axis=3)
    return rgb


CLIP = film()


def coder():
    return BorrowingFlowCoder(plain_coder().frequencies)


def chosen(size, seed=1):
    """Fields, and what is borrowed of any kind, whose own fields are zero."""
    fields = smooth_fields(5, *size, seed=77)
    rng = np.random.default_rng(seed)
    parts = [(1, FIRST), (2, FIRST), (2, SECOND), (3, SECOND), (4, LAST), (4, FIRST)]
    borrowed = {part: rng.integers(-9, 10, (2, *size)).astype(np.int16) for part in parts}
    borrowed[4, LAST][:] = 0  # nothing moves
    for part in parts:
        fields[part] = 0
    return fields, borrowed


def assert_same(one, other):
    assert np.array_equal(one[0], other[0])
    assert list(one[1]) == list(other[1])
    assert all(np.array_equal(one[1][key], other[1][key]) for key in one[1])


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (17, 16), (30, 53)])
def test_what_is_borrowed_comes_back(size):
    fields, borrowed = chosen(size)
    data = coder().encode_all(fields, borrowed)
    in_order = dict(sorted(borrowed.items()))
    assert_same(coder().decode_all(data, (5, *size)), (fields, in_order))
    first = {key: vectors for key, vectors in in_order.items() if key[0] < 3}
    assert_same(coder().decode_all(data, (3, *size)), (fields[:3], first))  # the first are there alone


@pytest.mark.parametrize("part", [FIRST, LAST])
def test_what_does_not_move_may_lie_beside_the_widest_motion(part):
    fields = np.full((1, 3, 2, 5, 7), LARGEST, np.int16)
    fields[0, part] = 0
    vectors = np.full((2, 5, 7), -LARGEST, np.int16)
    found = coder().decode_all(coder().encode_all(fields, {(0, part): vectors}), (1, 5, 7))
    assert_same(found, (fields, {(0, part): vectors}))


def test_where_nothing_is_the_bytes_are_those_of_before():
    fields = smooth_fields(4, 9, 11, seed=5)
    data = coder().encode_all(fields, {})
    assert data == plain_coder().encode_fields(fields)
    assert_same(coder().decode_all(data, (4, 9, 11)), (fields, {}))


def test_of_two_frames_the_farther_is_expected_twice_as_far():
    near = np.full((2, 17, 16), 9, np.int16)
    fields = np.zeros((1, 3, 2, 17, 16), np.int16)
    sizes = [
        len(coder().encode_all(fields, {(0, FIRST): near, (0, SECOND): factor * near})) for factor in (2, 3)
    ]
    assert sizes[0] < sizes[1]


class Careless(BorrowingFlowCoder):
    """Writes flags that mean nothing."""

    wrong = 4

    def flags_of(self, parts):
        return super().flags_of(parts) + self.wrong

    def hold_any(self, flags):
        return super().hold_any(flags - self.wrong)


@pytest.mark.parametrize("wrong", [4, -4])
def test_flags_that_mean_nothing_are_refused(wrong, monkeypatch):
    monkeypatch.setattr(Careless, "wrong", wrong)
    data = Careless(coder().frequencies).encode_all(*chosen((3, 3)))
    with pytest.raises(CorruptFileError, match="motion"):
        coder().decode_all(data, (5, 3, 3))


def test_vectors_beyond_what_a_file_may_hold_are_refused():
    far = {(0, part): np.full((2, 3, 3), LARGEST + part, np.int16) for part in (FIRST, SECOND)}
    data = coder().encode_all(np.zeros((1, 3, 2, 3, 3), np.int16), far)
    with pytest.raises(CorruptFileError, match="motion"):
        coder().decode_all(data, (1, 3, 3))


@pytest.fixture
def cut(tiny, monkeypatch, lossless, tmp_path):
    monkeypatch.setattr(cosine_choice, "LAST_PRICE", 3000.0)  # so that not all is corrected
    encode_file(lossless(CLIP), tmp_path / "whole.cvl", OPTIONS)
    return tmp_path / "whole.cvl"


def borrowed_of(path):
    with open_cvl(path) as cvl:
        read = list(latents.read_latents(cvl, latents.model_of(cvl.header)[1]))
    return {(4 * n + t, part): v for n, chunk in enumerate(read) for (t, part), v in chunk.borrowed.items()}


def test_frames_across_cuts_are_those_of_the_group_beside(cut):
    borrowed = borrowed_of(cut)
    assert set(borrowed) == {(2, FIRST), (5, FIRST), (5, SECOND), (9, LAST), (12, FIRST), (12, SECOND)}
    plain = frames_of(cut, lambda chunk: replace(chunk, corrections=None))
    for frame, beside, key in ((5, 4, (2, 0)), (17, 16, (5, 0)), (18, 16, (5, 1)), (36, 37, (9, 2))):
        source = torch.from_numpy(np.pad(plain[beside], ((0, 2), (0, 4), (0, 0)), mode="edge"))
        moved = moved_by(source.permute(2, 0, 1)[None].float() / 127.5 - 1, borrowed[key])
        expected = network_to_pixels(moved[:, :, None], 8)[0, :38, :44].astype(int)
        inside = (slice(8, -8), slice(8, -8))  # beyond the edges lies what is not in the file
        assert np.abs(expected - plain[frame])[inside].max() <= 1


def test_a_part_is_that_of_the_whole(cut, tiny):
    with open_cvl(cut) as cvl:
        spec, weights = latents.model_of(cvl.header)
    engine = codec.make_engine(spec, weights.build, codec.choose_placement("cpu", "fp32"))
    parts = [*(range(n, n + 1) for n in (4, 5, 6, 16, 17, 18, 19, 35, 36, 37, 46, 47)), range(17, 37)]
    assert assert_parts_are_those_of_the_whole(engine, cut, parts) == len(CLIP)


@pytest.mark.parametrize("busy", [1, 10**9], ids=["groups of 1", "groups of 4"])
def test_the_encoder_sees_what_the_decoder_shows(cut, monkeypatch, busy):
    assert_the_encoder_sees_what_the_decoder_shows(monkeypatch, cut, CLIP, OPTIONS, busy)


def test_an_interrupted_encode_goes_on_to_the_same_bytes(cut):
    assert_an_interrupted_encode_goes_on(cut, OPTIONS)


def test_what_a_chunk_takes_is_measured(cut):
    assert_all_is_measured(cut, chunks=5)


def test_without_alignment_nothing_is_borrowed(cut, tmp_path):
    encode_file(tmp_path / "source.mkv", tmp_path / "plain.cvl", replace(OPTIONS, align=False))
    assert borrowed_of(tmp_path / "plain.cvl") == {}


def test_cuts_cost_less_and_frames_are_better(monkeypatch, lossless, tmp_path):
    rgb = moving_picture(17, 96, 80, seed=8)
    rgb[7:] = np.roll(255 - rgb[7:, ::-1], 1, axis=3)
    source, found = lossless(rgb), []
    for name in ("prior-9", "prior-10"):
        monkeypatch.setitem(MODELS, "compact-13", replace(MODELS["compact-13"], coder=name))
        path = tmp_path / f"{name}.cvl"
        encode_file(source, path, EncodeOptions(model="compact-13", device="cpu", dtype="fp32"))
        found.append((path.stat().st_size, psnr(rgb, frames_of(path)).mean()))
    (plain, before), (own, after) = found
    assert own < 0.97 * plain, found
    assert after > before + 0.2, found
