"""A 3D PatchGAN: judges patches of a clip as real or decoded (hinge loss, Esser et al. 2021)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (32, 64, 128)
GROUPS = 8
LARGEST_WEIGHT = 1e4


class PatchCritic(nn.Module):
    """Clips (B, 3, T, H, W) in [-1, 1] → a verdict per patch, (B, 1, T', H', W'); real is positive.

    Normalised by sample, so that a sample's verdict does not depend on the batch; any number of frames.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, widths[0]), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers += [conv(before, after), nn.GroupNorm(GROUPS, after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, 3, padding=1))

    def forward(self, clips: Tensor) -> Tensor:
        verdict: Tensor = self.layers(clips)
        return verdict


def conv(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, (3, 4, 4), stride=(1, 2, 2), padding=1)


def hinge(real: Tensor, decoded: Tensor) -> Tensor:
    """The critic's loss on its verdicts."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + decoded).mean())


def adaptive_weight(loss: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """What makes both losses pull equally hard at the decoder's last layer (Esser et al. 2021)."""
    (own,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
    (other,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (own.norm() / (other.norm() + 1e-4)).clamp(0, LARGEST_WEIGHT).detach()
