"""`detail-1`: what the pictures of a decoder lack, where it stays (FORMAT.md, "detail-1").

A network of fixed size leaves out the same of a thing in every frame that shows it: letters, grain of wood,
leaves. Its decoder remembers a *detail picture* beside it, which moves as latents do, by the vectors coded
with them. A latent frame says where of it is shown, and adds cosines to it, in blocks of 8x8 pixels. All that
is remembered is in integers, so it is the same everywhere; in the end it is added to the pixels of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cvvae_cli.bitstream.residuals import (
    ALPHABET,
    CENTER,
    PROBABILITY_BITS,
    Plan,
    Prediction,
    Step,
    TableCoder,
    symbols_of,
)
from cvvae_cli.bitstream.vectors import BLOCK, CELL
from cvvae_cli.errors import CorruptFileError
from cvvae_cli.types import Lacking

SIDE = 8  # pixels of a block in each direction
PLANES = 3  # brightness, and two of colour
LARGEST_PIXEL = 32_767
LARGEST_COSINE = 2047  # in steps
# Steps of the cosines in 2^-4 levels, at qualities 1 to 10; between them they lie on straight lines
STEPS = (1216, 1030, 872, 738, 625, 529, 448, 379, 321, 272)
TENTHS = 10  # levels in a quality
# Planes of red, green and blue: orthonormal, so that squared errors are those of the colours
COLOURS = (np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])).astype(np.float32)
COSINES = (1448, 2009, 1892, 1703, 1448, 1138, 784, 400)  # cos(k pi / 16) / 2 in 2^-12; of k = 0 sqrt(1/8)
COSINE_BITS = 12
DIAGONALS = 2 * SIDE - 1
ZONES = np.array([0, 1, 1, 2, 2, 2] + [3] * 9)  # of the diagonals
SIZES = np.array([0, 2, 4, 8, 16])  # of what is known around a cosine: up to each, tables of their own
NEIGHBOURS = ((1, 0, 2), (0, 1, 2), (1, 1, 1), (2, 0, 1), (0, 2, 1))  # up, left, and how much they count
# Of 256, how likely a cosine is 0, and then each further size to be the last: by plane, zone, and size around
SPREADS = np.array(
    [
        [
            [(122, 92), (128, 171), (128, 171), (128, 171), (128, 171), (128, 171)],
            [(199, 154), (165, 156), (138, 140), (90, 119), (49, 92), (22, 60)],
            [(192, 120), (149, 119), (118, 111), (82, 96), (46, 75), (20, 46)],
            [(235, 131), (193, 144), (152, 148), (105, 141), (61, 116), (27, 64)],
        ],
        [
            [(148, 183), (142, 213), (130, 210), (96, 224), (89, 238), (86, 205)],
            [(157, 128), (136, 162), (104, 163), (82, 174), (59, 178), (56, 179)],
            [(246, 120), (221, 154), (178, 186), (129, 190), (65, 173), (40, 132)],
            [(252, 171), (252, 250), (252, 250), (238, 234), (38, 238), (4, 159)],
        ],
    ]
)
# How often, of 4096, so many diagonals of a plane of a changed block hold anything
LENGTHS = np.array(
    [
        [24, 221, 21, 20, 34, 156, 342, 475, 552, 358, 462, 406, 294, 306, 269, 156],
        [3807, 9, 24, 65, 39, 29, 19, 18, 20, 14, 12, 8, 8, 8, 8, 8],
        [3868, 11, 69, 31, 16, 15, 11, 10, 9, 8, 8, 8, 8, 8, 8, 8],
    ]
)
# Of 256, how likely a block is changed, or shown, by the density that a latent frame states; at the ends
# nothing is coded: none is, all are
DENSITIES = np.array([0, 1, 2, 4, 7, 12, 20, 32, 52, 80, 112, 144, 184, 220, 246, 256])
BESIDE = np.array([0, 2])  # changed blocks beside one: up to each, a density of its own
CHANGES, SHOWS = len(BESIDE) + 2, 2  # densities of a latent frame

SPREAD_TABLES = SPREADS.size // 2
LENGTH_TABLE = SPREAD_TABLES
FLAG_TABLE = LENGTH_TABLE + PLANES
DENSITY_TABLE = FLAG_TABLE + len(DENSITIES)


@dataclass(frozen=True)
class Memory:
    """What is remembered from one latent frame to the next."""

    picture: np.ndarray  # int16 (3, H, W) in 2^-4 levels, multiples of 8
    shown: np.ndarray  # bool (rows, columns) of blocks

    @classmethod
    def empty(cls, rows: int, columns: int) -> Memory:
        return cls(np.zeros((PLANES, SIDE * rows, SIDE * columns), np.int16), np.zeros((rows, columns), bool))

    @property
    def is_empty(self) -> bool:
        return not self.picture.any()

    def moved(self, vectors: np.ndarray) -> Memory:
        """By vectors (2, rows, columns) of larger blocks; the picture goes on at its edges as its edge."""
        return self if self.is_empty else Memory(followed(self.picture, vectors), self.shown)

    def colours(self) -> np.ndarray:
        """What is added to red, green and blue: int16 (3, H, W) in 2^-4 levels."""
        colours = np.zeros_like(self.picture)
        in_blocks(colours)[self.shown] = np.rint(turned(in_blocks(self.picture)[self.shown], COLOURS.T))
        return colours


@dataclass(frozen=True)
class Change:
    """What an encoder does to the memory at a latent frame."""

    changed: np.ndarray  # bool (rows, columns): blocks that something is added to
    cosines: np.ndarray  # int (changed blocks, 3, 8, 8) in steps: planes, frequencies down, and across
    shown: np.ndarray  # bool (rows, columns), with all that are changed


Lack = Callable[[np.ndarray], Lacking]  # of latents float32 (C, t, h, w), as they will be decoded
Choose = Callable[[int, Memory], Change]  # of a latent frame's number in a chunk, and the memory, moved
Steps = Generator[tuple[Prediction, np.ndarray | None], np.ndarray, Memory]


class DetailCoder(TableCoder):
    """Codes detail of one quality level, a chunk at a time."""

    name = "detail-1"

    def __init__(self, level: int) -> None:
        super().__init__(frequencies())
        self.level = level
        self.step = step_of(level)

    def encode(self, memory: Memory, vectors: list[np.ndarray], choose: Choose) -> tuple[bytes, list[Memory]]:
        """Bytes of a chunk, none if nothing is shown, and the memory after each of its latent frames.

        `vectors` (2, rows, columns) of each latent frame say how the memory moves.
        """
        steps: list[Step] = []
        memories = []

        def plan(guess: Prediction, wanted: np.ndarray | None) -> np.ndarray:
            assert wanted is not None
            residuals = wanted.astype(np.int64)
            steps.append((None, guess, residuals))
            return residuals

        for number, field in enumerate(vectors):
            before = memory.moved(field)
            memory = walked(self.frame(before, choose(number, before)), plan)
            memories.append(memory)
        is_any = any(after.shown.any() for after in memories)
        return self.pack(Plan(np.empty(0), steps)) if is_any else b"", memories

    def decode(self, data: bytes, memory: Memory, vectors: list[np.ndarray]) -> list[Memory]:
        """The memory after each latent frame. Raises CorruptFileError."""
        memories = []
        coder = self.reader(data) if data else None
        for field in vectors:
            memory = memory.moved(field)
            if coder is None:
                memory = Memory(memory.picture, np.zeros_like(memory.shown))
            else:
                memory = walked(
                    self.frame(memory, None), lambda guess, _: self.decode_residuals(coder, guess)
                )
            memories.append(memory)
        return memories

    def frame(self, before: Memory, change: Change | None) -> Steps:
        """The steps of a latent frame, after each of which its values are sent in; returns the memory.

        With each step goes what the encoder chose, if there is one.
        """
        rows, columns = before.shown.shape
        changed = np.zeros((rows, columns), bool)
        wanted = None if change is None else change.changed
        even = (np.arange(rows)[:, None] + np.arange(columns)) % 2 == 0
        of = None if wanted is None else densities_of_changes(wanted, even)
        states = yield from coded(np.full(CHANGES, DENSITY_TABLE), of)
        yield from flags(changed, even, states[np.zeros((rows, columns), int)], wanted)
        yield from flags(changed, ~even, states[1 + beside(changed)], wanted)

        kept = has_any(before.picture) & ~changed
        was = before.shown.astype(int)
        of = None if change is None else densities_of(change.shown, [kept & (was == k) for k in range(SHOWS)])
        states = yield from coded(np.full(SHOWS, DENSITY_TABLE), of)
        shown = changed.copy()
        yield from flags(shown, kept, states[was], None if change is None else change.shown)

        cosines = yield from self.cosines(int(changed.sum()), None if change is None else change.cosines)
        return Memory(self.added(before.picture, changed, cosines), shown)

    def cosines(
        self, count: int, wanted: np.ndarray | None
    ) -> Generator[tuple[Prediction, np.ndarray | None], np.ndarray, np.ndarray]:
        """The steps of the cosines of changed blocks: int (count, 3, 8, 8)."""
        known = np.zeros((count, PLANES, SIDE, SIDE), np.int64)
        tables = np.broadcast_to(LENGTH_TABLE + np.arange(PLANES), (count, PLANES))
        lengths = yield from coded(tables, None if wanted is None else lengths_of(wanted))
        for plane in range(PLANES):
            for diagonal in range(DIAGONALS):
                blocks = np.flatnonzero(lengths[:, plane] > diagonal)
                down, right = on_diagonal(diagonal)
                where = (blocks[:, None], plane, down, right)
                chosen = None if wanted is None else wanted[where]
                known[where] = yield from coded(cosine_tables(known[blocks], plane, diagonal), chosen)
        if np.abs(known).max(initial=0) > LARGEST_COSINE:
            raise CorruptFileError("the detail of a chunk is out of range")
        return known

    def added(self, picture: np.ndarray, changed: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """The picture with cosines added in its changed blocks, int16 (3, H, W)."""
        if not len(cosines):
            return picture
        sums = transform().T @ (cosines * float(self.step)) @ transform()  # exact: all sums are below 2^53
        sums = np.floor(sums * 0.5 ** (2 * COSINE_BITS) + 0.5)
        total = picture.copy()
        blocks = in_blocks(total)
        blocks[changed] = (blocks[changed] + sums).clip(-LARGEST_PIXEL, LARGEST_PIXEL)
        return total


def walked(steps: Steps, residuals_of: Callable[[Prediction, np.ndarray | None], np.ndarray]) -> Memory:
    """What the steps of a latent frame end with, if each is answered by its residuals."""
    guess, wanted = next(steps)
    while True:
        try:
            guess, wanted = steps.send(symbols_of(guess, residuals_of(guess, wanted)))
        except StopIteration as end:
            memory: Memory = end.value
            return memory


def colours_of(memories: list[Memory]) -> np.ndarray:
    """What is added to the pictures of latent frames: int16 (t, 3, H, W) in 2^-4 levels."""
    return np.stack([memory.colours() for memory in memories])


def followed(picture: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """A picture (K, H, W) whose blocks moved by vectors (2, rows, columns)."""
    if not vectors.any():
        return picture
    h, w = picture.shape[1:]
    size, margin = BLOCK * CELL, int(np.abs(vectors).max())
    wide = np.pad(picture, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    moved = picture.copy()
    for row, column in np.argwhere(vectors.any(0)).tolist():
        down, right = vectors[:, row, column].tolist()
        top, left = size * row, size * column
        bottom, end = min(top + size, h), min(left + size, w)
        y, x = margin - down, margin - right
        moved[:, top:bottom, left:end] = wide[:, top + y : bottom + y, left + x : end + x]
    return moved


def coded(
    tables: np.ndarray, wanted: np.ndarray | None
) -> Generator[tuple[Prediction, np.ndarray | None], np.ndarray, np.ndarray]:
    """A step of integers that tables alone predict."""
    if not tables.size:
        return np.zeros(tables.shape, np.int64)
    return (yield Prediction(np.zeros_like(tables), np.ones_like(tables), tables), wanted)


def flags(
    known: np.ndarray, where: np.ndarray, states: np.ndarray, wanted: np.ndarray | None
) -> Generator[tuple[Prediction, np.ndarray | None], np.ndarray, None]:
    """A step of flags, where their densities leave any open; sets them in `known`."""
    known[where] = states[where] == len(DENSITIES) - 1
    is_open = where & (states > 0) & (states < len(DENSITIES) - 1)
    values = yield from coded(FLAG_TABLE + states[is_open], None if wanted is None else wanted[is_open])
    known[is_open] = values != 0


def densities_of_changes(changed: np.ndarray, even: np.ndarray) -> np.ndarray:
    """Of blocks of which nothing is known, and of the others by how many beside them are changed."""
    classes = beside(changed & even)
    return densities_of(changed, [even, *(~even & (classes == k) for k in range(CHANGES - 1))])


def densities_of(flags: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """The density that suits each part of a picture's blocks best."""
    states = []
    for part in parts:
        count, those = int(part.sum()), int(flags[part].sum())
        if those == 0 or those == count:
            states.append((len(DENSITIES) - 1) * (those > 0))
        else:
            open_ = DENSITIES[1:-1] / 256
            bits = -(those * np.log2(open_) + (count - those) * np.log2(1 - open_))
            states.append(1 + int(bits.argmin()))
    return np.array(states)


