"""Pictures as cosines: what `detail-1` and `correction-1` share (FORMAT.md).

A picture is cut into blocks of 8x8 pixels, in planes of brightness and colour. A few of them are *changed*:
cosines are added to them, in steps, coded diagonal by diagonal with tables that go by what is known around.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import constriction
import numpy as np

from cvvae_cli.bitstream.residuals import (
    ALPHABET,
    CENTER,
    PROBABILITY_BITS,
    Prediction,
    Step,
    TableCoder,
    symbols_of,
)
from cvvae_cli.errors import CorruptFileError

SIDE = 8  # pixels of a block in each direction
PLANES = 3  # brightness, and two of colour
LARGEST_COSINE = 2047  # in steps
# Planes of red, green and blue: orthonormal, so that squared errors are those of the colours
COLOURS = (np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])).astype(np.float32)
COSINES = (1448, 2009, 1892, 1703, 1448, 1138, 784, 400)  # cos(k pi / 16) / 2 in 2^-12; of k = 0 sqrt(1/8)
COSINE_BITS = 12
DIAGONALS = 2 * SIDE - 1
ZONES = np.array([0, 1, 1, 2, 2, 2] + [3] * 9)  # of the diagonals
SIZES = np.array([0, 2, 4, 8, 16])  # of what is known around a cosine: up to each, tables of their own
NEIGHBOURS = ((1, 0, 2), (0, 1, 2), (1, 1, 1), (2, 0, 1), (0, 2, 1))  # up, left, and how much they count
WEIGHTS = np.array([weight for _, _, weight in NEIGHBOURS], np.int32)[:, None]
BEFORE = 2  # frequencies before the first, which are 0
DENSITIES = 16  # how likely a block is changed, or shown; at the ends nothing is coded: none is, all are
BESIDE = np.array([0, 2])  # changed blocks beside one: up to each, a density of its own
CHANGES = len(BESIDE) + 2  # densities of which blocks are changed

SPREAD_TABLES = 2 * (1 + int(ZONES.max())) * (1 + len(SIZES))
LENGTH_TABLE = SPREAD_TABLES
FLAG_TABLE = LENGTH_TABLE + PLANES
DENSITY_TABLE = FLAG_TABLE + DENSITIES

Result = TypeVar("Result")
CodedStep = tuple[Prediction, np.ndarray | None]  # with what the encoder chose, if there is one
Steps = Generator[CodedStep, np.ndarray, Result]  # each is answered by its values


@dataclass(frozen=True)
class Added:
    """What is added to a picture."""

    changed: np.ndarray  # bool (rows, columns): blocks that something is added to
    cosines: np.ndarray  # int (changed blocks, 3, 8, 8) in steps: planes, frequencies down, and across


@dataclass(frozen=True)
class CosineRows:
    """What the tables of cosines are made from, in whole numbers."""

    # Of 256, how likely a cosine is 0, and then each further size to be the last: by plane (brightness,
    # colour), zone, and what is known around: (2, 4, 6, 2)
    spreads: np.ndarray
    # How often so many diagonals of a plane of a changed block hold anything: (3, 16)
    lengths: np.ndarray

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """As many as there are before FLAG_TABLE."""
        rows = [spread_row(*each) for each in self.spreads.reshape(-1, 2).tolist()]
        return rows + [row_of(dict(enumerate(each.tolist()))) for each in self.lengths]


@dataclass(frozen=True)
class CosineTables(CosineRows):
    """What the tables of a coder are made from."""

    # How likely blocks are, by the density that a picture states, in parts of the last: (16,), from 0 on
    densities: np.ndarray
    stated: np.ndarray  # how often a density is stated: (16,)

    @cached_property
    def frequencies(self) -> np.ndarray:
        """int32 (tables, 256), rows sum to 2^24."""
        rows = self.rows + [row_of({0: int(self.densities[-1]) - p, 1: p}) for p in self.densities.tolist()]
        rows.append(row_of(dict(enumerate(self.stated.tolist()))))
        return np.stack(rows)


class CosineCoder(TableCoder):
    """Codes what is added to pictures, in steps of one size."""

    def __init__(self, tables: CosineTables, step: int, *more: CosineRows) -> None:
        """The step of a cosine is in 2^-4 levels. The tables of `more` cosines come after the others."""
        super().__init__(np.stack([*tables.frequencies, *(row for rows in more for row in rows.rows)]))
        self.densities = tables.densities
        self.step = step

    def changed_blocks(self, rows: int, columns: int, wanted: np.ndarray | None) -> Steps[np.ndarray]:
        """The steps of which blocks are changed: bool (rows, columns)."""
        changed = np.zeros((rows, columns), bool)
        even = (np.arange(rows)[:, None] + np.arange(columns)) % 2 == 0
        of = None if wanted is None else self.densities_of_changes(wanted, even)
        states = yield from coded(np.full(CHANGES, DENSITY_TABLE), of)
        yield from flags(changed, even, states[np.zeros((rows, columns), int)], wanted)
        yield from flags(changed, ~even, states[1 + beside(changed)], wanted)
        return changed

    def cosines(self, count: int, wanted: np.ndarray | None, first_table: int = 0) -> Steps[np.ndarray]:
        """The steps of the cosines of changed blocks, int (count, 3, 8, 8), with the tables from one on."""
        known, around = np.zeros((count, PLANES, SIDE, SIDE), np.int64), Around(count)
        tables = np.broadcast_to(first_table + LENGTH_TABLE + np.arange(PLANES), (count, PLANES))
        lengths = yield from coded(tables, None if wanted is None else lengths_of(wanted))
        for plane in range(PLANES):
            for diagonal in range(DIAGONALS):
                blocks = np.flatnonzero(lengths[:, plane] > diagonal)
                down, right = on_diagonal(diagonal)
                where = (blocks[:, None], plane, down, right)
                chosen = None if wanted is None else wanted[where]
                tables = first_table + around.tables(blocks, plane, diagonal)
                known[where] = values = yield from coded(tables, chosen)
                around.know(blocks, plane, diagonal, values)
        if np.abs(known).max(initial=0) > LARGEST_COSINE:
            raise CorruptFileError("the cosines of a chunk are out of range")
        return known

    def densities_of_changes(self, changed: np.ndarray, even: np.ndarray) -> np.ndarray:
        """Of blocks of which nothing is known, and of the others by how many beside them are changed."""
        classes = beside(changed & even)
        return self.densities_of(changed, [even, *(~even & (classes == k) for k in range(CHANGES - 1))])

    def densities_of(self, flags: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
        """The density that suits each part of a picture's blocks best."""
        states = []
        for part in parts:
            count, those = int(part.sum()), int(flags[part].sum())
            if those == 0 or those == count:
                states.append((DENSITIES - 1) * (those > 0))
            else:
                open_ = self.densities[1:-1] / self.densities[-1]
                bits = -(those * np.log2(open_) + (count - those) * np.log2(1 - open_))
                states.append(1 + int(bits.argmin()))
        return np.array(states)

    def decoded(self, steps: Steps[Result], coder: constriction.stream.stack.AnsCoder) -> Result:
        """What steps end with, if each is answered by what a reader gives. Raises CorruptFileError."""
        return walked(steps, lambda guess, _: self.decode_residuals(coder, guess))

    def pixels(self, cosines: np.ndarray) -> np.ndarray:
        """Of cosines (n, 3, 8, 8): what they add to the pixels of a plane, in 2^-4 levels, float64."""
        sums = transform().T @ (cosines * float(self.step)) @ transform()  # exact: all sums are below 2^53
        added: np.ndarray = np.floor(sums * 0.5 ** (2 * COSINE_BITS) + 0.5)
        return added


