"""`detail-1`: what the pictures of a decoder lack, where it stays (FORMAT.md, "detail-1").

A network of fixed size leaves out the same of a thing in every frame that shows it: letters, grain of wood,
leaves. Its decoder remembers a *detail picture* beside it, which moves as latents do, by the vectors coded
with them. A latent frame says where of it is shown, and adds cosines to it, in blocks of 8x8 pixels. All that
is remembered is in integers, so it is the same everywhere; in the end it is added to the pixels of frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cvvae_cli.bitstream.cosines import (
    COLOURS,
    DENSITY_TABLE,
    PLANES,
    SIDE,
    Added,
    CosineCoder,
    CosineTables,
    Steps,
    coded,
    flags,
    in_blocks,
    planned,
    turned,
)
from cvvae_cli.bitstream.residuals import Plan, Step
from cvvae_cli.bitstream.vectors import BLOCK, CELL

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
SHOWS = 2  # densities of which blocks are shown


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
class Change(Added):
    """What an encoder does to the memory at a latent frame."""

    shown: np.ndarray  # bool (rows, columns), with all that are changed


Choose = Callable[[int, Memory], Change]  # of a latent frame's number in a chunk, and the memory, moved


class DetailCoder(CosineCoder):
    """Codes detail of one quality level, a chunk at a time."""

    name = "detail-1"

    def __init__(self, level: int) -> None:
        super().__init__(TABLES, step_of(level))
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
                memory = Memory(memory.picture, np.zeros_like(memory.shown))
            else:
                memory = self.decoded(self.frame(memory, None), coder)
            memories.append(memory)
        return memories

    def frame(self, before: Memory, change: Change | None) -> Steps[Memory]:
        """The steps of a latent frame; they end with the memory."""
        rows, columns = before.shown.shape
        changed = yield from self.changed_blocks(rows, columns, None if change is None else change.changed)

        kept = has_any(before.picture) & ~changed
        was = before.shown.astype(int)
        of = (
            None
            if change is None
            else self.densities_of(change.shown, [kept & (was == k) for k in range(SHOWS)])
        )
        states = yield from coded(np.full(SHOWS, DENSITY_TABLE), of)
        shown = changed.copy()
        yield from flags(shown, kept, states[was], None if change is None else change.shown)

        cosines = yield from self.cosines(int(changed.sum()), None if change is None else change.cosines)
        return Memory(self.added(before.picture, changed, cosines), shown)

    def added(self, picture: np.ndarray, changed: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """The picture with cosines added in its changed blocks, int16 (3, H, W)."""
        if not len(cosines):
            return picture
        total = picture.copy()
        blocks = in_blocks(total)
        blocks[changed] = (blocks[changed] + self.pixels(cosines)).clip(-LARGEST_PIXEL, LARGEST_PIXEL)
        return total


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


def has_any(picture: np.ndarray) -> np.ndarray:
    """Blocks of a detail picture that hold anything: bool (rows, columns)."""
    _, h, w = picture.shape
    rows = np.bitwise_or.reduce(picture.reshape(PLANES, h // SIDE, SIDE, w), axis=(0, 2))
    parts: np.ndarray = np.bitwise_or.reduce(rows.reshape(h // SIDE, w // SIDE, SIDE), axis=2) != 0
    return parts


def step_of(level: int) -> int:
    """The step of the cosines at a level, in 2^-4 levels of 255."""
    quality, tenths = divmod(level - TENTHS, TENTHS)
    following = STEPS[min(quality + 1, len(STEPS) - 1)]
    return (STEPS[quality] * (TENTHS - tenths) + following * tenths) // TENTHS
