"""Groups of frames that take what their reference does not show from those beside."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CPU
from pictures import texture
from tiny import (
    FILLED,
    assert_parts_are_those_of_the_whole,
    decode,
    encode,
    moving_picture,
    tiny_spec,
    what_reaches,
    write_lossless,
)

from cvvae_cli.codec import encode_file
from cvvae_cli.engine.borders import Borders
from cvvae_cli.engine.stream import Engine
from cvvae_cli.flow import align
from cvvae_cli.models.registry import Weights
from cvvae_cli.options import EncodeOptions
from cvvae_cli.types import LatentChunk


def panning(frames, width, height, step=3):
    """A camera that pans over one large picture, uint8 (T, H, W, 3)."""
    whole = moving_picture(1, width + step * frames, height)[0]
    return np.stack([whole[:, step * n : step * n + width] for n in range(frames)])


CLIP = panning(45, 72, 56)


@pytest.fixture
def filling(tiny):
    spec = tiny_spec(FILLED)
    return Engine(spec, Weights(spec).build, CPU)


def test_symbols_are_those_of_the_same_model_without_and_pictures_are_not(filling, refined):
    chunks = encode(filling, CLIP, worthless=120.0)
    assert any(chunk.fields.any() for chunk in chunks)
    own, other = decode(filling, chunks), decode(refined, chunks)
    is_reference = np.arange(len(CLIP)) % 4 == 3  # frames 3, 7, ...
    assert np.array_equal(own[is_reference], other[is_reference])
    assert not np.array_equal(own, other)
    still = [replace(chunk, fields=np.zeros_like(chunk.fields)) for chunk in chunks]
    assert np.array_equal(decode(filling, still), decode(refined, still))


@pytest.mark.parametrize("busy", [1, 100, 10**9], ids=["groups of 1", "groups of 2", "groups of 4"])
@pytest.mark.parametrize(
    "wanted",
    [range(1), range(12, 14), range(13, 14), range(17, 18), range(29, 31), range(28, 45), range(44, 45)],
)
def test_a_range_is_bit_identical_to_the_whole(filling, monkeypatch, busy, wanted):
    monkeypatch.setattr("cvvae_cli.engine.stream.BUSY_POSITIONS", busy)
    chunks = encode(filling, CLIP, worthless=120.0)
    whole = decode(filling, chunks)
    given = what_reaches(filling, chunks, wanted)
    assert np.array_equal(decode(filling, given, wanted), whole[wanted.start : wanted.stop])


def test_a_part_reaches_one_latent_frame_farther_back(filling, refined, monkeypatch):
    monkeypatch.setattr("cvvae_cli.engine.stream.BUSY_POSITIONS", 1)
    size = (7, 9)
    assert filling.reaching(0, *size) == 0
    assert [engine.reaching(20, *size) for engine in (refined, filling)] == [18, 17]
    assert filling.reaching(21, *size) == refined.reaching(21, *size)  # which refining needs anyway
    assert [filling.needed_until(n) for n in (4, 6)] == [refined.needed_until(n) for n in (4, 6)]


def test_what_left_the_picture_comes_back_from_the_groups_beside():
    """Without a network: chunks that decode to what was encoded."""
    whole = texture(96, 128 + 4 * 32, grain=12)
    video = torch.stack([whole[:, :, 4 * n : 4 * n + 128] for n in range(32)], 1)[None]
    aligned, fields = align.align(video, is_filled=True)
    assert fields.reshape(8, -1).any(1).all()
    plain, borders = align.restore(aligned, fields), Borders((96, 128))
    restored = []
    for start in (0, 4):
        chunk = LatentChunk(np.zeros((1, 4, 12, 16)), range(16), np.arange(16), fields[start : start + 4])
        pieces = enumerate(torch.split(aligned[:, :, 4 * start : 4 * start + 16], 4, 2))
        waiting = []
        for at, piece in borders.noticing(chunk, start, pieces):  # one late, as the refiner gives them
            restored += [borders.restored(*each) for each in waiting]
            waiting = [(start + at, piece)]
        restored += [borders.restored(*each) for each in waiting]
    assert set(borders._groups) == {6, 7}  # no more is held, however long the video is
    whole = torch.cat(restored, 2)

    def error(pictures, frame):
        return float((pictures - video)[:, :, frame].square().mean())

    for frame in range(32):
        group, number = divmod(frame, 4)
        if number == 2 or (number < 2 and group == 0) or (number == 3 and group in (3, 7)):
            assert torch.equal(whole[:, :, frame], plain[:, :, frame])  # at the ends of what is at hand
        else:
            assert error(whole, frame) < 0.5 * error(plain, frame)


def test_a_file_is_decoded_the_same_in_parts(filling, tmp_path):
    source, path = tmp_path / "source.mkv", tmp_path / "a.cvl"
    write_lossless(source, CLIP)
    encode_file(source, path, EncodeOptions(model=f"tiny-{FILLED}", device="cpu", dtype="fp32", quality=9))
    parts = range(3), range(13, 15), range(29, 30), range(40, 45)
    assert_parts_are_those_of_the_whole(filling, path, parts)
