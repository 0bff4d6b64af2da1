"""What an encoder makes of detail: which blocks are worth their bits, and what is added to them.

A cosine costs bits once and serves all frames that show it. How many those are is seen to the end of a
chunk, by how much of what a latent frame lacks is lacking in the next one too, and guessed beyond. Nothing of
this is in a file: any choice decodes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from cvvae_cli.bitstream.detail import (
    COLOURS,
    DIAGONALS,
    LENGTH_TABLE,
    PLANES,
    SIDE,
    Change,
    DetailCoder,
    Memory,
    cosine_tables,
    followed,
    from_blocks,
    has_any,
    in_blocks,
    on_diagonal,
    turned,
)
from cvvae_cli.bitstream.motion import between_levels
from cvvae_cli.bitstream.residuals import CENTER, Prediction
from cvvae_cli.bitstream.vectors import still
from cvvae_cli.types import DETAIL_BITS, Lacking

FIRST_PRICE, LAST_PRICE = 24_000.0, 850.0  # squared levels of all planes for a bit, at quality 1 and 10
RESTING, MOVING = 4.0, 0.0  # frames expected beyond a chunk that show what its last one lacks
HOPE_BITS = 3.0  # about the least that a cosine takes which is not 0
FLAG_BITS, CHANGE_BITS = 3.0, 5.0  # about what it takes to show a block or not, against custom; to change it


def encode_lacking(
    coder: DetailCoder, memory: Memory, vectors: list[np.ndarray], lacking: Lacking
) -> tuple[bytes, list[Memory]]:
    """As `DetailCoder.encode`, of a chunk whose pictures lack something."""
    return coder.encode(memory, vectors, DetailChooser(coder, lacking, vectors).choose)


class DetailChooser:
    """Of a chunk."""

    def __init__(self, coder: DetailCoder, lacking: Lacking, vectors: list[np.ndarray]) -> None:
        self.coder = coder
        self.price = between_levels(FIRST_PRICE, LAST_PRICE, coder.level)
        self.lacking = [in_blocks(turned(picture[None], COLOURS)[0]) for picture in lacking.pictures]
        self.counts = counts = lacking.counts
        self.aims = list(self.lacking)
        self.frames = [np.full(each.shape[:2], float(n)) for each, n in zip(self.aims, counts, strict=True)]
        self._look_ahead(vectors)

    def _look_ahead(self, vectors: list[np.ndarray]) -> None:
        """Aims that are means over what is to come, and how many frames each serves."""
        last = len(self.aims) - 1
        now = self.lacking[last]
        rests = still(torch.from_numpy(vectors[last])[None], *now.shape[:2])[0].numpy()
        beyond = np.where(rests, RESTING, MOVING)
        if last:
            before = in_blocks(followed(from_blocks(self.lacking[last - 1]), vectors[last]))
            beyond *= likeness(before, now) ** 2
        self.frames[last] += beyond
        for number in range(last - 1, -1, -1):
            field = -vectors[number + 1]
            now, own = self.lacking[number], self.counts[number]
            following = in_blocks(followed(from_blocks(self.aims[number + 1]), field))
            frames = followed(self.frames[number + 1].repeat(SIDE, 0).repeat(SIDE, 1)[None], field)
            frames = frames[0, SIDE // 2 :: SIDE, SIDE // 2 :: SIDE]
            share = likeness(following, now)
            self.frames[number] += share**2 * frames
            weights = np.stack([np.full(frames.shape, own), share * frames]) / self.frames[number]
            first, second = weights.astype(np.float32)[..., None, None, None]
            self.aims[number] = first * now + second * following

    def choose(self, number: int, memory: Memory) -> Change:
        """Of a latent frame, with what is remembered by then."""
        known = in_blocks(memory.picture).astype(np.float32) * np.float32(0.5**DETAIL_BITS)
        kept = has_any(memory.picture)
        aims, frames = self.aims[number], self.frames[number]
        changed, cosines = self._changes(aims, known, frames)
        now, count = self.lacking[number], self.counts[number]
        gain = count * (known * (2 * now - known)).sum((2, 3, 4))  # of showing what is known
        against = np.where(memory.shown, -FLAG_BITS, FLAG_BITS) * self.price
        shown = kept & (gain > against) | changed
        return Change(changed, cosines, shown)

    def _changes(
        self, aims: np.ndarray, known: np.ndarray, frames: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which blocks are changed, and the cosines that are added to them."""
        step = self.coder.step * 0.5**DETAIL_BITS
        cells = cosines_of(aims - known) / np.float32(step)
        errors = frames[..., None, None, None] * step**2 * cells**2
        hope = np.maximum(errors - self.price * HOPE_BITS, 0).sum((2, 3, 4))
        at = np.nonzero(hope > CHANGE_BITS * self.price)
        cells, errors, weights = cells[at], errors[at], frames[at] * step**2
        chosen = np.zeros(cells.shape, np.int64)
        costs = np.zeros((len(cells), PLANES, DIAGONALS + 1))  # of coding so many diagonals
        price = self.price / weights
        for plane in range(PLANES):
            total = errors[:, plane].sum((1, 2))
            costs[:, plane, 0] = total
            for diagonal in range(DIAGONALS):
                down, right = on_diagonal(diagonal)
                tables = cosine_tables(chosen, plane, diagonal)
                guess = Prediction(np.zeros_like(tables), np.ones_like(tables), tables)
                wanted = cells[:, plane, down, right]
                best = self.coder.best_residuals(wanted, guess, np.broadcast_to(price[:, None], wanted.shape))
                chosen[:, plane, down, right] = best
                left = weights[:, None] * (wanted - best) ** 2 + self.price * self.coder.bits_of(guess, best)
                total = total + (left - errors[:, plane, down, right]).sum(1)
                costs[:, plane, diagonal + 1] = total
        lengths = np.arange(DIAGONALS + 1)
        for plane in range(PLANES):
            rows = self.coder.costs[LENGTH_TABLE + plane, CENTER + lengths]
            costs[:, plane] += self.price * rows
        taken = costs.argmin(2)
        number = np.add.outer(np.arange(SIDE), np.arange(SIDE))
        chosen[number[None, None] >= taken[:, :, None, None]] = 0
        cost = np.take_along_axis(costs, taken[..., None], 2).sum((1, 2)) + CHANGE_BITS * self.price
        without = np.minimum(errors.sum((1, 2, 3)), frames[at] * (aims[at] ** 2).sum((1, 2, 3)))
        is_worth_it = (cost < without) & chosen.any((1, 2, 3))
        changed = np.zeros(frames.shape, bool)
        changed[at] = is_worth_it
        return changed, chosen[is_worth_it]


def likeness(of: np.ndarray, to: np.ndarray) -> np.ndarray:
    """By what share blocks (rows, columns, 3, 8, 8) explain others, 0 to 1."""
    both, own = (around((of * other).sum((2, 3, 4))) for other in (to, of))
    share = both / (own + 1e-3)
    clipped: np.ndarray = share.clip(0, 1)
    return clipped


def around(values: np.ndarray) -> np.ndarray:
    """Sums of 3x3 blocks."""
    p = np.pad(values, 1, mode="edge")
    p = p[:-2] + p[1:-1] + p[2:]
    sums: np.ndarray = p[:, :-2] + p[:, 1:-1] + p[:, 2:]
    return sums


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
