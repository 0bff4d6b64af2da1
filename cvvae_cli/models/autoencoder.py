"""What every model is: a pair of functions between pixels and latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from cvvae_cli.models.layers import Memory
from cvvae_cli.models.refiner import Refiner


class VideoAutoencoder(nn.Module, ABC):
    """Video (B, 3, T, H, W) in [-1, 1] with T = 1 + 4n  ⇄  latents (B, C, t, h, w) with t = 1 + n."""

    @abstractmethod
    def encode(self, video: Tensor) -> Tensor:
        """Latents of a whole video: the mean, where the model has a distribution."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """The whole video of latents, not clamped."""

    def compute_in(self, dtype: torch.dtype) -> Self:
        """Use a number type wherever it does no harm; what goes in and comes out stays fp32."""
        return self.to(dtype)


class StreamingAutoencoder(VideoAutoencoder):
    """A model that gives the same numbers group by group as for the whole video.

    A group is `time_stride` frames and becomes one latent frame. The first group of a video is its
    first frame, repeated.
    """

    time_stride: int

    def __init__(self) -> None:
        super().__init__()
        self.refiner: Refiner | None = None  # of decoded pictures; the engine calls it
        self.joiner: Refiner | None = None  # of the frames where groups meet; the engine calls it too

    @abstractmethod
    def encode_groups(self, groups: Tensor, memory: Memory | None = None) -> Tensor:
        """(B, 3, time_stride*t, H, W) → latents (B, C, t, h, w), continuing from `memory`."""

    @abstractmethod
    def decode_groups(self, latents: Tensor, memory: Memory | None = None) -> Tensor:
        """(B, C, t, h, w) → (B, 3, time_stride*t, H, W), continuing from `memory`."""

    def prime_decode(self, latents: Tensor, memory: Memory, to_go: int) -> Tensor:
        """Bring `memory` to where `decode_groups` can go on, for less than decoding costs.

        `to_go` is the number of latent frames from the first of `latents` to the first that is wanted.
        Returns the last activations, for the caller to see that they are finite.
        """
        return self.decode_groups(latents, memory)

    def encode(self, video: Tensor) -> Tensor:
        first = video[:, :, :1].expand(-1, -1, self.time_stride - 1, -1, -1)
        return self.encode_groups(torch.cat([first, video], dim=2))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decode_groups(latents)[:, :, self.time_stride - 1 :]


class WindowedAutoencoder(VideoAutoencoder):
    """A model whose norms and attention see all of a window: its result depends on how a video was cut."""

    encoder: nn.Module
    decoder: nn.Module

    def encode_moments(self, video: Tensor) -> Tensor:
        """(B, 3, 1 + 4n, H, W) → mean and log-variance of the latents, (B, 2C, 1 + n, H/8, W/8)."""
        moments: Tensor = self.encoder(video.to(self.dtype))
        return moments.float()

    def encode(self, video: Tensor) -> Tensor:
        return self.encode_moments(video).chunk(2, dim=1)[0]

    def decode(self, latents: Tensor) -> Tensor:
        video: Tensor = self.decoder(latents.to(self.dtype))
        return video.float()

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, in which everything is computed."""
        return next(self.parameters()).dtype
