"""Dense motion between decoded pictures."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from cvvae_cli.flow.field import moved
from cvvae_cli.flow.follow import back_from, follow


def texture(height, width, seed=0):
    """Brightness (1, 1, H, W) in [0, 255], with structure at many scales."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 1, height, width)
    for cells in (4, 9, 20, 45):
        noise = torch.randn(1, 1, cells, cells, generator=generator)
        total += functional.interpolate(noise, (height, width), mode="bicubic") * 60 / cells**0.5
    return (total + 128).clamp(0, 255)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, -2), (0.5, 1.25), (-14, 21)])
def test_a_steady_motion_is_found_to_a_fraction_of_a_pixel(down, right):
    source = texture(160, 224)
    way = torch.tensor([down, right], dtype=torch.float32).view(1, 2, 1, 1)
    target = moved(source, way.expand(1, 2, 160, 224))
    flow = follow(target, source)
    assert flow.shape == (1, 2, 160, 224)
    inner = (flow - way)[..., 32:-32, 32:-32]
    assert inner.abs().mean() < 0.1
    assert inner.abs().amax() < 1


def test_what_moves_before_what_rests_is_followed_and_what_rests_stays():
    back, front = texture(160, 224), texture(160, 224, seed=1)
    source, target = back.clone(), back.clone()
    source[..., 48:96, 40:104] = front[..., 48:96, 40:104]
    target[..., 48:96, 48:112] = front[..., 48:96, 40:104]
    flow = follow(target, source)
    inside = flow[..., 60:84, 62:98]
    assert (inside[:, 1] + 8).abs().mean() < 1
    assert flow[..., 120:, :].abs().mean() < 0.2
    left = (moved(source, flow) - target).square().mean()
    assert left < 0.3 * (source - target).square().mean()


@pytest.mark.parametrize("size", [(8, 8), (16, 200), (61, 47)])
def test_any_size_is_followed(size):
    picture = texture(*size)
    flow = follow(picture, picture)
    assert flow.shape == (1, 2, *size)
    assert torch.isfinite(flow).all()
    assert flow.abs().mean() < 0.1


def test_pictures_without_any_slope_do_not_move():
    flat = torch.full((2, 1, 64, 64), 90.0)
    assert follow(flat, flat + 40).abs().max() < 1e-3


def test_a_pair_does_not_depend_on_what_else_is_in_the_batch():
    pictures = torch.cat([texture(96, 128, seed) for seed in range(3)])
    alone = follow(pictures[:1], pictures[1:2])
    together = follow(pictures[:2], pictures[1:])
    assert np.allclose(alone[0], together[0], atol=1e-3)


def test_the_way_back_undoes_the_way():
    source = texture(160, 224)
    waves = torch.sin(torch.arange(224) / 30).expand(1, 2, 160, 224) * 5
    target = moved(source, waves)
    back = back_from(waves)
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    left = (moved(target, back) - source)[inner].square().mean()
    assert left < 0.02 * (target - source)[inner].square().mean()
    assert back_from(torch.zeros(1, 2, 61, 47)).shape == (1, 2, 61, 47)