def planned(steps: Steps[Result], plan: list[Step]) -> Result:
    """What the steps of an encoder end with; they are added to a plan."""

    def residuals_of(guess: Prediction, wanted: np.ndarray | None) -> np.ndarray:
        assert wanted is not None
        residuals = wanted.astype(np.int64)
        plan.append((None, guess, residuals))
        return residuals

    return walked(steps, residuals_of)


def walked(
    steps: Steps[Result], residuals_of: Callable[[Prediction, np.ndarray | None], np.ndarray]
) -> Result:
    """What steps end with, if each is answered by its residuals."""
    try:
        guess, wanted = next(steps)
        while True:
            guess, wanted = steps.send(symbols_of(guess, residuals_of(guess, wanted)))
    except StopIteration as end:
        result: Result = end.value
        return result


def coded(tables: np.ndarray, wanted: np.ndarray | None) -> Steps[np.ndarray]:
    """A step of integers that tables alone predict."""
    if not tables.size:
        return np.zeros(tables.shape, np.int64)
    return (yield Prediction(np.zeros_like(tables), np.ones_like(tables), tables), wanted)


def flags(known: np.ndarray, where: np.ndarray, states: np.ndarray, wanted: np.ndarray | None) -> Steps[None]:
    """A step of flags, where their densities leave any open; sets them in `known`."""
    known[where] = states[where] == DENSITIES - 1
    is_open = where & (states > 0) & (states < DENSITIES - 1)
    values = yield from coded(FLAG_TABLE + states[is_open], None if wanted is None else wanted[is_open])
    known[is_open] = values != 0


def beside(changed: np.ndarray) -> np.ndarray:
    """Of each block, the class of how many of its four neighbours are changed."""
    p = np.pad(changed.astype(int), 1)
    count = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
    return np.searchsorted(BESIDE, count, side="left")


def lengths_of(cosines: np.ndarray) -> np.ndarray:
    """How many diagonals of each plane (n, 3, 8, 8) hold anything, from the first on: (n, 3)."""
    number = np.add.outer(np.arange(SIDE), np.arange(SIDE)) + 1
    lengths: np.ndarray = ((cosines != 0) * number).max((2, 3), initial=0)
    return lengths


