"""What both of the paper's networks are made of: half-3D residual blocks, attention, group normalisation.

Written from the paper's facts, without code of the authors. Tensors are (B, C, T, H, W), channels last in
memory, so that a frame is a 2D picture without a copy. Norms and attention see all of the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32
PIECE = 4096  # positions that are normalised at a time, so that they stay in the cache


@dataclass(frozen=True)
class Padding:
    """What a 3x3x3 convolution sees beyond the edges of its window."""

    front: int  # frames before the first
    back: int  # frames after the last
    time: Literal["replicate", "zeros"]
    space: Literal["replicate", "zeros"]

    @property
    def needs_buffer(self) -> bool:
        """Whether anything is replicated, which zeros of the convolution cannot stand for."""
        return "replicate" in (self.time, self.space)

    def around(self, x: Tensor) -> Tensor:
        """`x` with what is replicated; zeros are left to the convolution."""
        if self.time == "replicate":
            x = torch.cat([x[:, :, :1]] * self.front + [x] + [x[:, :, -1:]] * self.back, dim=2)
        if self.space == "replicate":
            x = functional.pad(x, (1, 1, 1, 1, 0, 0), "replicate")
        return x

    def buffer_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Memory for `x` and its replicated edges, and the view of it where `x` belongs."""
        front, back = (self.front, self.back) if self.time == "replicate" else (0, 0)
        side = 1 if self.space == "replicate" else 0
        b, c, t, h, w = x.shape
        buffer = x.new_empty((b, t + front + back, h + 2 * side, w + 2 * side, c)).permute(0, 4, 1, 2, 3)
        inside = buffer[:, :, front : front + t, side : side + h, side : side + w]
        return buffer, inside

    def filled(self, buffer: Tensor) -> Tensor:
        """The buffer, once `x` is in it, with its edges."""
        if self.space == "replicate":
            buffer[:, :, :, 0], buffer[:, :, :, -1] = buffer[:, :, :, 1], buffer[:, :, :, -2]
            buffer[..., 0], buffer[..., -1] = buffer[..., 1], buffer[..., -2]
        if self.time == "replicate":
            buffer[:, :, : self.front] = buffer[:, :, self.front : self.front + 1]
            if self.back:
                buffer[:, :, -self.back :] = buffer[:, :, -self.back - 1 : -self.back]
        return buffer


