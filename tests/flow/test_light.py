"""Frames whose light changes are evened out, and dimmed again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import psnr, texture

from cvvae_cli.flow.light import LEAST_SHARE, ONE, WHOLE, dimmed, evened, find_light, stand_ins

HEIGHT, WIDTH = 96, 128


def film(frames, seed=0, speed=0):
    """A texture that pans, in levels of 255: (T, H, W, 3)."""
    whole = (texture(HEIGHT, WIDTH + speed * frames, seed, grain=16) + 1) * 127.5
    parts = [whole[:, :, speed * n : speed * n + WIDTH] for n in range(frames)]
    return torch.stack(parts).permute(0, 2, 3, 1).numpy()


def lit(frames, shares, offsets=0.0):
    shares, offsets = (np.broadcast_to(each, len(frames))[:, None, None, None] for each in (shares, offsets))
    return np.rint(frames * shares + offsets).clip(0, 255).astype(np.uint8)


def as_video(rgb):
    return torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)[None]


def as_evened(rgb, light):
    standing = stand_ins(light)
    return evened(as_video(rgb[standing]), light[standing])


@pytest.mark.parametrize("speed", [0, 2])
@pytest.mark.parametrize(
    ("shares", "offsets"),
    [
        ([1, 1, 1, 1, 0.4, 0.4] * 2 + [1], 0.0),
        (np.linspace(1, 0.5, 13), 0.0),
        (np.linspace(0.5, 1, 13), np.linspace(127, 0, 13)),
        (np.random.default_rng(0).uniform(0.7, 1, 13), 0.0),
        (np.ones(13), [0, 0, 0, -20, -20, 0, 0, 0, 0, 0, 0, -20, 0]),
    ],
    ids=["strobe", "fade out", "fade from white", "lamp", "darker by as much"],
)
def test_light_that_changes_is_found(shares, offsets, speed):
    frames = 60 + 0.5 * film(13, speed=speed)
    light = find_light(lit(frames, shares, offsets))
    assert light is not None
    found = light / ONE
    whole = int(np.argmax(found[:, 0]))
    share = np.broadcast_to(shares, 13) / shares[whole]
    offset = np.broadcast_to(offsets, 13) - share * np.broadcast_to(offsets, 13)[whole]
    levels = np.array([60.0, 185.0])  # what there is to see
    differ = found[:, :1] * levels + found[:, 1:] - (share[:, None] * levels + offset[:, None])
    assert np.abs(differ).max() < (2 if speed == 0 else 15)  # what comes into sight counts as light, too
    seen = as_evened(lit(frames, shares, offsets), light)
    assert torch.allclose(dimmed(seen, light), as_video(lit(frames, shares, offsets)), atol=1e-4)
    if speed == 0:
        assert (seen - seen[:, :, whole : whole + 1]).abs().mean() < 2 / 127.5


@pytest.mark.parametrize("speed", [0, 1, 7, 30])
def test_where_light_stays_nothing_is_found(speed):
    assert find_light(lit(film(16, speed=speed), 1.0)) is None
    noisy = film(16, speed=speed) + np.random.default_rng(0).normal(0, 6, (16, HEIGHT, WIDTH, 3))
    assert find_light(lit(noisy, 1.0)) is None


def test_neither_cuts_nor_what_comes_into_sight_are_light():
    cut = np.concatenate([film(7, seed=1), 40 + 0.3 * film(9, seed=2)])
    assert find_light(lit(cut, 1.0)) is None
    passing = 40 + 0.2 * film(16)
    for number in range(16):
        passing[number, 20:70, 6 * number : 6 * number + 30] = 250
    assert find_light(lit(passing, 1.0)) is None
    assert find_light(np.full((13, HEIGHT, WIDTH, 3), 90, np.uint8)) is None
    assert find_light(np.zeros((1, 1, 1, 3), np.uint8)) is None


def test_scenes_have_a_light_of_their_own():
    one, other = film(8, seed=1), 40 + 0.5 * film(8, seed=2)
    light = find_light(lit(np.concatenate([one, other]), [1.0] * 8 + [1, 0.5] * 4))
    assert light is not None
    assert (light[:8] == WHOLE).all()
    assert np.allclose(light[8:, 0] / ONE[0], [1, 0.5] * 4, atol=0.02)


def test_in_place_of_a_frame_too_dark_to_be_evened_stands_the_one_before():
    rgb = lit(film(13), [1, 1, 1, 0.5, 0.02, 0, 0, 0.5, 1, 1, 1, 1, 1])
    light = find_light(rgb)
    assert light is not None
    assert (light[4:7, 0] < LEAST_SHARE * ONE[0]).all()
    assert stand_ins(light).tolist() == [0, 1, 2, 3, 3, 3, 3, 7, 8, 9, 10, 11, 12]
    assert stand_ins(light[4:]).tolist() == [3, 3, 3, 3, 4, 5, 6, 7, 8]
    seen = as_evened(rgb, light)
    assert (seen - seen[:, :, :1]).abs().mean() < 2 / 127.5
    assert psnr(dimmed(seen, light), as_video(rgb)) > 45


def test_deep_sources_have_the_light_of_shallow_ones():
    rgb = lit(film(13), [1, 0.6] * 6 + [1])
    one, other = find_light(rgb), find_light(rgb.astype(np.uint16) * 257)
    assert one is not None
    assert other is not None
    assert np.array_equal(one, other)


def test_frames_of_full_light_are_left_as_they_are():
    video = 3 * torch.randn(1, 3, 4, 16, 16)
    assert dimmed(video, np.tile(WHOLE, (4, 1))) is video