def beside(changed: np.ndarray) -> np.ndarray:
    """Of each block, the class of how many of its four neighbours are changed."""
    p = np.pad(changed.astype(int), 1)
    count = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
    return np.searchsorted(BESIDE, count, side="left")


def has_any(picture: np.ndarray) -> np.ndarray:
    """Blocks of a detail picture that hold anything: bool (rows, columns)."""
    _, h, w = picture.shape
    rows = np.bitwise_or.reduce(picture.reshape(PLANES, h // SIDE, SIDE, w), axis=(0, 2))
    parts: np.ndarray = np.bitwise_or.reduce(rows.reshape(h // SIDE, w // SIDE, SIDE), axis=2) != 0
    return parts


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


def cosine_tables(known: np.ndarray, plane: int, diagonal: int) -> np.ndarray:
    """Tables for a diagonal of blocks (n, 3, 8, 8), whose earlier ones are known: (n, frequencies)."""
    down, right = on_diagonal(diagonal)
    around = np.zeros((len(known), len(down)), np.int64)
    if plane:
        around += 2 * np.abs(known[:, 0, down, right])
    for up, left, weight in NEIGHBOURS:
        is_inside = (down >= up) & (right >= left)
        if is_inside.any():
            there = known[:, plane, down[is_inside] - up, right[is_inside] - left]
            around[:, is_inside] += weight * np.abs(there)
    kind = min(plane, 1) * 4 + int(ZONES[diagonal])
    tables: np.ndarray = kind * (len(SIZES) + 1) + np.searchsorted(SIZES, around, side="left")
    return tables


def step_of(level: int) -> int:
    """The step of the cosines at a level, in 2^-4 levels of 255."""
    quality, tenths = divmod(level - TENTHS, TENTHS)
    following = STEPS[min(quality + 1, len(STEPS) - 1)]
    return (STEPS[quality] * (TENTHS - tenths) + following * tenths) // TENTHS


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


def from_blocks(blocks: np.ndarray) -> np.ndarray:
    """(rows, columns, 3, 8, 8) → (3, H, W)."""
    rows, columns, c = blocks.shape[:3]
    return blocks.transpose(2, 0, 3, 1, 4).reshape(c, rows * SIDE, columns * SIDE)


@lru_cache(maxsize=1)
def frequencies() -> np.ndarray:
    """The tables, int32 (tables, 256), rows sum to 2^24."""
    rows = [spread_row(*each) for each in SPREADS.reshape(-1, 2).tolist()]
    rows += [row_of(dict(enumerate(lengths.tolist()))) for lengths in LENGTHS]
    rows += [row_of({0: 256 - p, 1: p}) for p in DENSITIES.tolist()]
    rows.append(row_of(dict.fromkeys(range(len(DENSITIES)), 1)))
    return np.stack(rows)


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
