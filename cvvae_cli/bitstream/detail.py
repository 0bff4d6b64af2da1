"""`detail-1`: what the pictures of a decoder lack, where it stays (FORMAT.md, "detail-1").

A network of fixed size leaves out the same of a thing in every frame that shows it: letters, grain of wood,
leaves. Its decoder remembers a *detail picture* beside it, which moves as latents do, by the vectors coded
with them. A latent frame says where of it is shown, and adds cosines to it, in blocks of 8x8 pixels. All that
is remembered is in integers, so it is the same everywhere; in the end it is added to the pixels of frames.

`detail-2` can also remember the colours of a place themselves, which then stand in place of what is decoded.
Letters that move are left out otherwise wherever they come, but their colours go with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from cvvae_cli.bitstream.cosines import (
    COLOURS,
    DENSITY_TABLE,
    PLANES,
    SIDE,
    Added,
    CosineCoder,
    CosineRows,
    CosineTables,
    Steps,
    coded,
    flags,
    in_blocks,
    over_pixels,
    planned,
    turned,
)
from cvvae_cli.bitstream.residuals import Plan, Step
from cvvae_cli.bitstream.vectors import BLOCK, CELL
from cvvae_cli.types import Detail

LARGEST_PIXEL = 32_767
# Steps of the cosines in 2^-4 levels, at qualities 1 to 10; between them they lie on straight lines
STEPS = (1216, 1030, 872, 738, 625, 529, 448, 379, 321, 272)
TENTHS = 10  # levels in a quality
TABLES = CosineTables(
    spreads=np.array(
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
    ),
    lengths=np.array(
        [
            [24, 221, 21, 20, 34, 156, 342, 475, 552, 358, 462, 406, 294, 306, 269, 156],
            [3807, 9, 24, 65, 39, 29, 19, 18, 20, 14, 12, 8, 8, 8, 8, 8],
            [3868, 11, 69, 31, 16, 15, 11, 10, 9, 8, 8, 8, 8, 8, 8, 8],
        ]
    ),
    densities=np.array([0, 1, 2, 4, 7, 12, 20, 32, 52, 80, 112, 144, 184, 220, 246, 256]),
    stated=np.ones(16, int),
)
SHOWS = 2  # densities of which blocks are shown, and of which become opaque
PAINTED = CosineRows(
    spreads=np.array(
        [
            [
                [(22, 9), (128, 128), (128, 128), (128, 128), (128, 128), (128, 128)],
                [(169, 89), (132, 89), (103, 73), (88, 60), (74, 54), (39, 38)],
                [(225, 191), (162, 172), (127, 146), (98, 116), (69, 88), (37, 46)],
                [(240, 196), (194, 208), (153, 199), (106, 178), (64, 136), (31, 74)],
            ],
            [
                [(48, 42), (40, 46), (31, 40), (17, 34), (9, 30), (6, 36)],
                [(157, 96), (166, 103), (160, 112), (131, 111), (99, 93), (64, 49)],
                [(252, 195), (225, 213), (198, 201), (155, 183), (102, 147), (80, 78)],
                [(252, 213), (235, 230), (217, 206), (169, 192), (74, 171), (34, 104)],
            ],
        ]
    ),
    lengths=np.array(
        [
            [116, 478, 72, 68, 46, 90, 64, 136, 485, 378, 358, 392, 334, 363, 369, 347],
            [1680, 818, 111, 127, 83, 106, 84, 110, 345, 290, 105, 96, 48, 37, 34, 22],
            [2284, 324, 155, 110, 79, 134, 97, 120, 325, 238, 70, 76, 32, 21, 16, 14],
        ]
    ),
)
FIRST_PAINTED = len(TABLES.frequencies)  # the tables of opaque blocks come after the others


@dataclass(frozen=True)
class Memory:
    """What is remembered from one latent frame to the next."""

    picture: np.ndarray  # int16 (3, H, W) in 2^-4 levels, multiples of 8
    shown: np.ndarray  # bool (rows, columns) of blocks
    opaque: np.ndarray  # bool (H, W): where the picture says colours, counted from mid-grey
    came: np.ndarray | None = None  # int32 (2, rows, columns): by what its larger blocks moved; None: nothing

    @classmethod
    def empty(cls, rows: int, columns: int) -> Memory:
        size = SIDE * rows, SIDE * columns
        picture, shown = np.zeros((PLANES, *size), np.int16), np.zeros((rows, columns), bool)
        return cls(picture, shown, np.zeros(size, bool))

    def moved(self, vectors: np.ndarray) -> Memory:
        """By vectors (2, rows, columns) of larger blocks; the picture goes on at its edges as its edge."""
        picture = followed(self.picture, vectors) if self.picture.any() else self.picture
        opaque = followed(self.opaque[None], vectors)[0] if self.opaque.any() else self.opaque
        return Memory(picture, self.shown, opaque, vectors)

    @property
    def held(self) -> np.ndarray:
        """Blocks that hold anything: bool (rows, columns)."""
        return has_any(self.picture) | has_any(self.opaque[None])

    def colours(self) -> np.ndarray:
        """Red, green and blue of what is shown: int16 (3, H, W) in 2^-4 levels."""
        colours = np.zeros_like(self.picture)
        in_blocks(colours)[self.shown] = np.rint(turned(in_blocks(self.picture)[self.shown], COLOURS.T))
        return colours

    def covering(self) -> np.ndarray:
        """Where those stand in place of what is decoded: bool (H, W)."""
        covering: np.ndarray = self.opaque & over_pixels(self.shown)
        return covering


@dataclass(frozen=True)
class Change(Added):
    """What an encoder does to the memory at a latent frame."""

    shown: np.ndarray  # bool (rows, columns), with all that are changed
    painted: np.ndarray | None = None  # bool (rows, columns): those that become opaque, in `detail-2`
    colours: np.ndarray | None = None  # int (painted blocks, 3, 8, 8) in steps: the cosines of those


class MayPaint(Protocol):
    """A coder of symbols."""

    @property
    def paints(self) -> bool: ...


Choose = Callable[[int, Memory], Change]  # of a latent frame's number in a chunk, and the memory, moved


class DetailCoder(CosineCoder):
    """Codes detail of one quality level, a chunk at a time."""

    name = "detail-1"
    paints = False

    def __init__(self, level: int, *more: CosineRows) -> None:
        super().__init__(TABLES, step_of(level), *more)
        self.level = level

    def encode(self, memory: Memory, vectors: list[np.ndarray], choose: Choose) -> tuple[bytes, list[Memory]]:
        """Bytes of a chunk, none if nothing is shown, and the memory after each of its latent frames.

        `vectors` (2, rows, columns) of each latent frame say how the memory moves.
        """
        steps: list[Step] = []
        memories = []
        for number, field in enumerate(vectors):
            before = memory.moved(field)
            memory = planned(self.frame(before, choose(number, before)), steps)
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
                memory = replace(memory, shown=np.zeros_like(memory.shown))
            else:
                memory = self.decoded(self.frame(memory, None), coder)
            memories.append(memory)
        return memories

    def frame(self, before: Memory, change: Change | None) -> Steps[Memory]:
        """The steps of a latent frame; they end with the memory."""
        rows, columns = before.shown.shape
        changed = yield from self.changed_blocks(rows, columns, None if change is None else change.changed)

        painted = yield from self.painted_blocks(before, changed, change)

        kept = before.held & ~changed
        was = before.shown.astype(int)
        of = (
            None
            if change is None
            else self.densities_of(change.shown, [kept & (was == k) for k in range(SHOWS)])
        )
        states = yield from coded(np.full(SHOWS, DENSITY_TABLE), of)
        shown = changed.copy()
        yield from flags(shown, kept, states[was], None if change is None else change.shown)

        added = changed & ~painted
        cosines = yield from self.cosines(int(added.sum()), None if change is None else change.cosines)
        memory = replace(before, shown=shown)
        if added.any():
            memory = self.added(memory, added, cosines)
        if painted.any():
            wanted = None if change is None else change.colours
            colours = yield from self.cosines(int(painted.sum()), wanted, FIRST_PAINTED)
            memory = self.painted(memory, painted, colours)
        return memory

    def painted_blocks(self, before: Memory, changed: np.ndarray, change: Change | None) -> Steps[np.ndarray]:
        """The steps of which of the changed blocks become opaque: none."""
        yield from ()
        return np.zeros_like(changed)

    def added(self, memory: Memory, changed: np.ndarray, cosines: np.ndarray) -> Memory:
        """With cosines added in blocks, which are not opaque then."""
        picture, opaque = cleared(memory, changed)
        blocks = in_blocks(picture)
        blocks[changed] = (blocks[changed] + self.pixels(cosines)).clip(-LARGEST_PIXEL, LARGEST_PIXEL)
        return replace(memory, picture=picture, opaque=opaque)

    def painted(self, memory: Memory, changed: np.ndarray, cosines: np.ndarray) -> Memory:
        """With opaque blocks: what is expected of their colours, and cosines."""
        picture, opaque = memory.picture.copy(), memory.opaque.copy()
        expected = expected_colours(memory, np.nonzero(changed)) + self.pixels(cosines)
        in_blocks(picture)[changed] = expected.clip(-LARGEST_PIXEL, LARGEST_PIXEL)
        in_blocks(opaque[None])[changed] = True
        return replace(memory, picture=picture, opaque=opaque)


class PaintedDetailCoder(DetailCoder):
    """Codes detail that may be opaque."""

    name = "detail-2"
    paints = True

    def __init__(self, level: int) -> None:
        super().__init__(level, PAINTED)

    def painted_blocks(self, before: Memory, changed: np.ndarray, change: Change | None) -> Steps[np.ndarray]:
        """By whether anything is opaque there as it is."""
        of = None if change is None else change.painted
        was = has_any(before.opaque[None]).astype(int)
        parts = [changed & (was == k) for k in range(SHOWS)]
        states = yield from coded(
            np.full(SHOWS, DENSITY_TABLE), None if of is None else self.densities_of(of, parts)
        )
        painted = np.zeros_like(changed)
        yield from flags(painted, changed, states[was], of)
        return painted


def detail_coder(coder: MayPaint, level: int) -> DetailCoder:
    """That which goes with a coder of symbols."""
    return PaintedDetailCoder(level) if coder.paints else DetailCoder(level)


def cleared(memory: Memory, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copies of the picture and of what is opaque, without that in some blocks (rows, columns)."""
    picture, opaque = memory.picture.copy(), memory.opaque.copy()
    if opaque.any():
        of_those = opaque & over_pixels(blocks)
        picture[:, of_those] = 0
        opaque[of_those] = False
    return picture, opaque


