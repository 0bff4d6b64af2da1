"""Pictures refined by those beside them: the same wherever a job starts, and of use."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CPU
from tiny import (
    ACROSS,
    REFINED,
    assert_parts_are_those_of_the_whole,
    decode,
    encode,
    moving_picture,
    tiny_spec,
    what_reaches,
)

from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine.mirror import Mirror
from cvvae_cli.engine.refining import differences_of, ways_between
from cvvae_cli.engine.stream import Engine, EngineOptions
from cvvae_cli.errors import NonFiniteError
from cvvae_cli.latents import read_latents
from cvvae_cli.models.registry import Weights
from cvvae_cli.options import EncodeOptions

CLIP = moving_picture(45, 72, 56)


@pytest.fixture(params=[REFINED, ACROSS], ids=["within chunks", "across chunks"])
def refined(tiny, request):
    spec = tiny_spec(request.param)
    return Engine(spec, Weights(spec).build, CPU)


@pytest.fixture
def plain(tiny):
    spec = tiny_spec(REFINED - 1)
    return Engine(spec, Weights(spec).build, CPU)


def test_latents_are_those_of_the_base_and_pictures_are_not(refined, plain):
    own, other = encode(refined, CLIP), encode(plain, CLIP)
    assert all(np.array_equal(a.latents, b.latents) for a, b in zip(own, other, strict=True))
    assert not np.array_equal(decode(refined, own), decode(plain, own))


@pytest.mark.parametrize("busy", [1, 100, 10**9], ids=["groups of 1", "groups of 2", "groups of 4"])
@pytest.mark.parametrize(
    "wanted",
    [range(1), range(1, 2), range(12, 14), range(20, 45), range(17, 18), range(30, 38), range(44, 45)],
)
def test_a_range_is_bit_identical_to_the_whole(refined, monkeypatch, busy, wanted):
    monkeypatch.setattr("cvvae_cli.engine.stream.BUSY_POSITIONS", busy)
    chunks = encode(refined, CLIP, worthless=120.0)
    whole = decode(refined, chunks)
    assert np.array_equal(decode(refined, chunks, wanted), whole[wanted.start : wanted.stop])
    given = what_reaches(refined, chunks, wanted)
    assert np.array_equal(decode(refined, given, wanted), whole[wanted.start : wanted.stop])


def test_a_part_needs_one_latent_frame_more_and_none_of_the_next_chunk(refined, plain, monkeypatch):
    monkeypatch.setattr("cvvae_cli.engine.stream.BUSY_POSITIONS", 1)
    size = (7, 9)
    for latent in range(12):
        is_seen = latent > 0 if refined.network.refiner.across else latent % 4 > 0
        assert refined.reaching(latent, *size) == plain.reaching(latent - is_seen, *size)
        assert refined.needed_until(latent) == latent + (latent % 4 > 0)


def test_only_the_first_latent_frame_of_a_chunk_learns_from_the_chunk_before(tiny):
    spec = tiny_spec(ACROSS)
    across, within = (Engine(spec, Weights(spec).build, CPU) for _ in range(2))
    within.network.refiner.across = False
    chunks = encode(across, CLIP)
    differs = (decode(across, chunks) != decode(within, chunks)).any(axis=(1, 2, 3))
    assert np.flatnonzero(differs).tolist() == [*range(13, 17), *range(29, 33)]


def test_a_mirror_that_learnt_of_a_chunk_lacks_what_one_that_decoded_it_does(refined):
    chunks = encode(refined, CLIP)
    whole, resumed = Mirror(refined, 50), Mirror(refined, 50)
    expected = [whole.of(chunk).lacking(chunk.latents).pictures for chunk in chunks]
    for chunk in chunks[:2]:
        resumed.learn(chunk)
    assert np.array_equal(resumed.of(chunks[2]).lacking(chunks[2].latents).pictures, expected[2])


def test_the_mirror_tells_how_many_latent_frames_follow(refined):
    period = refined.spec.period
    chunk = encode(refined, CLIP)[0]
    for frames, latents in ((1, 1), (13, 4), (29, 8), (33, 9)):  # so many frames, so many latent frames
        so_far = replace(chunk, frames=range(frames))
        of_period = -latents % period
        expected = {None: of_period, 100: of_period, 33: min(of_period, 9 - latents), frames: 0}
        expected[frames - 1] = of_period  # it was said wrongly
        for known, following in expected.items():
            assert Mirror(refined, 50, num_frames=known).following(so_far) == following, (frames, known)


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 13, 14, 17])
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (64, 40)])
def test_every_number_of_frames_and_every_size_comes_back(refined, frames, size):
    rgb = moving_picture(frames, *size)
    assert decode(refined, encode(refined, rgb), None, *size).shape == rgb.shape


@pytest.mark.parametrize("tile", [8, 16, 24, 40])
def test_tiles_with_halo_equal_the_whole_picture(refined, tile):
    tiled = Engine(refined.spec, Weights(refined.spec).build, CPU, EngineOptions(tile_pixels=tile))
    chunks = encode(refined, CLIP)
    difference = np.abs(decode(tiled, chunks).astype(int) - decode(refined, chunks))
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


def test_it_depends_on_the_level_and_latents_that_are_not_rounded_count_as_the_highest(refined):
    low, high, exact = (decode(refined, encode(refined, CLIP, level=level)) for level in (10, 100, None))
    assert not np.array_equal(low, high)
    assert np.array_equal(exact, high)


def test_the_mirror_lacks_what_is_lacking_after_refining(refined):
    chunks = encode(refined, CLIP)
    frames = decode(refined, chunks)
    mirror = Mirror(refined, 50)
    for chunk in chunks:
        lacks = mirror.of(replace(chunk, level=None)).lacking(chunk.latents)
        own = [CLIP[chunk.frames.start : chunk.frames.stop], frames[chunk.frames.start : chunk.frames.stop]]
        first = 1 if chunk.frames.start == 0 else 4
        source, decoded = (part[-4:].astype(float).mean(0) for part in own)
        seen = lacks.pictures[-1].transpose(1, 2, 0)[:56, :72]
        is_clear = (own[1][-4:] > 0).all(0) & (own[1][-4:] < 255).all(0)  # of the clipping to 8 bits
        assert np.abs(seen - (source - decoded))[is_clear].max() < 0.51
        assert lacks.counts[0] == first


def test_neighbours_are_moved_onto_a_picture_and_ends_have_one():
    rgb = torch.from_numpy(moving_picture(1, 96, 64)[0]).permute(2, 0, 1).float() / 127.5 - 1
    wide = torch.nn.functional.interpolate(rgb[None], scale_factor=2, mode="bicubic")
    picture, moved = wide[..., 8:-8, 8:-8], wide[..., 5:-11, 12:-4]
    there, back = ways_between(picture, moved)
    assert (there + back)[..., 16:-16, 16:-16].abs().mean() < 0.1
    differences, known = differences_of(picture, (moved, there), None)
    assert known.tolist() == [[1, 0]]
    assert not differences[:, 1].any()
    inner = slice(16, -16)
    left = differences[0, 0, :, inner, inner].square().mean()
    assert left < 0.1 * (moved - picture)[..., inner, inner].square().mean()
    assert differences_of(picture, None, None)[1].tolist() == [[0, 0]]


def test_numbers_that_are_none_are_refused(refined):
    refined.network.refiner.head.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="refining"):
        decode(refined, encode(refined, CLIP))


def test_a_file_is_decoded_the_same_in_parts_and_again_with_detail(refined, tmp_path, clip):
    path = tmp_path / "a.cvl"
    encode_file(clip, path, EncodeOptions(model=refined.spec.name, device="cpu", dtype="fp32", quality=8))
    weights = Weights(refined.spec)
    with open_cvl(path) as cvl:
        assert {chunk.level for chunk in read_latents(cvl, weights)} == {80}
        last = range(cvl.num_frames - 2, cvl.num_frames)
    assert_parts_are_those_of_the_whole(refined, path, (range(3), range(5, 7), last))