@lru_cache(maxsize=DIAGONALS)
def on_diagonal(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The frequencies of a diagonal, down and across, in the order of the first."""
    down = np.arange(max(0, number - SIDE + 1), min(number, SIDE - 1) + 1)
    return down, number - down


class Around:
    """What is known around the cosines of blocks, diagonal by diagonal."""

    def __init__(self, count: int) -> None:
        self._sizes = np.zeros((count, PLANES, (SIDE + BEFORE) ** 2), np.int32)

    def know(self, blocks: np.ndarray, plane: int, diagonal: int, values: np.ndarray) -> None:
        """The cosines (n, frequencies) of some blocks, by their numbers."""
        own, _ = places_of(diagonal)
        self._sizes[blocks[:, None], plane, own] = np.abs(values)

    def tables(self, blocks: np.ndarray, plane: int, diagonal: int) -> np.ndarray:
        """For a diagonal whose earlier ones are known: (n, frequencies)."""
        own, neighbours = places_of(diagonal)
        sizes = self._sizes[blocks[:, None, None], plane, neighbours]
        around = (sizes * WEIGHTS).sum(1)
        if plane:
            around += 2 * self._sizes[blocks[:, None], 0, own]
        kind = min(plane, 1) * 4 + int(ZONES[diagonal])
        tables: np.ndarray = kind * (len(SIZES) + 1) + np.searchsorted(SIZES, around, side="left")
        return tables


@lru_cache(maxsize=DIAGONALS)
def places_of(diagonal: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the frequencies of a diagonal lie in `Around`, and their neighbours, (5, frequencies)."""
    down, right = (BEFORE + each for each in on_diagonal(diagonal))
    side = SIDE + BEFORE
    return down * side + right, np.stack([(down - up) * side + right - left for up, left, _ in NEIGHBOURS])


@lru_cache(maxsize=1)
def transform() -> np.ndarray:
    """The cosines, float64 (frequency, pixel), integers in 2^-12."""
    places = (2 * np.arange(SIDE) + 1) * np.arange(SIDE)[:, None] % (4 * SIDE)  # of 32 in a turn
    folded = np.minimum(places, 4 * SIDE - places)
    is_negative = folded > SIDE
    values = np.append(COSINES, 0)[np.where(is_negative, 2 * SIDE - folded, folded)]
    values[0] = COSINES[0]
    return np.where(is_negative, -values, values).astype(np.float64)


def turned(pictures: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Pictures (n, 3, H, W) of other planes, each a sum of theirs weighted by a row of `matrix`; float32.

    Not by numpy's matrix product: its threads, once woken, stay awake for a while beside those of torch.
    """
    planes = pictures.astype(np.float32)
    return np.stack([sum(planes[:, k] * row[k] for k in range(PLANES)) for row in matrix], 1)


def in_blocks(picture: np.ndarray) -> np.ndarray:
    """(3, H, W) → (rows, columns, 3, 8, 8), a view."""
    c, h, w = picture.shape
    return picture.reshape(c, h // SIDE, SIDE, w // SIDE, SIDE).transpose(1, 3, 0, 2, 4)


def over_pixels(blocks: np.ndarray) -> np.ndarray:
    """What is said of blocks (rows, columns), of each of their pixels: (H, W)."""
    return blocks.repeat(SIDE, 0).repeat(SIDE, 1)


def from_blocks(blocks: np.ndarray) -> np.ndarray:
    """(rows, columns, 3, 8, 8) → (3, H, W)."""
    rows, columns, c = blocks.shape[:3]
    return blocks.transpose(2, 0, 3, 1, 4).reshape(c, rows * SIDE, columns * SIDE)


def spread_row(zero: int, last: int) -> np.ndarray:
    """Sizes that fall by equal shares: `zero` of 256 are 0, `last` of 256 of the rest 1 and -1, and so on."""
    row = np.ones(ALPHABET, np.int64)
    left = 2**PROBABILITY_BITS - ALPHABET
    share = left * zero >> 8
    row[CENTER] += share
    left = left - share >> 1
    for size in range(1, CENTER + 1):
        share = left * last >> 8
        row[CENTER + size] += share
        row[CENTER - size] += share
        left -= share
    row[CENTER] += 2**PROBABILITY_BITS - row.sum()
    return row.astype(np.int32)


def row_of(weights: dict[int, int]) -> np.ndarray:
    """Values in proportion to whole weights; what is left over by rounding goes to the first."""
    row = np.ones(ALPHABET, np.int64)
    total = sum(weights.values())
    for value, weight in weights.items():
        row[CENTER + value] += (2**PROBABILITY_BITS - ALPHABET) * weight // total
    row[CENTER + min(weights)] += 2**PROBABILITY_BITS - row.sum()
    return row.astype(np.int32)