def expected_colours(memory: Memory, at: tuple[np.ndarray, ...]) -> np.ndarray:
    """What some blocks, by row and column, are added to if they are painted, int64 (n, 3, 8, 8): the opaque
    pixels that are there, and elsewhere their mean."""
    opaque = in_blocks(memory.opaque[None])[at]
    known = np.where(opaque, in_blocks(memory.picture)[at], 0).astype(np.int64)
    count = opaque.sum((2, 3), keepdims=True)
    mean = known.sum((2, 3), keepdims=True) // np.maximum(count, 1)
    expected: np.ndarray = np.where(opaque, known, mean)
    return expected


def detail_of(memories: list[Memory]) -> Detail:
    """What the pictures of latent frames are given."""
    colours = np.stack([memory.colours() for memory in memories])
    opaque = np.stack([memory.covering() for memory in memories])
    still = np.zeros((2, *(-(-length // (BLOCK * CELL)) for length in opaque.shape[1:])), np.int32)
    came = [still if memory.came is None else memory.came for memory in memories]
    return Detail(colours, opaque, np.stack(came))


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


def has_any(picture: np.ndarray) -> np.ndarray:
    """Blocks of a picture (K, H, W) that hold anything: bool (rows, columns)."""
    k, h, w = picture.shape
    rows = np.bitwise_or.reduce(picture.reshape(k, h // SIDE, SIDE, w), axis=(0, 2))
    parts: np.ndarray = np.bitwise_or.reduce(rows.reshape(h // SIDE, w // SIDE, SIDE), axis=2) != 0
    return parts


def step_of(level: int) -> int:
    """The step of the cosines at a level, in 2^-4 levels of 255."""
    quality, tenths = divmod(level - TENTHS, TENTHS)
    following = STEPS[min(quality + 1, len(STEPS) - 1)]
    return (STEPS[quality] * (TENTHS - tenths) + following * tenths) // TENTHS
