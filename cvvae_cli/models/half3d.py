"""What both of the paper's networks are made of: half-3D residual blocks, attention, group normalisation.

Written from the paper's facts, without code of the authors. Tensors are (B, C, T, H, W), channels last in
memory, so that a frame is a 2D picture without a copy. Norms and attention see all of the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvvae_cli.models import winograd

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
    def reach(self) -> winograd.Reach:
        """The same, for convolutions that pad as they go."""
        times, spaces = (kind == "replicate" for kind in (self.time, self.space))
        return winograd.Reach(self.front, self.back, repeats_time=times, repeats_space=spaces)

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
        rows = max(1, PIECE // x.shape[4])
        samples, targets = (y.permute(0, 2, 3, 4, 1) for y in (x, out))
        for sample, target, write in zip(samples, targets, self.swish(x), strict=True):
            for frame, result in zip(sample, target, strict=True):  # (H, W, C)
                for a, o in zip(torch.split(frame, rows), torch.split(result, rows), strict=True):
                    write(o, a)
        return out

    def swish(self, x: Tensor) -> list[winograd.Prepare]:
        """For each sample what writes swish of it normalised, by rows of a frame (H, W, C)."""

        def writing(scale: Tensor, shift: Tensor) -> winograd.Prepare:
            def write(out: Tensor, part: Tensor) -> None:
                torch.addcmul(shift, part, scale, out=out)
                functional.silu(out, inplace=True)

            return write

        return [writing(*self.scale_and_shift(sample)) for sample in x]

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the statistics of a sample (C, T, H, W) and the weights come to, (C,) each."""
        c, t, h, w = x.shape
        rows = x.permute(1, 2, 3, 0).reshape(t * h * w, c)
        center = rows[:1].float()  # near the mean, so that squares lose no digits
        ones = torch.ones(1, PIECE, device=x.device)
        sums = torch.zeros(2, c, dtype=torch.float64, device=x.device)
        differences = torch.empty(PIECE, c, device=x.device)
        for piece in torch.split(rows, PIECE):
            difference = torch.sub(piece, center, out=differences[: len(piece)])
            one = ones[:, : len(difference)]
            sums[0] += (one @ difference)[0]
            sums[1] += (one @ difference.square_())[0]
        first, second = sums / (t * h * w)
        grouped = (first + center[0].double()).view(GROUPS, -1)
        group_mean = grouped.mean(1, keepdim=True)
        variance = (second - first**2).view(GROUPS, -1).mean(1) + (grouped - group_mean).square().mean(1)
        reciprocal = (variance + self.eps).rsqrt().repeat_interleave(c // GROUPS)
        scale = self.weight.double() * reciprocal
        shift = self.bias.double() - group_mean.expand_as(grouped).reshape(c) * scale
        return scale.to(x.dtype), shift.to(x.dtype)


class Conv3d(nn.Conv3d):
    """A 3x3x3 convolution with a padding of its own; `stride` of time and of space."""

    def __init__(self, inputs: int, outputs: int, padding: Padding, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__(inputs, outputs, 3, (stride[0], stride[1], stride[1]))
        self.edges = padding
        self.band_rows: int | None = None  # of the result, computed at a time; None: all

    def forward(self, x: Tensor) -> Tensor:
        if winograd.pays(x, self.weight, self.stride):
            return winograd.convolve(x, self.weight, self.bias, self.edges.reach)
        return self.of_padded(self.edges.around(x))

    def of_normed_swish(self, norm: Norm, x: Tensor) -> Tensor:
        """The convolution of swish(norm(x)), written straight to where its padding lies around it."""
        if is_plain(x):
            return self(functional.silu(norm(x)))
        if winograd.pays(x, self.weight, self.stride):
            return winograd.convolve(x, self.weight, self.bias, self.edges.reach, prepare=norm.swish(x))
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

    def over_normed_swish(self, norm: Norm, x: Tensor) -> Tensor:
        """The convolution of swish(norm(x)), as many channels, in inference; `x` is overwritten."""
        if winograd.pays(x, self.weight):
            return winograd.convolve(x, self.weight, self.bias, prepare=norm.swish(x), overwrites=True)
        return self(norm.swish_into(x, x))


class HalfBlock(nn.Module):
    """Residual block of a 3D and a 2D convolution; the shortcut is 1x1 where the channels change."""

    def __init__(self, inputs: int, outputs: int, padding: Padding, eps: float) -> None:
        super().__init__()
        self.norm1 = Norm(inputs, eps)
        self.conv1 = Conv3d(inputs, outputs, padding)
        self.norm2 = Norm(outputs, eps)
        self.conv2 = FrameConv(outputs, outputs)

    @property
    def projection(self) -> nn.Conv2d | nn.Conv3d | None:
        """The 1x1 convolution of the shortcut."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if is_plain(x):
            y = self.conv1(functional.silu(self.norm1(x)))
            y = self.conv2(functional.silu(self.norm2(y)))
            return y + (x if self.projection is None else self.projection(x))
        y = self.conv1.of_normed_swish(self.norm1, x)
        y = self.conv2.over_normed_swish(self.norm2, y)
        return y.add_(x) if self.projection is None else add_projection(y, x, self.projection)


def add_projection(y: Tensor, x: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Add a 1x1 convolution of `x` to `y`, frame by frame, in place."""
    weight = conv.weight.flatten(1).T
    for sums, frames in zip(y, x, strict=True):
        for total, frame in zip(sums.permute(1, 2, 3, 0), frames.permute(1, 2, 3, 0), strict=True):
            total.view(-1, len(conv.weight)).add_(conv.bias).addmm_(frame.reshape(-1, len(weight)), weight)
    return y


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
        padded = None if winograd.pays(x, self.weight) else self.edges.around(x)
        out = x.new_empty((b, t, self.repeats, h, 2, w, 2, c))
        assert self.bias is not None
        for down, rows in enumerate(merged(self.weight, 3)):
            for right, kernel in enumerate(merged(rows, 4)):
                target = out[:, :, :, :, down, :, right].permute(0, 1, 3, 4, 2, 5)  # (B, T, H, W, repeats, C)
                if padded is None:
                    reach = replace(self.edges.reach, above=1 - down, left=1 - right)
                    winograd.convolve_into(target, x.permute(0, 2, 3, 4, 1), kernel, self.bias, reach)
                    continue
                layout = kernel.contiguous(memory_format=torch.channels_last_3d)
                y = self.of_padded(padded, layout, self.bias)  # (B, repeats*C, T, H + 1, W + 1)
                y = y[:, :, :, down : h + down, right : w + right].permute(0, 2, 3, 4, 1)
                target.copy_(y.reshape(target.shape))
        out = out.reshape(b, t * self.repeats, 2 * h, 2 * w, c)
        return out[:, self.repeats - 1 :].permute(0, 4, 1, 2, 3)  # of two for the first, one is dropped


def merged(kernel: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """A kernel of three taps for each parity of what was doubled along an axis: two taps of the source."""
    first, second, third = kernel.unbind(axis)
    return torch.stack([first, second + third], axis), torch.stack([first + second, third], axis)


def layers_of(stages: Iterable[Any]) -> Iterator[nn.Module]:
    """The layers of stages, for a loop that keeps no more than the input of one."""
    for stage in stages:
        yield from stage.layers()


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
