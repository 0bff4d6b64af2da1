"""The blocks that models share. Tensors are (B, C, T, H, W), channels last in memory."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvvae_cli.models import winograd, winograd_gradient

Conv = TypeVar("Conv", bound=nn.Conv2d)
Memory = dict[nn.Module, Tensor]
"""What each causal convolution keeps of the past, so that a video can be fed piece by piece."""


def fold(video: Tensor, time: int, space: int) -> Tensor:
    """Move `time` frames of `space` x `space` pixels into channels.

    (B, C, T, H, W) → (B, time*C*space*space, T/time, H/space, W/space)
    """
    b, c, t, h, w = video.shape
    x = video.reshape(b, c, t // time, time, h // space, space, w // space, space)
    x = x.permute(0, 2, 4, 6, 3, 1, 5, 7)  # B t h w | time C y x: the fold ends up channels-last
    x = x.reshape(b, t // time, h // space, w // space, time * c * space * space)
    return x.permute(0, 4, 1, 2, 3)


def unfold(folded: Tensor, time: int, space: int) -> Tensor:
    """Undo `fold`: (B, time*C*space*space, t, h, w) → (B, C, t*time, h*space, w*space), channels last."""
    b, k, t, h, w = folded.shape
    c = k // (time * space * space)
    x = folded.permute(0, 2, 3, 4, 1).reshape(b, t, h, w, time, c, space, space)
    x = x.permute(0, 1, 4, 2, 6, 3, 7, 5)
    x = x.reshape(b, t * time, h * space, w * space, c)
    return x.permute(0, 4, 1, 2, 3)


class ChannelLinear(nn.Linear):
    """A linear map of the channels, alike at every position; in its weights' number type, autocast or not."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, H, W)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype).permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class SpatialConv(nn.Conv2d):
    """A 2D convolution of every frame, zero padded."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2)

    def of_swish(self, x: Tensor, *, overwrites: bool = False) -> Tensor:
        """The convolution of swish(x); it may be left where `x` was, if both are of the same shape."""
        if winograd.pays(x, self.weight, self.stride):
            return winograd.convolve(
                x, self.weight, self.bias, prepare=[swish] * len(x), overwrites=overwrites
            )
        return self(functional.silu(x))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, H, W)
        if winograd.pays(x, self.weight, self.stride):
            return winograd.convolve(x, self.weight, self.bias)
        if winograd_gradient.pays(x, self.weight, self.stride):
            return winograd_gradient.convolve(x, self.weight, self.bias)
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)  # a view: both are B T H W C in memory
        y = super().forward(frames)
        return y.reshape(b, t, *y.shape[1:]).transpose(1, 2)


class CausalConv(nn.Conv3d):
    """A convolution over `taps` frames, the present and those before, and 3x3 pixels; zero padded in space.

    Before the first frame it sees that frame again. With a `memory` it continues where the last call
    stopped, so a video gives the same numbers whole or in pieces.
    """

    def __init__(self, inputs: int, outputs: int, taps: int = 3) -> None:
        super().__init__(inputs, outputs, (taps, 3, 3), padding=(0, 1, 1))
        self.reach = taps - 1  # frames before the present one

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:  # (B, C, T, H, W)
        x = self.with_past(x, memory)
        if winograd.pays(x, self.weight):
            return winograd.convolve(x, self.weight, self.bias)
        if winograd_gradient.pays(x, self.weight):
            return winograd_gradient.convolve(x, self.weight, self.bias)
        return super().forward(x)

    def with_past(self, x: Tensor, memory: Memory | None) -> Tensor:
        """The frames before and `x`, the last of which are remembered: (B, C, reach + T, H, W)."""
        past = memory.get(self) if memory is not None else None
        if past is None:
            past = torch.cat([x[:, :, :1]] * self.reach, dim=2)
        x = torch.cat([past, x], dim=2)
        if memory is not None:
            memory[self] = x[:, :, -self.reach :].clone()  # a view would keep the whole piece alive
        return x


class SpatialBlock(nn.Module):
    """Residual block of two 2D convolutions; it starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = SpatialConv(channels, channels)
        self.conv2 = zero_init(SpatialConv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1.of_swish(x)
        return self.conv2.of_swish(y, overwrites=True).add_(x)


class HalfCausalBlock(nn.Module):
    """Residual block of one causal 3D and one 2D convolution ("half-3D"); it starts as the identity."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.conv1 = CausalConv(channels, channels, taps)
        self.conv2 = zero_init(SpatialConv(channels, channels))

    def prime(self, x: Tensor, memory: Memory) -> None:
        """Remember frames without computing anything of them."""
        self.conv1.with_past(functional.silu(x), memory)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        y = self.conv1(functional.silu(x), memory)
        return self.conv2.of_swish(y, overwrites=True).add_(x)


def swish(out: Tensor, x: Tensor) -> Tensor:
    """x * sigmoid(x), written to `out`."""
    result: Tensor = torch.ops.aten.silu.out(x, out=out)
    return result


def zero_init(conv: Conv) -> Conv:
    """Make a convolution give zero until it is trained."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
