"""How content moves between two pictures: smoothed least squares on a pyramid (Lucas and Kanade, 1981).

Every vector follows the pixels around it and its neighbours; from coarse pictures to fine ones, each step
solves for what is left to move.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.flow.field import SPACING, dense, field_size, moved

SCALES = (16, 8, 4, 2)  # pixels of a pyramid's pixel, coarse to fine
STEPS = 4  # at each scale
ROUNDS = 6  # in which neighbours settle with each other
STIFFNESS = 400.0  # weight of the neighbours, in squared slopes: levels of 255 per pixel
WIDE = 8  # from this scale on, a vector sees farther
STEEPEST = 0.9  # change of a vector from place to place, in spacings: at 1, content would fold over
SMOOTHINGS = 30


def estimate(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where in `source` the content of `target` lies, both brightness in [0, 255], (N, H, W).

    Vectors in pixels (N, 2, rows, columns), and what an error of theirs costs around each (N, 3, rows,
    columns): mean squares of slopes down and right, and of their product, in squared levels.
    """
    h, w = source.shape[1:]
    rows, columns = field_size(h, w)
    both = functional.pad(
        torch.stack([source, target], 1), (0, -w % SPACING, 0, -h % SPACING), mode="replicate"
    )
    vectors = source.new_zeros(len(source), 2, rows, columns)
    for scale in SCALES:
        before, after = functional.avg_pool2d(both, scale).chunk(2, 1)
        known = torch.cat([before, slopes(before)], 1)
        for _ in range(STEPS):
            flow = dense(vectors, both.shape[2], both.shape[3], scale) / scale
            there, down, right = moved(known, flow, "bilinear").chunk(3, 1)
            error = after - there
            products = torch.cat([down * down, right * right, down * right, down * error, right * error], 1)
            products = functional.interpolate(products, size=(rows, columns), mode="area")
            for _ in range(2 if scale >= WIDE else 1):
                products = blurred(products)
            vectors = settled(vectors / scale, products) * scale
    return unfolded(vectors), products[:, :3]


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


def settled(start: Tensor, products: Tensor) -> Tensor:
    """Vectors after a step, in pixels of the scale: where errors vanish, not far from their neighbours."""
    yy, xx, yx, ye, xe = products.chunk(5, 1)
    y, x = start.chunk(2, 1)
    to_y, to_x = ye + yy * y + yx * x, xe + yx * y + xx * x  # of the whole vector, not of the step
    a, b = yy + STIFFNESS, xx + STIFFNESS
    share = 1 / (a * b - yx * yx)
    vectors = start
    for _ in range(ROUNDS):
        y, x = (to + STIFFNESS * mean for to, mean in zip((to_y, to_x), mean_around(vectors), strict=True))
        vectors = torch.cat([(b * y - yx * x) * share, (a * x - yx * y) * share], 1)
    return vectors


def neighbours(vectors: Tensor) -> list[Tensor]:
    p = functional.pad(vectors, (1, 1, 1, 1), mode="replicate")
    return [p[:, :, :-2, 1:-1], p[:, :, 2:, 1:-1], p[:, :, 1:-1, :-2], p[:, :, 1:-1, 2:]]


def mean_around(vectors: Tensor) -> tuple[Tensor, ...]:
    """Of the four neighbours: down, right."""
    first, *others = neighbours(vectors)
    return (sum(others, first) / 4).chunk(2, 1)


def unfolded(vectors: Tensor) -> Tensor:
    """The field, smoothed where it is too steep for content to keep its order."""
    for _ in range(SMOOTHINGS):
        around = neighbours(vectors)
        steepest = torch.stack([(n - vectors).abs().amax(1, keepdim=True) for n in around]).amax(0)
        is_steep = (steepest > STEEPEST * SPACING).float()
        if not is_steep.any():
            break
        wide = functional.max_pool2d(is_steep, 3, 1, 1) > 0
        vectors = torch.where(wide, (vectors + sum(around[1:], around[0]) / 4) / 2, vectors)
    return vectors
