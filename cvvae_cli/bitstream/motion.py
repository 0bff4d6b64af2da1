"""`prior-2` and `prior-3`: `prior-1` that follows motion (FORMAT.md, "prior-2" and "prior-3").

In place of the latent frame before, its network sees what is expected of the present one: where blocks move,
a coarse picture is made of the frame before, moved by vectors that are coded with each latent frame, and
turned into latents again. All of it in integers: products are those of float64, whose sums here stay below
2^53 and so are exact.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.bitstream.prior import (
    FIRST_LEVEL,
    LAST_LEVEL,
    PriorCoder,
    PriorFrame,
    PriorTables,
    as_plane,
    convolve,
    matrices,
)
from cvvae_cli.bitstream.residuals import (
    PHASES,
    Beside,
    Past,
    Prediction,
    Predictions,
    Where,
    tables_of,
    tensors_of,
)
from cvvae_cli.bitstream.vectors import BLOCK, CELL, FRAMES, Moving, search, still, useful
from cvvae_cli.bitstream.vectors import LARGEST as LARGEST_VECTOR
from cvvae_cli.errors import CorruptFileError, WeightsError
from cvvae_cli.flow.refinement import Neighbours, between, field_passes

HALF = CELL // 2  # of the planes of colour
LUMA, CHROMA = CELL**2, 2 * HALF**2  # numbers of a latent position in a picture
NUMBERS = LUMA + CHROMA
FRACTION = 4  # bits after the point of what is expected, in cells of the quantiser
STEP_BITS, GAIN_BITS, PIXEL_BITS, LATENT_BITS = 10, 16, 12, 12  # after the point
LARGEST = 32_767  # of a pixel, and of what is expected
LARGEST_LATENT = 2**24 - 1
LEVELS = LAST_LEVEL - FIRST_LEVEL + 1
FIRST_PRICE, LAST_PRICE = 0.014, 0.0011  # of a vector at the lowest and the highest level, squared difference
PIECE = 4096  # latent positions at a time
SPREADS = (0, 2, 8, 24)  # of the neighbours of a component: up to each, tables of their own
VECTOR_TABLES = 2 * (len(SPREADS) + 1) + 1


@dataclass(frozen=True)
class MotionTables:
    """The integers that turn latents into a picture and back, as they lie with the weights of a model."""

    picture: np.ndarray  # int16 (9, C, 96): neighbours in row order
    picture_bias: np.ndarray  # int64 (96,)
    latents: np.ndarray  # int16 (384, C): of four instants, brightness first
    latents_bias: np.ndarray  # int64 (C,)
    shift: np.ndarray  # uint8 (2,): of the picture, of the latents
    gain: np.ndarray  # int32 (91, C): symbols per unit of a latent in 2^-16, of each level
    step: np.ndarray  # int32 (91, C): units per symbol in 2^-10

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> MotionTables:
        """From the `motion.*` arrays of a weights file. Raises WeightsError if they are unfit."""
        tables = tables_of(cls, "motion", tensors)
        channels = tables.gain.shape[-1]
        shapes = {
            "picture": (9, channels, NUMBERS),
            "picture_bias": (NUMBERS,),
            "latents": (FRAMES * NUMBERS, channels),
            "latents_bias": (channels,),
            "gain": (LEVELS, channels),
            "step": (LEVELS, channels),
            "shift": (2,),
        }
        if any(getattr(tables, name).shape != shape for name, shape in shapes.items()):
            raise WeightsError("the integers of motion are damaged")
        return tables

    def to_tensors(self) -> dict[str, np.ndarray]:
        return tensors_of(self, "motion")


@dataclass(frozen=True)
class Picture:
    """What a latent frame shows at its end, integers in 2^-12 as float32."""

    luma: Tensor  # (1, 1, 8h, 8w)
    chroma: Tensor  # (1, 2, 4h, 4w)


class Motion:
    """The integers of one quality level as tensors of float64."""

    def __init__(self, tables: MotionTables, level: int, device: torch.device, symbol_bits: int = 0) -> None:
        """`symbol_bits`: after the point of the symbols of the frame before."""

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device, torch.float64)

        row = level - FIRST_LEVEL
        first, second = 0.5 ** tables.shift.astype(np.float64)  # powers of two leave sums exact
        self.symbol_bits = symbol_bits
        self.kernels = tensor(matrices(tables.picture) * (np.tile(tables.step[row], 3) * first))
        self.picture_bias = tensor(tables.picture_bias * first)
        self.weights = {
            instants: tensor(of_instants(tables.latents, instants) * second) for instants in (1, FRAMES)
        }
        self.latents_bias = tensor(tables.latents_bias * second)
        self.gain = tensor(tables.gain[row] * 0.5 ** (LATENT_BITS + GAIN_BITS - FRACTION))

    def picture(self, symbols: Tensor) -> Picture:
        """Of the symbols (h, w, C) of a latent frame, exactly."""
        return self.picture_of(symbols.double().mul_(0.5**self.symbol_bits))

    def picture_of(self, cells: Tensor) -> Picture:
        """Of a latent frame (h, w, C) in cells of the quantiser."""
        total = convolve(cells.double(), self.kernels, self.picture_bias)
        pixels = total.add_(0.5).floor_().clamp_(-LARGEST, LARGEST).float()
        planes = pixels.permute(2, 0, 1)[None]
        return Picture(
            functional.pixel_shuffle(planes[:, :LUMA], CELL), functional.pixel_shuffle(planes[:, LUMA:], HALF)
        )

    def expected(
        self,
        before: Tensor,
        vectors: Tensor,
        moves: Tensor,
        picture: Picture | None = None,
        instants: int = FRAMES,
    ) -> Tensor:
        """The frame after symbols `before` (h, w, C), moved by vectors (1, 2, rows, columns): 1/16 cells.

        `moves` (1, h, w) says where. `picture` is that of `before`, if it is at hand; it is made only where
        something moves. The frame shows four instants, or one, that of the reference.
        """
        expected = (before << (FRACTION - self.symbol_bits)).clamp_(-LARGEST, LARGEST)
        places = moves.nonzero()
        if not len(places):
            return expected
        picture = picture or self.picture(before)
        reach = int(vectors.abs().max())
        luma = Moving(picture.luma, 1, instants, reach=reach)
        chroma = Moving(picture.chroma, 2, instants, reach=reach)
        weights = self.weights[instants]
        for piece in torch.split(places, PIECE):  # so that memory does not grow with the picture
            cells = piece.unbind(1)
            numbers = torch.empty((len(piece), len(weights)), dtype=torch.float64, device=piece.device)
            numbers[:, : instants * LUMA] = luma.at(cells, vectors).flatten(1)
            numbers[:, instants * LUMA :] = chroma.at(cells, vectors).flatten(1)
            total = torch.addmm(self.latents_bias, numbers, weights)
            total.add_(0.5).floor_().clamp_(-LARGEST_LATENT, LARGEST_LATENT)
            total.mul_(self.gain).add_(0.5).floor_()
            expected[cells[1:]] = total.clamp_(-LARGEST, LARGEST).int()
        return expected


class MotionCoder(PriorCoder):
    """`prior-2` of one quality level."""

    name = "prior-2"
    fraction = FRACTION

    def __init__(self, tables: PriorTables, motion: MotionTables, level: int, device: str = "cpu") -> None:
        super().__init__(tables, level, device)
        self.motion = Motion(motion, level, self.device, self.symbol_bits)

    @classmethod
    def of_model(
        cls, tensors: Mapping[str, np.ndarray], level: int | None, device: str = "cpu"
    ) -> MotionCoder:
        """With the integers that lie with a model's weights."""
        level = cls.checked(level)
        tables = cls.tables_kind.from_tensors(tensors)
        return cls(tables, MotionTables.from_tensors(tensors), level, device)

    @property
    def first_other_table(self) -> int:
        return len(self.frequencies) - VECTOR_TABLES

    def predictions(
        self, shape: tuple[int, int, int], past: Past, wanted: np.ndarray | None, *, is_aligned: bool = False
    ) -> Predictions:
        _, h, w = shape
        earlier = as_plane(past[0] if past else np.zeros(shape, np.int32), self.device)
        before = torch.zeros_like(earlier)
        moves = torch.zeros(1, h, w, dtype=torch.bool, device=self.device)
        if past:
            picture = chosen = None
            if wanted is not None:
                picture = self.motion.picture(earlier)
                chosen = self.search(picture, as_plane(wanted[0], self.device))
            field = yield from self.field(h, w, chosen)
            vectors = torch.from_numpy(field).to(self.device, torch.int64)[None]
            moves = ~still(vectors, h, w)
            instants = 1 if is_aligned else FRAMES
            before = self.motion.expected(earlier, vectors, moves, picture, instants)
        from_mean = moves[0] if self.symbol_bits else None
        anchors = yield from self.anchors(shape, past, wanted)
        yield from PriorFrame(self.network(), len(past), before, earlier, from_mean, anchors).passes()

    def anchors(
        self, shape: tuple[int, int, int], past: Past, wanted: np.ndarray | None
    ) -> Generator[tuple[Where, Prediction], np.ndarray, Tensor | None]:
        """What the whole cells of resting symbols are counted from, (h, w, C) as PriorFrame takes it."""
        yield from ()
        return None

    @property
    def reach(self) -> int:
        """The largest vector, down or right, in pixels."""
        return LARGEST_VECTOR

    def search(self, before: Picture, wanted: Tensor) -> np.ndarray:
        """Vectors int32 (2, rows, columns) from the picture of a latent frame to the next frame (h, w, C)."""
        source, target = (p.luma[0] * 0.5**PIXEL_BITS for p in (before, self.motion.picture_of(wanted)))
        rows, columns = (-(-length // BLOCK) for length in wanted.shape[:2])
        starts = (torch.from_numpy(each).to(self.device, torch.int64) for each in self.starts(rows, columns))
        largest = useful(self.reach, source.shape[1:])
        price = vector_price(self.level)
        found = search(source, target, price, tuple(each[None] for each in starts), largest)[0]
        field: np.ndarray = found.to("cpu", torch.int32).numpy()
        return field

    def starts(self, rows: int, columns: int) -> tuple[np.ndarray, ...]:
        """Fields (2, rows, columns) of vectors, near which those of the frame that is encoded may be."""
        return ()

    def field(
        self, h: int, w: int, chosen: np.ndarray | None
    ) -> Generator[tuple[Where, Prediction], np.ndarray, np.ndarray]:
        """The steps of the vectors of a frame of h x w positions; returns them, int32 (2, rows, columns)."""
        known = np.zeros((2, -(-h // BLOCK), -(-w // BLOCK)), np.int32)
        for where, neighbours in field_passes(*known.shape[1:]):
            guess = predict_vectors(known, where, neighbours, self.first_other_table)
            known[where] = yield Beside(None if chosen is None else chosen[where]), guess
            if np.abs(known[where]).max() > self.reach:
                raise CorruptFileError("the motion of a chunk is out of range")
        return known


class CenteredCoder(MotionCoder):
    """`prior-3` of one quality level: `prior-2` that counts residuals from the mean where something moves.

    A residual of zero then gives the mean itself, and a mean between two integers costs nothing. What rests
    stays on integers: it must not drift, nor jump where the coder starts fresh.
    """

    name = "prior-3"
    symbol_bits = FRACTION
    tables_per_bin = PHASES + 1


def of_instants(latents: np.ndarray, instants: int) -> np.ndarray:
    """Weights (384, C) of four instants, or what they come to where all are alike: (96, C)."""
    luma, chroma = np.split(latents.astype(np.int64), [FRAMES * LUMA])
    parts = (part.reshape(FRAMES, -1, latents.shape[1]) for part in (luma, chroma))
    whole = [part.sum(0) if instants == 1 else part.reshape(-1, latents.shape[1]) for part in parts]
    return np.concatenate(whole)


def vector_price(level: int) -> float:
    """What a vector costs in `search` at a level; it falls as errors weigh more."""
    return between_levels(FIRST_PRICE, LAST_PRICE, level)


def between_levels(first: float, last: float, level: int) -> float:
    """From the value of the lowest level to that of the highest, by equal factors."""
    share = (level - FIRST_LEVEL) / (LAST_LEVEL - FIRST_LEVEL)
    return float(first * (last / first) ** share)


def predict_vectors(known: np.ndarray, where: Where, neighbours: Neighbours, first_table: int) -> Prediction:
    """By the middle of four neighbours; the more they spread, the less it says."""
    middle, spread = between(known, where, neighbours)
    tables = np.full(middle.shape, VECTOR_TABLES - 1, np.int32)
    if neighbours:
        tables[:] = 2 * np.searchsorted(SPREADS, spread, side="left") + (spread[::-1] > 0)
    return Prediction(middle, np.ones_like(middle), tables + first_table)
