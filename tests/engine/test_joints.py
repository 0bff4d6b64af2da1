"""Frames where groups meet, which learn from each other: the same wherever a job starts, and of use."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CPU
from pictures import texture
from tiny import (
    JOINED,
    assert_parts_are_those_of_the_whole,
    decode,
    encode,
    moving_picture,
    tiny_spec,
    what_reaches,
    write_lossless,
)

from cvvae_cli.codec import encode_file
from cvvae_cli.engine.joints import Joints, Shown, seen_together
from cvvae_cli.engine.mirror import Mirror
from cvvae_cli.engine.plan import plan_tiles
from cvvae_cli.engine.stream import Engine, EngineOptions
from cvvae_cli.errors import NonFiniteError
from cvvae_cli.models.refiner import Refiner
from cvvae_cli.models.registry import Weights
from cvvae_cli.options import EncodeOptions

CLIP = moving_picture(45, 72, 56)


@pytest.fixture
def joining(tiny):
    spec = tiny_spec(JOINED)
    return Engine(spec, Weights(spec).build, CPU)


def without(engine):
    """The same model without a joiner."""
    plain = Engine(engine.spec, Weights(engine.spec).build, CPU)
    plain.network.joiner = None
    return plain


def shown(start, pictures, level=40):
    """A group of frames (3, T, H, W)."""
    frames = range(start, start + pictures.shape[1])
    return Shown(frames, pictures[None], np.arange(frames.start, frames.stop), level)


def test_the_frames_at_the_ends_of_groups_change_and_no_others(joining):
    chunks = encode(joining, CLIP, worthless=120.0)
    own, other = decode(joining, chunks), decode(without(joining), chunks)
    differs = (own != other).any(axis=(1, 2, 3))
    number = np.arange(len(CLIP))
    assert np.array_equal(differs, (number % 4 < 2) & (number < 44))  # the last frame ends the last group


@pytest.mark.parametrize("busy", [1, 100, 10**9], ids=["groups of 1", "groups of 2", "groups of 4"])
@pytest.mark.parametrize(
    "wanted",
    [
        range(1),
        range(1, 2),
        range(4, 5),
        range(12, 13),
        range(13, 14),
        range(14, 16),
        range(16, 18),
        range(28, 45),
        range(44, 45),
    ],
)
def test_a_range_is_bit_identical_to_the_whole(joining, monkeypatch, busy, wanted):
    monkeypatch.setattr("cvvae_cli.engine.stream.BUSY_POSITIONS", busy)
    chunks = encode(joining, CLIP, worthless=120.0)
    whole = decode(joining, chunks)
    assert np.array_equal(decode(joining, chunks, wanted), whole[wanted.start : wanted.stop])
    given = what_reaches(joining, chunks, wanted)
    assert np.array_equal(decode(joining, given, wanted), whole[wanted.start : wanted.stop])


def test_where_groups_meet_a_part_needs_the_group_beside_it_and_what_that_needs(joining, monkeypatch):
    monkeypatch.setattr("cvvae_cli.engine.stream.BUSY_POSITIONS", 1)
    plain, size = without(joining), (7, 9)
    assert joining.needed(range(14, 16), *size) == plain.needed(range(14, 16), *size)
    assert joining.needed(range(13, 16), *size) == plain.needed(range(12, 16), *size)
    assert joining.needed(range(14, 17), *size) == plain.needed(range(14, 18), *size)
    assert joining.needed(range(1), *size) == plain.needed(range(2), *size)
    assert joining.needed(range(1, 3), *size) == plain.needed(range(3), *size)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 13, 14, 17])
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (64, 40)])
def test_every_number_of_frames_and_every_size_comes_back(joining, frames, size):
    rgb = moving_picture(frames, *size)
    decoded = decode(joining, encode(joining, rgb), None, *size)
    assert decoded.shape == rgb.shape


@pytest.mark.parametrize("tile", [8, 16, 24, 40])
def test_tiles_with_halo_equal_the_whole_picture(joining, tile):
    tiled = Engine(joining.spec, Weights(joining.spec).build, CPU, EngineOptions(tile_pixels=tile))
    chunks = encode(joining, CLIP)
    difference = np.abs(decode(tiled, chunks).astype(int) - decode(joining, chunks))
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


def test_two_frames_of_one_scene_are_better_together():
    """Each has errors of its own; before it is trained a joiner follows the other frame by a quarter."""
    torch.manual_seed(0)
    whole = texture(96, 160, grain=12)
    clean = torch.stack([whole[:, :, 3 * n : 3 * n + 128] for n in range(8)], 1)
    noisy = clean + 0.1 * torch.randn(clean.shape)
    joints = Joints(plan_tiles(12, 16, None, 0))
    groups = [shown(0, noisy[:, :4]), shown(4, noisy[:, 4:])]
    everything = range(8)
    found = [part for group in groups for part in joints(Refiner(8, 3, neighbours=1), group, everything)]
    found += joints.end()
    assert [n for part in found for n in part.frames] == list(everything)
    assert [n for part in found for n in part.pts] == list(everything)
    video = torch.cat([part.video for part in found], 2)[0]
    before, after = ((each - clean).square().mean((0, 2, 3)) for each in (noisy, video))
    assert torch.equal(before[[0, 1, 2, 5, 6, 7]], after[[0, 1, 2, 5, 6, 7]])
    assert (after[3:5] < 0.85 * before[3:5]).all()


def test_what_is_opaque_is_not_joined():
    torch.manual_seed(0)
    pictures = texture(64, 64, grain=8)[:, None] + 0.1 * torch.randn(3, 8, 64, 64)
    opaque = torch.zeros(1, 1, 4, 64, 64)
    opaque[..., :32] = 1
    opaque[..., 32:40] = 0.5
    joiner, found = Refiner(8, 3, neighbours=1), []
    for mask in (opaque, None):  # of the first group
        joints = Joints(plan_tiles(8, 8, None, 0))
        parts = [*joints(joiner, replace(shown(0, pictures[:, :4]), opaque=mask), range(8))]
        parts += [*joints(joiner, shown(4, pictures[:, 4:]), range(8)), *joints.end()]
        found.append(torch.cat([part.video for part in parts], 2)[0])
    own, other = found
    assert torch.equal(own[:, 3, :, :32], pictures[:, 3, :, :32].clamp(-1, 1))
    half = (other[:, 3] + pictures[:, 3].clamp(-1, 1)) / 2
    assert torch.allclose(own[:, 3, :, 32:40], half[..., 32:40], atol=1e-6)
    own[:, 3, :, :40] = other[:, 3, :, :40]
    assert torch.equal(own, other)
    assert not torch.equal(other[:, 3], pictures[:, 3].clamp(-1, 1))


def test_what_nobody_wants_is_not_joined():
    pictures = texture(64, 64, grain=8)[:, None] * torch.linspace(0.5, 1, 8)[:, None, None]
    joints = Joints(plan_tiles(8, 8, None, 0))
    joiner = Refiner(8, 3, neighbours=1)
    for group in (shown(0, pictures[:, :4]), shown(4, pictures[:, 4:])):
        for part in joints(joiner, group, range(5, 7)):
            assert torch.equal(part.video[0], pictures[:, part.frames.start : part.frames.stop])


def test_the_other_frame_is_seen_where_content_lies():
    whole = texture(96, 140, grain=12)
    one, other = (whole[None, :, None, :, at : at + 128] for at in (0, 5))
    pictures, differences = seen_together(one, other)
    assert torch.equal(pictures[0], one[0, :, 0])
    inner = slice(16, -16)
    apart = (one - other)[..., inner, inner].square().mean()
    assert differences[..., inner, inner].square().mean() < 0.05 * apart


def test_numbers_that_are_none_are_refused(joining):
    joining.network.joiner.head.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="refining"):
        decode(joining, encode(joining, CLIP))


def test_detail_is_coded_as_without_it(joining):
    chunks = encode(joining, CLIP)
    own, other = Mirror(joining, 50), Mirror(without(joining), 50)
    for chunk in chunks:
        pictures = [mirror.of(chunk).lacking(chunk.latents).pictures for mirror in (own, other)]
        assert np.array_equal(*pictures)


def test_a_file_is_decoded_the_same_in_parts(joining, tmp_path):
    source, path = tmp_path / "source.mkv", tmp_path / "a.cvl"
    write_lossless(source, CLIP)
    encode_file(source, path, EncodeOptions(model=f"tiny-{JOINED}", device="cpu", dtype="fp32", quality=9))
    parts = range(3), range(12, 13), range(13, 15), range(29, 30), range(40, 45)
    assert assert_parts_are_those_of_the_whole(joining, path, parts) == len(CLIP)
