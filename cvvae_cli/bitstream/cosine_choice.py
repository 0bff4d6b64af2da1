"""What an encoder adds to pictures: which blocks are worth their bits, and which cosines.

Nothing of this is in a file: any choice decodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from cvvae_cli.bitstream.cosines import (
    DIAGONALS,
    LENGTH_TABLE,
    PLANES,
    SIDE,
    Added,
    Around,
    CosineCoder,
    on_diagonal,
)
from cvvae_cli.bitstream.motion import between_levels
from cvvae_cli.bitstream.residuals import CENTER, Prediction
from cvvae_cli.types import DETAIL_BITS

FIRST_PRICE, LAST_PRICE = 24_000.0, 1260.0  # squared levels of all planes for a bit, at quality 1 and 10
HOPE_BITS = 3.0  # about the least that a cosine takes which is not 0


def price_of(level: int) -> float:
    """Squared levels of all planes that a bit has to be worth."""
    return between_levels(FIRST_PRICE, LAST_PRICE, level)


@dataclass(frozen=True)
class Worth:
    """What to add to a picture, and what all comes to: error over all frames, and bits at their price."""

    added: Added
    cost: np.ndarray  # float (rows, columns)


def worth_adding(
    coder: CosineCoder,
    price: float,
    aims: np.ndarray,
    known: np.ndarray,
    frames: np.ndarray,
    change_bits: float,
) -> Worth:
    """What to add to a picture.

    `aims` and what is `known` of them are in blocks (rows, columns, 3, 8, 8) of levels; the picture is part
    of so many `frames` (rows, columns). `change_bits`: about what it takes to say that a block is changed.
    """
    step = coder.step * 0.5**DETAIL_BITS
    cells = cosines_of(aims - known) / np.float32(step)
    errors = frames[..., None, None, None] * step**2 * cells**2
    hope = np.maximum(errors - price * HOPE_BITS, 0).sum((2, 3, 4))
    without = np.minimum(errors.sum((2, 3, 4)), frames * (aims**2).sum((2, 3, 4)))
    at = np.nonzero(hope > change_bits * price)
    chosen, cost = best_cosines(coder, price, cells[at], frames[at])
    cost += change_bits * price
    is_worth_it = (cost < without[at]) & chosen.any((1, 2, 3))
    changed = np.zeros(frames.shape, bool)
    changed[at] = is_worth_it
    without[at] = np.where(is_worth_it, cost, without[at])
    return Worth(Added(changed, chosen[is_worth_it]), without)


def best_cosines(
    coder: CosineCoder, price: float, cells: np.ndarray, frames: np.ndarray, first_table: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """For cosines (n, 3, 8, 8) in steps, of blocks that are part of so many frames (n,): those to code, with
    the tables from one on, and what error and bits come to (n,)."""
    weights = frames * (coder.step * 0.5**DETAIL_BITS) ** 2
    errors = weights[:, None, None, None] * cells**2
    chosen, around, every = np.zeros(cells.shape, np.int64), Around(len(cells)), np.arange(len(cells))
    costs = np.zeros((len(cells), PLANES, DIAGONALS + 1))  # of coding so many diagonals
    prices = price / weights
    for plane in range(PLANES):
        total = errors[:, plane].sum((1, 2))
        costs[:, plane, 0] = total
        for diagonal in range(DIAGONALS):
            down, right = on_diagonal(diagonal)
            tables = first_table + around.tables(every, plane, diagonal)
            guess = Prediction(np.zeros_like(tables), np.ones_like(tables), tables)
            wanted = cells[:, plane, down, right]
            best = coder.best_residuals(wanted, guess, np.broadcast_to(prices[:, None], wanted.shape))
            chosen[:, plane, down, right] = best
            around.know(every, plane, diagonal, best)
            left = weights[:, None] * (wanted - best) ** 2 + price * coder.bits_of(guess, best)
            total = total + (left - errors[:, plane, down, right]).sum(1)
            costs[:, plane, diagonal + 1] = total
    lengths = np.arange(DIAGONALS + 1)
    for plane in range(PLANES):
        rows = coder.costs[first_table + LENGTH_TABLE + plane, CENTER + lengths]
        costs[:, plane] += price * rows
    taken = costs.argmin(2)
    number = np.add.outer(np.arange(SIDE), np.arange(SIDE))
    chosen[number[None, None] >= taken[:, :, None, None]] = 0
    return chosen, np.take_along_axis(costs, taken[..., None], 2).sum((1, 2))


def cosines_of(blocks: np.ndarray) -> np.ndarray:
    """Blocks (rows, columns, 3, 8, 8) of pixels → of cosines, whose squares have the same sum; float32."""
    number = np.arange(SIDE)
    matrix = np.cos((2 * number + 1) * number[:, None] * np.pi / (2 * SIDE)) / 2
    matrix[0] = 8**-0.5
    of_pixels = torch.from_numpy(matrix.astype(np.float32))
    cosines = torch.from_numpy(np.ascontiguousarray(blocks))
    for _ in range(2):
        cosines = functional.linear(cosines, of_pixels).transpose(-1, -2)
    return cosines.contiguous().numpy()
