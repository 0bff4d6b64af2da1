"""The objective: distortion of rounded latents, and the rate that a float prior estimates for them.

The prior here only shapes the latents. Files are coded with integer tables fitted afterwards
(train/tables.py), because a float network does not give the same numbers on every machine.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvvae_cli.models.layers import SpatialConv, zero_init
from cvvae_cli.train.config import ObjectiveSection

LATENT_SCALE = 4.0  # brings latents to the order of one for the prior's convolutions
MIN_LIKELIHOOD = 1e-6
MIN_SCALE = 0.02


class TemporalPrior(nn.Module):
    """Mean and scale of each latent from the two latent frames before it; of the first, per channel."""

    def __init__(self, latent_channels: int, width: int = 64) -> None:
        super().__init__()
        self.conv1 = SpatialConv(2 * latent_channels, width)
        self.conv2 = SpatialConv(width, width)
        self.head = zero_init(SpatialConv(width, 2 * latent_channels))
        self.first_mean = nn.Parameter(torch.zeros(latent_channels))
        self.first_scale = nn.Parameter(torch.full((latent_channels,), 2.0))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:  # (B, C, t, h, w) twice
        before = latents[:, :, :-1]
        earlier = torch.cat([latents[:, :, :1], latents[:, :, :-2]], dim=2)[:, :, : before.shape[2]]
        x = torch.cat([before, before - earlier], dim=1) / LATENT_SCALE
        x = self.conv2(functional.silu(self.conv1(x)))
        change, scale = self.head(functional.silu(x)).float().chunk(2, dim=1)
        shape = (latents.shape[0], -1, 1, *latents.shape[3:])
        first_mean = self.first_mean.view(1, -1, 1, 1, 1).expand(shape)
        first_scale = self.first_scale.view(1, -1, 1, 1, 1).expand(shape)
        return (
            torch.cat([first_mean, before + LATENT_SCALE * change], dim=2),
            torch.cat([first_scale, scale + 1], dim=2),
        )


def logistic_bits(values: Tensor, mean: Tensor, raw_scale: Tensor) -> Tensor:
    """Bits of each integer under a logistic distribution integrated over a unit interval."""
    scale = functional.softplus(raw_scale) + MIN_SCALE
    upper = torch.sigmoid((values + 0.5 - mean) / scale)
    lower = torch.sigmoid((values - 0.5 - mean) / scale)
    return -torch.log2((upper - lower).clamp_min(MIN_LIKELIHOOD))


def add_noise(latents: Tensor) -> Tensor:
    """What rounding does to the rate, made differentiable: uniform noise of one step."""
    return latents + torch.rand_like(latents) - 0.5


def round_through(latents: Tensor) -> Tensor:
    """Rounded, with the gradient of the identity."""
    return latents + (latents.round() - latents).detach()


def share_of_first(first: Tensor, others: Tensor, count: int) -> Tensor:
    """Mean over `count` items of which one is `first` and the rest are like `others`."""
    return (first.mean() + (count - 1) * others.mean()) / count if others.numel() else first.mean()


def rate_distortion(
    video: Tensor, decoded: Tensor, bits: Tensor, objective: ObjectiveSection
) -> tuple[Tensor, Tensor]:
    """Bits per pixel, and MSE of pixels in [0, 1], of a clip of `objective.clip_frames` frames.

    Training clips are short, so their first frame is weighted down to the share it has in real ones.
    video and decoded are (B, 3, T, H, W) in [-1, 1]; bits are (B, C, t, h, w).
    """
    frames, t = objective.clip_frames, bits.shape[2]
    pixels_per_latent = video.shape[3] * video.shape[4] / (bits.shape[3] * bits.shape[4])
    per_position = bits.sum(1) / pixels_per_latent  # bits of a latent frame per pixel of a video frame
    first, others = per_position[:, 0].mean(), per_position[:, 1:]
    rate = (first + (frames - 1) / 4 * (others.mean() if t > 1 else first)) / frames
    error = (video - decoded.float()).square() / 4
    return rate, share_of_first(error[:, :, :1], error[:, :, 1:], frames)
