"""What both of the paper's networks are made of: half-3D residual blocks, attention, group normalisation.

Written from the paper's facts, without code of the authors. Tensors are (B, C, T, H, W), channels last in
memory, so that a frame is a 2D picture without a copy. Norms and attention see all of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32


@dataclass(frozen=True)
class Padding:
    """What a 3x3x3 convolution sees beyond the edges of its window."""

    front: int  # frames before the first
    back: int  # frames after the last
    time: Literal["replicate", "zeros"]
    space: Literal["replicate", "zeros"]


def as_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) → (B*T, C, H, W); a view of channels-last memory."""
    b, c, t, h, w = x.shape
    return x.transpose(1, 2).reshape(b * t, c, h, w)


def as_video(frames: Tensor, batch: int) -> Tensor:
    """Undo `as_frames`."""
    n, c, h, w = frames.shape
    return frames.reshape(batch, n // batch, c, h, w).transpose(1, 2)


class Norm(nn.GroupNorm):
    """Group normalisation of 32 groups, over time and space or over every frame by itself."""

    def __init__(self, channels: int, eps: float, *, is_per_frame: bool = False) -> None:
        super().__init__(GROUPS, channels, eps)
        self.is_per_frame = is_per_frame

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, H, W)
        b, c, t, h, w = x.shape
        if self.is_per_frame:
            return as_video(super().forward(as_frames(x)), b)
        flat = x.permute(0, 2, 3, 4, 1).reshape(b, t * h, w, c).permute(0, 3, 1, 2)  # the fast 4D kernel
        y = super().forward(flat)
        return y.permute(0, 2, 3, 1).reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)

    def swish(self, x: Tensor) -> Tensor:
        """Normalise, then x * sigmoid(x)."""
        return functional.silu(self(x), inplace=not torch.is_grad_enabled())


class Conv3d(nn.Conv3d):
    """A 3x3x3 convolution with a padding of its own; `stride` of time and of space."""

    def __init__(self, inputs: int, outputs: int, padding: Padding, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__(inputs, outputs, 3, (stride[0], stride[1], stride[1]))
        self.edges = padding

    def forward(self, x: Tensor) -> Tensor:
        edges = self.edges
        if edges.time == "replicate":
            parts = [x[:, :, :1]] * edges.front + [x] + [x[:, :, -1:]] * edges.back
            x = torch.cat(parts, dim=2)
        in_time = 0 if edges.time == "replicate" else edges.front
        if edges.space == "replicate":
            x = functional.pad(x, (1, 1, 1, 1, 0, 0), "replicate")
        in_space = 0 if edges.space == "replicate" else 1
        padding = (in_time, in_space, in_space)
        return functional.conv3d(x, self.weight, self.bias, self.stride, padding)


class FrameConv(nn.Conv2d):
    """A 2D convolution of every frame, zero padded."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, H, W)
        return as_video(super().forward(as_frames(x)), x.shape[0])


class HalfBlock(nn.Module):
    """Residual block of a 3D and a 2D convolution; `shortcut` is set where the channels change."""

    def __init__(self, inputs: int, outputs: int, padding: Padding, eps: float) -> None:
        super().__init__()
        self.norm1 = Norm(inputs, eps)
        self.conv1 = Conv3d(inputs, outputs, padding)
        self.norm2 = Norm(outputs, eps)
        self.conv2 = FrameConv(outputs, outputs)

    def shortcut(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.norm1.swish(x))
        y = self.conv2(self.norm2.swish(y))
        return y + self.shortcut(x) if torch.is_grad_enabled() else y.add_(self.shortcut(x))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Single-head attention of sequences (N, L, C)."""
    y = functional.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1))
    return y.squeeze(1)


def as_positions(x: Tensor) -> Tensor:
    """(B, C, T, H, W) → (B*T, H*W, C): every frame as a sequence; a view of channels-last memory."""
    b, c, t, h, w = x.shape
    return x.permute(0, 2, 3, 4, 1).reshape(b * t, h * w, c)


def from_positions(positions: Tensor, like: Tensor) -> Tensor:
    """Undo `as_positions`."""
    b, c, t, h, w = like.shape
    return positions.reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)


def upsample(x: Tensor) -> Tensor:
    """Nearest, twice as high and wide."""
    return as_video(functional.interpolate(as_frames(x), scale_factor=2, mode="nearest"), x.shape[0])


def double_time(x: Tensor) -> Tensor:
    """(B, 2C, T, H, W) → (B, C, 2T - 1, H, W): each frame becomes two, the very first is dropped."""
    b, c, t, h, w = x.shape
    x = x.permute(0, 2, 3, 4, 1).reshape(b, t, h, w, 2, c // 2)
    x = x.permute(0, 1, 4, 2, 3, 5).reshape(b, 2 * t, h, w, c // 2)
    return x[:, 1:].permute(0, 4, 1, 2, 3)


def channels_last(network: nn.Module) -> nn.Module:
    """Lay the weights out for the fast convolutions."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network
