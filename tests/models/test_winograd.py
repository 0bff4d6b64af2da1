"""Winograd convolutions against direct ones in float64, at every kind of edge, and in whole networks."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.models import winograd
from cvvae_cli.models.compact import Compact, CompactConfig
from cvvae_cli.models.cvvae_sd3 import CvVaeSd3, Sd3Config
from cvvae_cli.models.cvvae_sd21 import CvVaeSd21, Sd21Config
from cvvae_cli.models.winograd import Reach, convolve, convolve_into, pays

CLOSE = 1e-5  # norm of the difference over norm


@pytest.fixture(autouse=True)
def short_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small pictures have several."""
    monkeypatch.setattr(winograd, "TILES_PER_THREAD", 1)
    monkeypatch.setattr(winograd, "FEWEST_POSITIONS", 1)


def difference(y: Tensor, exact: Tensor) -> float:
    assert y.shape == exact.shape
    return float((y - exact).norm() / exact.norm())


def directly(x: Tensor, weight: Tensor, bias: Tensor | None, reach: Reach) -> Tensor:
    """In float64, from an input that has its edges."""
    size = weight.shape[-1]
    kernel = weight if weight.ndim == 5 else weight[:, :, None]
    around = (reach.left, size - 1 - reach.left, reach.above, size - 1 - reach.above)
    x = x.double()
    x = functional.pad(x, (*around, 0, 0), "replicate" if reach.repeats_space else "constant")
    x = functional.pad(
        x, (0, 0, 0, 0, reach.front, reach.back), "replicate" if reach.repeats_time else "constant"
    )
    return functional.conv3d(x, kernel.double(), None if bias is None else bias.double())


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last_3d)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(9, 14), (8, 4), (1, 3), (13, 21)])
@pytest.mark.parametrize(("front", "back"), [(2, 0), (1, 1), (0, 0)])
@pytest.mark.parametrize("is_repeated", list(product([False, True], repeat=2)), ids=str)
def test_it_is_the_direct_convolution(height, width, front, back, is_repeated):
    torch.manual_seed(0)
    reach = Reach(front, back, repeats_time=is_repeated[0], repeats_space=is_repeated[1])
    x, weight, bias = channels_last(2, 16, 3, height, width), channels_last(24, 16, 3, 3, 3), torch.randn(24)
    assert difference(convolve(x, weight, bias, reach), directly(x, weight, bias, reach)) < CLOSE


@torch.no_grad()
@pytest.mark.parametrize(("above", "left"), list(product([0, 1], repeat=2)))
def test_kernels_of_two(above, left):
    torch.manual_seed(0)
    reach = Reach(1, 1, above, left, repeats_space=True)
    x, weight = channels_last(1, 16, 2, 9, 10), channels_last(24, 16, 3, 2, 2)
    out = torch.empty(1, 2, 9, 10, 2, 12)  # the channels in two parts
    convolve_into(out, x.permute(0, 2, 3, 4, 1), weight, None, reach)
    exact = directly(x, weight, None, reach)
    assert difference(out.flatten(4).permute(0, 4, 1, 2, 3), exact) < CLOSE


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 3])
def test_a_result_may_lie_over_its_input_and_is_the_same_to_the_bit(taps):
    torch.manual_seed(0)
    reach = Reach(1, 1) if taps == 3 else Reach()
    x, weight, bias = channels_last(2, 16, 4, 18, 11), channels_last(16, 16, taps, 3, 3), torch.randn(16)
    apart = convolve(x, weight, bias, reach)
    over = convolve(x, weight, bias, reach, overwrites=True)
    assert over.data_ptr() == x.data_ptr()
    assert torch.equal(over, apart)


@torch.no_grad()
def test_what_prepares_runs_before_the_edges():
    torch.manual_seed(0)
    x, weight = channels_last(1, 16, 1, 9, 9), channels_last(16, 16, 1, 3, 3)
    y = convolve(x, weight, None, prepare=[lambda out, part: out.copy_(part + 1)])
    assert difference(y, directly(x + 1, weight, None, Reach())) < CLOSE


@torch.no_grad()
def test_a_kept_kernel_follows_its_weights():
    torch.manual_seed(0)
    x, weight = channels_last(1, 16, 1, 9, 9), torch.randn(16, 16, 3, 3)
    first = convolve(x, weight, None)
    assert winograd.transformed(weight) is winograd.transformed(weight)
    weight.mul_(2)
    assert difference(convolve(x, weight, None), first * 2) < CLOSE


def test_where_it_is_used():
    x, weight = torch.zeros(1, 64, 1, 8, 8), torch.zeros(64, 64, 3, 3)
    assert not pays(x, weight)  # has a gradient
    with torch.no_grad():
        assert pays(x, weight)
        assert not pays(x, weight, (2, 2))
        assert not pays(x, torch.zeros(64, 64, 1, 1))
        assert not pays(x[:, :63], weight[:, :63])
        assert not pays(x.bfloat16(), weight.bfloat16())
        with torch.autocast("cpu"):
            assert not pays(x, weight)


@torch.no_grad()
def test_large_kernels_need_many_positions(monkeypatch):
    monkeypatch.setattr(winograd, "LARGEST_KEPT", 0)
    monkeypatch.setattr(winograd, "FEWEST_POSITIONS", 65)
    x, weight = torch.zeros(1, 64, 1, 8, 8), torch.zeros(64, 64, 3, 3)
    assert not pays(x, weight)
    assert pays(torch.cat([x, x], dim=2), weight)


NETWORKS = {
    "compact": lambda: Compact(CompactConfig(fine_channels=64, coarse_channels=64)),
    "cvvae-sd21": lambda: CvVaeSd21(Sd21Config(ch=64, ch_mult=(1, 1, 2, 2), num_res_blocks=1)),
    "cvvae-sd3": lambda: CvVaeSd3(Sd3Config(block_out_channels=(64, 64, 128, 128), layers_per_block=1)),
}


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_what_they_give_without_it(name, monkeypatch):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for parameter in network.parameters():
        if not parameter.any():  # layers that start at zero
            parameter.normal_(std=0.02)
    video = torch.rand(2, 3, 5, 40, 48) * 2 - 1
    calls = []
    monkeypatch.setattr(winograd, "convolve_into", counted(winograd.convolve_into, calls))
    latents = network.encode(video)
    of_encoding = len(calls)
    decoded = network.decode(latents)
    assert 0 < of_encoding < len(calls)
    monkeypatch.setattr(winograd, "pays", lambda *_: False)
    assert difference(latents, network.encode(video)) < CLOSE
    assert difference(decoded, network.decode(latents)) < CLOSE


def counted(function, calls):
    def call(*arguments, **options):
        calls.append(function)
        return function(*arguments, **options)

    return call
