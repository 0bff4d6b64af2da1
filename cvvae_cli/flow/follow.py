"""How content moves from one picture to another, densely: the decoder spends no bits on it.

From coarse pictures to fine ones, least squares around each place (flow/squares.py) settle with their
neighbours; between, each place tries the vectors of others near it, which carries motion to where
coarse pictures could not see it. Errors that stand out count little: there something is hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.flow.field import moved, undone
from cvvae_cli.flow.squares import blurred, products_of, settled, slopes

SCALES = (32, 16, 8, 4, 2)  # pixels of a pyramid's pixel, coarse to fine
TRIED_FROM = 16  # at this scale and below, vectors of others are tried
ROBUST_FROM = 8  # at this scale and below, errors that stand out count little
CELL = 4  # pixels of a pyramid's picture for a vector, each way
STIFFNESS = 40.0  # weight of the neighbours, in squared slopes: levels of 255 per pixel
OUTSTANDING = 100.0  # squared levels
ROUNDS = 3  # in which neighbours settle with each other
REACHES = (3, 1)  # places away, whose vectors are tried
BETTER = 0.98  # of the error that a vector has, for another to take its place
BACK_ROUNDS = 4  # until the way back rests


def follow(target: Tensor, source: Tensor, scales: tuple[int, ...] = SCALES) -> Tensor:
    """Where in `source` the content of `target` lies: (N, 2, H, W), down and right, in pixels.

    Both are brightness in [0, 255], (N, 1, H, W).
    """
    h, w = target.shape[2:]
    coarsest = scales[0] * CELL
    both = torch.cat([source, target], 1)
    both = functional.pad(both, (0, -w % coarsest, 0, -h % coarsest), mode="replicate")
    height, width = both.shape[2:]
    vectors = target.new_zeros(len(target), 2, height // coarsest, width // coarsest)
    for scale in scales:
        places = height // (scale * CELL), width // (scale * CELL)
        pair = Pair(functional.avg_pool2d(both, scale), is_robust=scale <= ROBUST_FROM)
        vectors = enlarged(vectors, places) / scale
        vectors = pair.step(vectors)
        if scale <= TRIED_FROM:
            vectors = pair.tried(vectors)
        vectors = pair.step(vectors) * scale
    return enlarged(vectors, (height, width))[:, :, :h, :w]


def back_from(flow: Tensor) -> Tensor:
    """The way back, (N, 2, H, W): where in the target of `follow` the content of its source lies."""
    h, w = flow.shape[2:]
    cell = SCALES[-1] * CELL
    padded = functional.pad(flow, (0, -w % cell, 0, -h % cell), mode="replicate")
    return undone(functional.avg_pool2d(padded, cell), cell, BACK_ROUNDS)[:, :, :h, :w]


class Pair:
    """Two pictures (N, 2, H, W), source and target, at one scale."""

    def __init__(self, pictures: Tensor, *, is_robust: bool) -> None:
        self.source, self.target = pictures.chunk(2, 1)
        self.known = torch.cat([self.source, slopes(self.source)], 1)
        self.is_robust = is_robust

    def step(self, vectors: Tensor) -> Tensor:
        """Vectors (N, 2, rows, columns) in pixels of the scale, moved to where errors vanish."""
        flow = enlarged(vectors, self.target.shape[2:])
        products, error = products_of(self.known, self.target, flow)
        if self.is_robust:
            products = products / (1 + error.square() / OUTSTANDING)
        return settled(vectors, blurred(functional.avg_pool2d(products, CELL)), STIFFNESS, ROUNDS)

    def tried(self, vectors: Tensor) -> Tensor:
        """Vectors, each the best of its own and of some around it."""
        own = self.misfit(vectors)
        for reach in REACHES:
            for down, right in ((-reach, 0), (reach, 0), (0, -reach), (0, reach)):
                candidate = beside(vectors, down, right)
                misfit = self.misfit(candidate)
                is_better = misfit < BETTER * own
                vectors = torch.where(is_better, candidate, vectors)
                own = torch.where(is_better, misfit, own)
        return vectors

    def misfit(self, vectors: Tensor) -> Tensor:
        """Mean squared errors around each place, (N, 1, rows, columns)."""
        flow = functional.interpolate(vectors, scale_factor=CELL, mode="nearest")
        errors = moved(self.source, flow, "bilinear").sub_(self.target).square_()
        return blurred(functional.avg_pool2d(errors, CELL))


def enlarged(vectors: Tensor, size: tuple[int, ...]) -> Tensor:
    return functional.interpolate(vectors, size=size, mode="bilinear", align_corners=False)


def beside(vectors: Tensor, down: int, right: int) -> Tensor:
    """Of each place, the vector so many places away; edges go on."""
    reach = max(abs(down), abs(right))
    padded = functional.pad(vectors, (reach,) * 4, mode="replicate")
    rows, columns = vectors.shape[2:]
    return padded[:, :, reach + down : reach + down + rows, reach + right : reach + right + columns]
