"""Convolutions with gradients by minimal filtering, against those of torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.models import winograd_gradient
from cvvae_cli.models.compact import Compact, CompactConfig
from cvvae_cli.models.winograd_gradient import convolve, pays

CLOSE = 1e-5  # norm of the difference over norm


def directly(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    kernel = weight if weight.ndim == 5 else weight[:, :, None]
    return functional.conv3d(x, kernel, bias, padding=(0, 1, 1))


def difference(found: Tensor, exact: Tensor) -> float:
    assert found.shape == exact.shape
    return float((found.detach() - exact.detach()).norm() / exact.norm())


@pytest.mark.parametrize(("height", "width"), [(9, 14), (8, 4), (1, 3), (12, 17)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 3, 3), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_results_and_gradients_are_those_of_the_direct_convolution(height, width, kernel, has_bias):
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, height, width).contiguous(memory_format=torch.channels_last_3d)
    leaves = [x, torch.randn(24, 16, *kernel), *([torch.randn(24)] if has_bias else [])]
    found = [leaf.clone().requires_grad_() for leaf in leaves]
    exact = [leaf.double().requires_grad_() for leaf in leaves]
    results = convolve(*found, *[None] * (3 - len(leaves))), directly(*exact, *[None] * (3 - len(leaves)))
    gradient = torch.randn(results[0].shape)
    for result in results:
        result.backward(gradient.to(result.dtype))
    assert difference(*results) < CLOSE
    for one, other in zip(found, exact, strict=True):
        assert difference(one.grad, other.grad) < CLOSE


def test_a_network_learns_the_same_with_and_without_it(monkeypatch):
    """Losses and gradients of a whole network, at a size that is no multiple of a tile."""
    torch.manual_seed(0)
    network = Compact(CompactConfig(4, 64, 64, (1, 1), (1, 1))).channels_last()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    video, calls = torch.rand(1, 3, 9, 48, 40), []

    def gradients() -> list[Tensor]:
        network.zero_grad()
        network.decode(network.encode(video)).square().mean().backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    monkeypatch.setattr(winograd_gradient, "convolve", lambda *a: calls.append(1) or convolve(*a))
    fast = gradients()
    assert len(calls) > 8
    monkeypatch.setattr(winograd_gradient, "pays", lambda *_: False)
    assert max(difference(a, b) for a, b in zip(fast, gradients(), strict=True)) < 1e-4


def test_it_is_for_gradients_in_float32_on_cpus_alone():
    x, weight = torch.randn(1, 64, 1, 8, 8), torch.randn(64, 64, 3, 3)
    assert pays(x, weight)
    with torch.no_grad():
        assert not pays(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(x, weight)
    assert not pays(x, weight, (2, 2))
    assert not pays(x, weight[:32])
    assert not pays(x.bfloat16(), weight.bfloat16())
