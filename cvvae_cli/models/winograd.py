"""3x3 and 2x2 convolutions with a quarter to two fifths of the multiplications, for inference on CPUs.

Winograd's minimal filtering (Lavin & Gray 2015, arXiv 1509.09308): 4x4 outputs at a time, from products of
what tiles of the input and the kernel become under small linear maps. A kernel in time adds up such products,
each frame transformed once. In float32 the results differ from those of direct convolutions by some 2e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

TILE = 4  # outputs in each direction
POINTS = (0, 0.75, -0.75, 1.5, -1.5)  # beside infinity; half the rounding error of 0, 1, -1, 2, -2
FEWEST_CHANNELS = 64  # with fewer, the transforms cost more than is saved
TILES_PER_THREAD = 64  # at a time: a few buffers of so many stay in the cache
LARGEST_KEPT = 2**24  # bytes of a transformed kernel that is kept for the next call
FEWEST_POSITIONS = 2048  # that a kernel must be used at, if it is transformed for each call

Prepare = Callable[[Tensor, Tensor], Any]
"""Writes to the first what is convolved of the second, rows of a frame (H, W, C)."""

_kept: Any = WeakIdKeyDictionary()  # kernel → its version and what it was transformed to


def pays(x: Tensor, weight: Tensor, stride: tuple[int, ...] = (1,)) -> bool:
    """Whether `convolve` is faster than torch, and allowed: it has no gradient."""
    return (
        not torch.is_grad_enabled()
        and is_for(x, weight, stride)
        and weight.shape[-2:] in ((3, 3), (2, 2))
        and (is_kept(weight) or x[0, 0].numel() >= FEWEST_POSITIONS)
    )


def is_for(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether minimal filtering is of use here, with gradients or without, but for the size of the kernel."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and set(stride) == {1}
        and min(weight.shape[:2]) >= FEWEST_CHANNELS
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def is_kept(weight: Tensor) -> bool:
    """Whether a kernel is transformed once, not in each call."""
    size = weight.shape[-1]
    larger = (TILE + size - 1) ** 2 / size**2
    return weight.nbytes * larger <= LARGEST_KEPT and not weight.is_inference()


@dataclass(frozen=True)
class Reach:
    """Where a kernel lies about its pixel, and what it sees beyond the picture: zeros, or what is nearest."""

    front: int = 0  # frames before the first, fewer than the kernel has taps
    back: int = 0  # frames after the last, likewise
    above: int = 1  # rows of the kernel above its pixel
    left: int = 1  # columns of it to the left
    repeats_time: bool = False
    repeats_space: bool = False


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reach: Reach | None = None,
    *,
    prepare: Sequence[Prepare] | None = None,
    overwrites: bool = False,
) -> Tensor:
    """The convolution (B, C, T, H, W) → (B, O, T', H, W), both channels last in memory; stride 1.

    `weight` is (O, C, k, k) or (O, C, taps, k, k) with k 3 or 2. What is convolved is what `prepare`
    makes of each sample. `overwrites` lets the result lie where `x` was, if it is of the same shape.
    """
    reach = reach or Reach()
    source = x.permute(0, 2, 3, 4, 1)
    if overwrites:
        out = source
    else:
        taps = weight.shape[2] if weight.ndim == 5 else 1
        b, t, h, w, _ = source.shape
        out = x.new_empty(b, t + reach.front + reach.back - taps + 1, h, w, len(weight))
    convolve_into(out, source, weight, bias, reach, prepare)
    return out.permute(0, 4, 1, 2, 3)


def convolve_into(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reach: Reach,
    prepare: Sequence[Prepare] | None = None,
) -> None:
    """Write the convolution of (B, T, H, W, C) to `out`, (B, T', H, W, ...) with O numbers in the last axes.

    `out` may be `x` itself: nothing is read that was written.
    """
    kernel = transformed(weight)
    height, width = x.shape[2:4]
    columns = -(-width // TILE)
    rows = min(max(1, TILES_PER_THREAD * torch.get_num_threads() // columns), -(-height // TILE))
    strip = Strip(x, kernel, weight.shape[-1], rows, columns, reach)
    offset = (x.new_zeros(kernel.shape[-1]) if bias is None else bias).view(out.shape[4:])
    for frames, results, writes in zip(x, out, prepare or [Tensor.copy_] * len(x), strict=True):
        for top in range(0, height, rows * TILE):
            band = results[:, top : top + rows * TILE]
            for target, y in zip(band, strip.run(frames, top, writes), strict=True):
                part = y[: len(target), :width]
                torch.add(part.view(target.shape), offset, out=target)


class Strip:
    """Some rows of tiles, frame by frame, from the top of pictures down, in buffers that are used again."""

    def __init__(self, x: Tensor, kernel: Tensor, size: int, rows: int, columns: int, reach: Reach) -> None:
        self.kernel, self.reach = kernel, reach
        self.rows, self.columns = rows, columns
        self.to_input, self.to_output = input_transform(size), output_transform(size)
        taps, parts, channels, outputs = kernel.shape
        self.parts = parts
        self.size = TILE + size - 1  # pixels of a tile's input
        self.pixels = x.new_zeros(rows * TILE + size - 1, columns * TILE + size - 1, channels)
        self.seen = x.new_zeros(x.shape[1], reach.above, *self.pixels.shape[1:])  # last of the strip above
        s = self.pixels.stride()
        self.overlapping = self.pixels.as_strided(
            (self.size, self.size, rows, columns, channels), (s[0], s[1], TILE * s[0], TILE * s[1], s[2])
        )
        self.gathered = x.new_empty(self.size, self.size, rows, columns, channels)
        self.frames = x.new_empty(taps, parts, rows * columns, channels)
        self.products = x.new_empty(parts, rows * columns, outputs)
        self.tiled = x.new_empty(TILE, TILE, rows, columns, outputs)
        self.result = x.new_empty(rows, TILE, columns, TILE, outputs)

    def run(self, frames: Tensor, top: int, prepare: Prepare) -> Iterator[Tensor]:
        """The results (rows, columns, O) of frames (T, H, W, C), from row `top` on."""
        taps, last = len(self.kernel), len(frames) - 1
        for newest in range(len(frames) + self.reach.back):
            if newest <= last:
                self._transform(frames, newest, top, prepare)
            oldest = newest - taps + 1
            if oldest < -self.reach.front:
                continue
            known = []
            for number, kernel in enumerate(self.kernel, oldest):
                at = min(max(number, 0), last)
                if number == at or self.reach.repeats_time:
                    known.append((self.frames[at % taps], kernel))
            yield self._result(known)

    def _transform(self, frames: Tensor, number: int, top: int, prepare: Prepare) -> None:
        """Transform the tiles of a frame; those of the last frames are kept."""
        above, left = self.reach.above, self.reach.left
        part = frames[number, top : top + len(self.pixels) - above]
        bottom, right = above + len(part), left + part.shape[1]
        prepare(self.pixels[above:bottom, left:right], part)
        self.pixels[bottom:] = 0
        if self.reach.repeats_space:
            self.pixels[:bottom, :left] = self.pixels[:bottom, left : left + 1]
            self.pixels[:bottom, right : right + 1] = self.pixels[:bottom, right - 1 : right]
            self.pixels[bottom : bottom + 1] = self.pixels[bottom - 1]
        if top:
            self.pixels[:above] = self.seen[number]
        else:
            self.pixels[:above] = self.pixels[above] if self.reach.repeats_space else 0
        self.seen[number] = self.pixels[self.rows * TILE : self.rows * TILE + above]
        self.gathered.copy_(self.overlapping)
        out = self.frames[number % len(self.kernel)]
        torch.mm(self.to_input, self.gathered.view(self.parts, -1), out=out.view(self.parts, -1))

    def _result(self, known: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The sum of the products of transformed frames and kernels, transformed back."""
        (frame, kernel), *others = known
        torch.bmm(frame, kernel, out=self.products)
        for frame, kernel in others:
            self.products.baddbmm_(frame, kernel)
        torch.mm(self.to_output, self.products.view(self.parts, -1), out=self.tiled.view(TILE**2, -1))
        self.result.copy_(self.tiled.permute(2, 0, 3, 1, 4))
        return self.result.view(self.rows * TILE, self.columns * TILE, -1)


def transformed(weight: Tensor) -> Tensor:
    """A kernel (O, C, k, k) or (O, C, taps, k, k) → (taps, parts, C, O); small ones are kept."""
    version, kernel = _kept.get(weight, (None, None))
    if kernel is None or version != weight._version:
        outputs, channels, size = weight.shape[0], weight.shape[1], weight.shape[-1]
        taps = weight.detach().reshape(outputs, channels, -1, size**2).permute(2, 3, 1, 0)
        flat = taps.reshape(len(taps), size**2, -1)
        kernel = (kernel_transform(size) @ flat).view(len(taps), -1, channels, outputs)
        if is_kept(weight):
            _kept[weight] = (weight._version, kernel)
    return kernel


@lru_cache
def matrices(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The one-dimensional transforms of outputs, kernels of `size` and inputs (Toom-Cook), float64.

    outputs = a @ ((g @ kernel) * (b @ inputs)), for TILE outputs of TILE + size - 1 inputs.
    """
    n = TILE + size - 1
    points = np.array(POINTS[: n - 1], np.float64)
    others = [np.delete(points, i) for i in range(n - 1)]
    a, g, b = np.zeros((TILE, n)), np.zeros((n, size)), np.zeros((n, n))
    a[:, :-1] = points ** np.arange(TILE)[:, None]
    g[:-1] = points[:, None] ** np.arange(size)
    g[:-1] /= np.array([np.prod(p - q) for p, q in zip(points, others, strict=True)])[:, None]
    for row, q in enumerate(others):
        b[row, : n - 1] = np.poly(q)[::-1]
    b[-1] = np.poly(points)[::-1]
    a[-1, -1] = g[-1, -1] = 1
    return a, g, b


@lru_cache
def transforms(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same as float32 tensors."""
    a, g, b = (torch.from_numpy(matrix.astype(np.float32)) for matrix in matrices(size))
    return a, g, b


@lru_cache
def output_transform(size: int) -> Tensor:
    return in_both_directions(matrices(size)[0])


@lru_cache
def kernel_transform(size: int) -> Tensor:
    return in_both_directions(matrices(size)[1])


@lru_cache
def input_transform(size: int) -> Tensor:
    return in_both_directions(matrices(size)[2])


def in_both_directions(matrix: np.ndarray) -> Tensor:
    return torch.from_numpy(np.kron(matrix, matrix).astype(np.float32))
