"""Winograd's minimal filtering (models/winograd.py) with gradients: training on CPUs in float32.

Whole clips at a time, for those of training are small. Result, gradient of the input and gradient of the
kernel are products of transformed tiles, each with a quarter of the multiplications of a direct convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.models.winograd import TILE, is_for, transforms

KERNEL = 3
SIZE = TILE + KERNEL - 1  # pixels of a tile's input
PARTS = SIZE**2


def pays(x: Tensor, weight: Tensor, stride: tuple[int, ...] = (1,)) -> bool:
    """Whether `convolve` is faster than torch where gradients are wanted."""
    return torch.is_grad_enabled() and is_for(x, weight, stride) and weight.shape[-2:] == (KERNEL, KERNEL)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution (B, C, T, H, W) → (B, O, T', H, W), zeros around each frame and nothing around time.

    `weight` is (O, C, 3, 3) or (O, C, taps, 3, 3), then T' is T - taps + 1.
    """
    kernel = weight if weight.ndim == 5 else weight[:, :, None]
    y: Tensor = MinimalFiltering.apply(x.permute(2, 0, 3, 4, 1), kernel)  # type: ignore[no-untyped-call]
    return (y if bias is None else y + bias).permute(1, 4, 0, 2, 3)


class MinimalFiltering(torch.autograd.Function):
    """Frames (T, B, H, W, C) and a kernel (O, C, taps, 3, 3) → (T', B, H, W, O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        outputs, channels, taps = weight.shape[:3]
        to_output, to_kernel, to_input = transforms(KERNEL)
        seen = transform(to_input, tiles(x)).view(PARTS, len(x), -1, channels)
        kernel = transform(to_kernel, weight.permute(3, 4, 2, 1, 0)).view(PARTS, taps, channels, outputs)
        count = len(x) - taps + 1
        products = torch.bmm(rows(seen[:, :count]), kernel[:, 0])
        for tap in range(1, taps):
            products.baddbmm_(rows(seen[:, tap : tap + count]), kernel[:, tap])
        ctx.save_for_backward(seen, kernel)
        ctx.shape = x.shape
        _, b, h, w, _ = x.shape
        y = transform(to_output, products).view(TILE, TILE, count, b, *grid(h, w), outputs)
        return joined(y)[:, :, :h, :w]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        seen, kernel = ctx.saved_tensors
        frames, b, h, w, channels = ctx.shape
        taps, outputs = kernel.shape[1], kernel.shape[3]
        count = frames - taps + 1
        to_output, to_kernel, to_input = transforms(KERNEL)
        products = transform(to_output.T, split(gradient)).view(PARTS, -1, outputs)
        of_taps = [
            torch.bmm(rows(seen[:, tap : tap + count]).transpose(1, 2), products) for tap in range(taps)
        ]
        of_kernel = transform(to_kernel.T, torch.stack(of_taps, 1))
        of_weight = of_kernel.view(KERNEL, KERNEL, taps, channels, outputs).permute(4, 3, 2, 0, 1)
        if not ctx.needs_input_grad[0]:
            return None, of_weight
        of_seen = torch.zeros_like(seen)
        for tap in range(taps):
            part = torch.bmm(products, kernel[:, tap].transpose(1, 2))
            of_seen[:, tap : tap + count] += part.view(PARTS, count, -1, channels)
        of_tiles = transform(to_input.T, of_seen).view(SIZE, SIZE, frames, b, *grid(h, w), channels)
        return overlapped(of_tiles)[:, :, 1 : 1 + h, 1 : 1 + w], of_weight


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-height // TILE), -(-width // TILE)


def transform(matrix: Tensor, x: Tensor) -> Tensor:
    """A map (m, n) along rows and columns of n x n numbers, the first axes of x: (m * m, rest)."""
    m, n = matrix.shape
    in_rows = matrix @ x.reshape(n, -1)
    return torch.matmul(matrix, in_rows.view(m, n, -1)).view(m * m, -1)


def rows(x: Tensor) -> Tensor:
    """(parts, T, positions, C) → (parts, T * positions, C), a view."""
    return x.flatten(1, 2)


def tiles(x: Tensor) -> Tensor:
    """Frames (T, B, H, W, C), zeros around → overlapping tiles (SIZE, SIZE, T, B, rows, columns, C)."""
    t, b, h, w, c = x.shape
    down, right = grid(h, w)
    padded = x.new_zeros(t, b, down * TILE + KERNEL - 1, right * TILE + KERNEL - 1, c)
    padded[:, :, 1 : 1 + h, 1 : 1 + w] = x
    of_frame, of_sample, of_row, of_column, of_channel = padded.stride()
    strides = of_row, of_column, of_frame, of_sample, TILE * of_row, TILE * of_column, of_channel
    return padded.as_strided((SIZE, SIZE, t, b, down, right, c), strides)


def split(x: Tensor) -> Tensor:
    """Frames (T, B, H, W, C) → tiles side by side, (TILE, TILE, T, B, rows, columns, C)."""
    t, b, h, w, c = x.shape
    down, right = grid(h, w)
    x = functional.pad(x, (0, 0, 0, right * TILE - w, 0, down * TILE - h))
    return x.reshape(t, b, down, TILE, right, TILE, c).permute(3, 5, 0, 1, 2, 4, 6)


def joined(x: Tensor) -> Tensor:
    """The inverse of `split`, at the size of whole tiles."""
    _, _, t, b, down, right, c = x.shape
    return x.permute(2, 3, 4, 0, 5, 1, 6).reshape(t, b, down * TILE, right * TILE, c)


def overlapped(x: Tensor) -> Tensor:
    """Sums of overlapping tiles, as `tiles` cuts them: (T, B, rows of pixels, columns of pixels, C)."""
    _, _, t, b, down, right, c = x.shape
    total = x.new_zeros(t, b, down + 1, TILE, right + 1, TILE, c)
    beyond = SIZE - TILE
    for below, height in ((0, TILE), (1, beyond)):
        for beside, width in ((0, TILE), (1, beyond)):
            part = x[TILE * below :, TILE * beside :][:height, :width].permute(2, 3, 4, 0, 5, 1, 6)
            total[:, :, below : below + down, :height, beside : beside + right, :width] += part
    return total.view(t, b, (down + 1) * TILE, (right + 1) * TILE, c)
