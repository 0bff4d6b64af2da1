"""`linear`: the patch transform of `compact` alone, principal components without a network.

The least that a learned codec must beat, and a baseline of the bench. Nothing is remembered, so a group
depends on itself alone.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from cvvae_cli.models.autoencoder import StreamingAutoencoder
from cvvae_cli.models.compact import COARSE, PATCH, TIME
from cvvae_cli.models.layers import ChannelLinear, Memory, fold, unfold


class Linear(StreamingAutoencoder):
    """4x8x8 patches ⇄ their coordinates along the strongest components."""

    time_stride = TIME

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.linear_encode = ChannelLinear(PATCH, latent_channels)
        self.linear_decode = ChannelLinear(latent_channels, PATCH)

    def compute_in(self, dtype: torch.dtype) -> Self:
        """Stays in fp32: latents reach dozens of steps, which bf16 would round by a quarter of a step."""
        return self

    def encode_groups(self, groups: Tensor, memory: Memory | None = None) -> Tensor:
        return self.linear_encode(fold(groups, TIME, COARSE))  # (B, 3, 4t, 8h, 8w) → (B, C, t, h, w)

    def decode_groups(self, latents: Tensor, memory: Memory | None = None) -> Tensor:
        return unfold(self.linear_decode(latents), TIME, COARSE)
