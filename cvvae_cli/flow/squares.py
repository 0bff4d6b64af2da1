"""Least squares between two pictures (Lucas and Kanade, 1981).

Vectors follow the pixels around them, and their neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.flow.field import moved


def products_of(known: Tensor, after: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """What least squares need, (N, 5, H, W), and the errors, (N, 1, H, W), if pixels move by a flow.

    `known` (N, 3, H, W) is a picture and its slopes. The products are of slopes down and right with
    themselves, with each other, and with the errors of the picture `after`.
    """
    there, down, right = moved(known, flow, "bilinear").chunk(3, 1)
    error = after - there
    return torch.cat([down * down, right * right, down * right, down * error, right * error], 1), error


def slopes(picture: Tensor) -> Tensor:
    """Down and right, of (N, 1, H, W): (N, 2, H, W)."""
    p = functional.pad(picture, (1, 1, 1, 1), mode="replicate")
    down, right = p[:, :, 2:, 1:-1] - p[:, :, :-2, 1:-1], p[:, :, 1:-1, 2:] - p[:, :, 1:-1, :-2]
    return torch.cat([down, right], 1) / 2


def blurred(values: Tensor) -> Tensor:
    """Weights 1, 2, 1 in both directions."""
    p = functional.pad(values, (1, 1, 1, 1), mode="replicate")
    p = (p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]) / 4
    return (p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]) / 4


def settled(start: Tensor, products: Tensor, stiffness: float, rounds: int) -> Tensor:
    """Vectors after a step, in pixels of the scale: where errors vanish, not far from their neighbours."""
    yy, xx, yx, ye, xe = products.chunk(5, 1)
    y, x = start.chunk(2, 1)
    to_y, to_x = ye + yy * y + yx * x, xe + yx * y + xx * x  # of the whole vector, not of the step
    a, b = yy + stiffness, xx + stiffness
    share = 1 / (a * b - yx * yx)
    vectors = start
    for _ in range(rounds):
        means = mean_of(neighbours(vectors)).chunk(2, 1)
        y, x = (to + stiffness * mean for to, mean in zip((to_y, to_x), means, strict=True))
        vectors = torch.cat([(b * y - yx * x) * share, (a * x - yx * y) * share], 1)
    return vectors


def neighbours(vectors: Tensor) -> list[Tensor]:
    """Of each place, those above, below, left and right; edges go on."""
    p = functional.pad(vectors, (1, 1, 1, 1), mode="replicate")
    return [p[:, :, :-2, 1:-1], p[:, :, 2:, 1:-1], p[:, :, 1:-1, :-2], p[:, :, 1:-1, 2:]]


def mean_of(parts: list[Tensor]) -> Tensor:
    first, *others = parts
    return sum(others, first) / len(parts)