def is_plain(x: Tensor) -> bool:
    """Whether layers run one after the other and reuse no memory: in training, on a GPU, or compiled."""
    return torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling()


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

    def swish_into(self, x: Tensor, out: Tensor) -> Tensor:
        """Normalise and x * sigmoid(x), written into `out`, which may be `x` itself; no copy is made.

        Statistics are gathered over all of `x` first, in pieces that stay in the cache, and then applied.
        """
        scale, shift = self.scale_and_shift(x)
        for sample in range(len(x)):
            for frame, target in zip(x[sample].unbind(1), out[sample].unbind(1), strict=True):
                rows = max(1, PIECE // frame.shape[2])
                for a, o in zip(torch.split(frame, rows, 1), torch.split(target, rows, 1), strict=True):
                    y = torch.addcmul(shift[sample], a, scale[sample])
                    torch.ops.aten.silu.out(y, out=o)
        return out

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the statistics and weights come to for each channel, (B, C, 1, 1) each."""
        b, c, t, h, w = x.shape
        rows = x.permute(0, 2, 3, 4, 1).reshape(b, t * h * w, c)
        center = rows[:, :1].float()  # near the mean, so that squares lose no digits
        ones = torch.ones(1, PIECE, device=x.device)
        sums = torch.zeros(2, b, c, dtype=torch.float64, device=x.device)
        for sample in range(b):
            for piece in torch.split(rows[sample], PIECE):
                difference = piece.float() - center[sample]
                one = ones[:, : len(difference)]
                sums[0, sample] += (one @ difference)[0]
                sums[1, sample] += (one @ difference.square_())[0]
        first, second = sums / (t * h * w)
        mean = first + center[:, 0].double()
        grouped = mean.view(b, GROUPS, -1)
        group_mean = grouped.mean(2, keepdim=True)
        variance = (second - first**2).view(b, GROUPS, -1).mean(2) + (grouped - group_mean).square().mean(2)
        reciprocal = (variance + self.eps).rsqrt().repeat_interleave(c // GROUPS, dim=1)
        scale = self.weight.double() * reciprocal
        shift = self.bias.double() - group_mean.expand_as(grouped).reshape(b, c) * scale
        return scale.to(x.dtype)[:, :, None, None], shift.to(x.dtype)[:, :, None, None]


class Conv3d(nn.Conv3d):
    """A 3x3x3 convolution with a padding of its own; `stride` of time and of space."""

    def __init__(self, inputs: int, outputs: int, padding: Padding, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__(inputs, outputs, 3, (stride[0], stride[1], stride[1]))
        self.edges = padding
        self.band_rows: int | None = None  # of the result, computed at a time; None: all

    def forward(self, x: Tensor) -> Tensor:
        return self.of_padded(self.edges.around(x))

    def of_normed_swish(self, norm: Norm, x: Tensor, *, may_overwrite: bool = False) -> Tensor:
        """The convolution of swish(norm(x)), written straight to where its padding lies around it."""
        if is_plain(x):
            return self(functional.silu(norm(x)))
        if may_overwrite and not self.edges.needs_buffer:
            return self.of_padded(norm.swish_into(x, x))
        buffer, inside = self.edges.buffer_for(x)
        norm.swish_into(x, inside)
        return self.of_padded(self.edges.filled(buffer))

    def of_padded(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """The convolution of what has its replicated edges already."""
        edges = self.edges
        in_time = edges.front if edges.time == "zeros" else 0
        in_space = 1 if edges.space == "zeros" else 0
        weight, bias = (self.weight, self.bias) if weight is None else (weight, bias)
        rows = (x.shape[3] + 2 * in_space - weight.shape[3]) // self.stride[1] + 1
        if self.band_rows is None or rows <= self.band_rows or torch.is_grad_enabled():
            return functional.conv3d(x, weight, bias, self.stride, (in_time, in_space, in_space))
        bands = []
        for first in range(0, rows, self.band_rows):
            last = min(first + self.band_rows, rows) - 1
            top = first * self.stride[1] - in_space  # of the input, may lie in the padding
            bottom = last * self.stride[1] - in_space + weight.shape[3]
            band = x[:, :, :, max(top, 0) : min(bottom, x.shape[3])]
            band = functional.pad(band, (0, 0, max(-top, 0), max(bottom - x.shape[3], 0)))
            bands.append(functional.conv3d(band, weight, bias, self.stride, (in_time, 0, in_space)))
        return torch.cat(bands, dim=3)


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
        """In inference `x` may be overwritten."""
        if is_plain(x):
            y = self.conv1(functional.silu(self.norm1(x)))
            return self.conv2(functional.silu(self.norm2(y))) + self.shortcut(x)
        shortcut = self.shortcut(x)
        y = self.conv1.of_normed_swish(self.norm1, x, may_overwrite=shortcut is not x)
        return self.conv2(self.norm2.swish_into(y, y)).add_(shortcut)


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


class UpsamplingConv(Conv3d):
    """Nearest upsampling, twice as high and wide, and the convolution of that, without ever making it.

    An output pixel sees the same source pixel twice or thrice, so that the kernel's rows and columns add up
    to 2x2, one kernel for each parity of row and column: 4/9 of the multiplications.
    """

    def __init__(self, channels: int, padding: Padding, *, doubles_time: bool) -> None:
        super().__init__(channels, channels * (2 if doubles_time else 1), padding)
        self.repeats = 2 if doubles_time else 1  # frames that an input frame becomes

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, H, W) → (B, C, T or 2T - 1, 2H, 2W)
        b, c, t, h, w = x.shape
        x = self.edges.around(x)
        out = x.new_empty((b, t, self.repeats, h, 2, w, 2, c))
        assert self.bias is not None
        for down, rows in enumerate(merged(self.weight, 3)):
            for right, kernel in enumerate(merged(rows, 4)):
                layout = kernel.contiguous(memory_format=torch.channels_last_3d)
                y = self.of_padded(x, layout, self.bias)  # (B, repeats*C, T, H + 1, W + 1)
                y = y[:, :, :, down : h + down, right : w + right].permute(0, 2, 3, 4, 1)
                y = y.reshape(b, t, h, w, self.repeats, c).permute(0, 1, 4, 2, 3, 5)
                out[:, :, :, :, down, :, right] = y
        out = out.reshape(b, t * self.repeats, 2 * h, 2 * w, c)
        return out[:, self.repeats - 1 :].permute(0, 4, 1, 2, 3)  # of two for the first, one is dropped


def merged(kernel: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """A kernel of three taps for each parity of what was doubled along an axis: two taps of the source."""
    first, second, third = kernel.unbind(axis)
    return torch.stack([first, second + third], axis), torch.stack([first + second, third], axis)


def in_bands(network: nn.Module, rows: int | None) -> None:
    """Let the 3D convolutions compute so many rows at a time: less memory, the same result."""
    for module in network.modules():
        if isinstance(module, Conv3d):
            module.band_rows = rows


def known_fields(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that a configuration class has; lists become tuples."""
    names = {field.name for field in fields(config)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names}


def channels_last(network: nn.Module) -> nn.Module:
    """Lay the weights out for the fast convolutions."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network
