"""`prior-4`: `prior-3` whose resting symbols need not be whole (FORMAT.md, "prior-4").

A flat sky is off by up to half a cell of the quantiser where symbols are whole, everywhere alike and for as
long as it rests; a finer quantiser would cost more than it mends. One offset for an area of a channel, coded
once, moves all its symbols to where its latents are.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from torch import Tensor

from cvvae_cli.bitstream.motion import FRACTION, VECTOR_TABLES, CenteredCoder, Picture, vector_price
from cvvae_cli.bitstream.prior import (
    CoarseToFineTables,
    GroupedTables,
    PyramidTables,
    ReachingTables,
    as_plane,
)
from cvvae_cli.bitstream.residuals import (
    CENTER,
    Aligned,
    Beside,
    Past,
    Plan,
    Prediction,
    Predictions,
    Where,
)
from cvvae_cli.bitstream.scene import Scene
from cvvae_cli.bitstream.vectors import BLOCK
from cvvae_cli.errors import CorruptFileError

AREA = 8  # latent positions in each direction that share an offset
OFFSET_BITS = 3  # after the point of an offset, in cells of the quantiser
DEAR = 2.0  # times the price of a bit: beyond that, a residual of 0 is tried too
LARGEST_OFFSET = 1 << OFFSET_BITS >> 1
OFFSETS = np.arange(-LARGEST_OFFSET, LARGEST_OFFSET)  # that an encoder considers

Steps = Generator[tuple[Where, Prediction], np.ndarray, np.ndarray]


def offset_tables(channels: int) -> int:
    """Rows of the frequencies for offsets: whether an area has any, and those of each channel."""
    return 1 + channels


class AnchoredCoder(CenteredCoder):
    """`prior-4` of one quality level: symbols that rest lie whole cells beside an offset.

    That of their area and channel, coded with the first latent frame of a period, in which all symbols rest:
    so the frames after it find it in that one's symbols.
    """

    name = "prior-4"

    @property
    def first_offset_table(self) -> int:
        return len(self.frequencies) - offset_tables(self.channels)

    @property
    def first_other_table(self) -> int:
        return self.first_offset_table - VECTOR_TABLES

    @property
    def channels(self) -> int:
        return self.tables.linear.shape[2]

    def anchors(
        self, shape: tuple[int, int, int], past: Past, wanted: np.ndarray | None
    ) -> Generator[tuple[Where, Prediction], np.ndarray, Tensor | None]:
        if past:
            return as_plane(past[-1] & (1 << FRACTION) - 1, self.device)
        _, h, w = shape
        offsets = yield from self.offsets(h, w, None if wanted is None else self.choose_offsets(wanted))
        sixteenths = offsets << (FRACTION - OFFSET_BITS)
        return as_plane(sixteenths.repeat(AREA, 1).repeat(AREA, 2)[:, :h, :w], self.device)

    def offsets(self, h: int, w: int, chosen: np.ndarray | None) -> Steps:
        """The steps of the offsets of a frame of h x w positions; returns them, int32 (C, rows, columns)."""
        offsets = np.zeros((self.channels, -(-h // AREA), -(-w // AREA)), np.int32)
        known = None if chosen is None else np.logical_or.reduce(chosen).astype(np.int32)
        tables = np.full(offsets.shape[1:], self.first_offset_table, np.int32)
        has_any = (yield Beside(known), unforeseen(tables)) != 0
        tables = np.empty((self.channels, has_any.sum()), np.int32)
        tables[:] = self.first_offset_table + 1 + np.arange(self.channels)[:, None]
        offsets[:, has_any] = yield Beside(None if chosen is None else chosen[:, has_any]), unforeseen(tables)
        if np.abs(offsets).max() > LARGEST_OFFSET:
            raise CorruptFileError("an offset of a chunk is out of range")
        return offsets

    def choose_offsets(self, cells: np.ndarray) -> np.ndarray:
        """Of latents in cells (n, C, h, w): int32 (C, rows, columns), where they are worth their bits."""
        errors = np.stack([sums_of_areas(distance(cells - k / 2**OFFSET_BITS)) for k in OFFSETS])
        costs = self.price * self.costs[self.first_offset_table :]
        total = errors + costs[1:, CENTER + OFFSETS].T[:, :, None, None]
        without = errors[LARGEST_OFFSET].sum(0) + costs[0, CENTER]
        is_worth_it = total.min(0).sum(0) + costs[0, CENTER + 1] < without
        chosen: np.ndarray = np.where(is_worth_it, OFFSETS[total.argmin(0)], 0).astype(np.int32)
        return chosen


def unforeseen(tables: np.ndarray) -> Prediction:
    """Integers that tables alone predict."""
    return Prediction(np.zeros_like(tables), np.ones_like(tables), tables)


def distance(cells: np.ndarray) -> np.ndarray:
    """Squared, to the nearest integer."""
    squared: np.ndarray = (cells - np.rint(cells)) ** 2
    return squared


def sums_of_areas(values: np.ndarray) -> np.ndarray:
    """(n, C, h, w) → (C, rows, columns)."""
    values = values.sum(0)
    for axis in (1, 2):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], AREA), axis)
    return values


class AlignedCoder(AnchoredCoder):
    """`prior-5` of one quality level: `prior-4` whose groups of frames may be aligned (cvvae_cli/flow).

    All that a latent frame of such a group shows is of one instant, so the four that it is expected from are
    that one.
    """

    name = "prior-5"
    takes_fields = True


class LinkedCoder(AlignedCoder):
    """`prior-6` of one quality level: `prior-5` whose periods need not start fresh (bitstream/chunk.py).

    Where little has changed since the first latent frame of the period before, one is expected from that. To
    begin in the middle a reader decodes those first frames, and none between them.
    """

    name = "prior-6"
    links = True


class DetailedCoder(LinkedCoder):
    """`prior-7` of one quality level: `prior-6` beside which detail is coded (bitstream/detail.py).

    Detail moves as blocks do: what they moved by is kept.
    """

    name = "prior-7"
    takes_detail = True

    def begin(self) -> None:
        self._fields: list[np.ndarray] = []

    def field(self, h: int, w: int, chosen: np.ndarray | None) -> Steps:
        field = yield from super().field(h, w, chosen)
        self._fields.append(field)
        return field

    def vectors(self, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
        """By what blocks move in each of the latent frames (t, C, h, w) last planned or decoded."""
        t, _, h, w = shape
        still = np.zeros((2, -(-h // BLOCK), -(-w // BLOCK)), np.int32)
        return [still] * (t - len(self._fields)) + self._fields  # in a fresh one nothing moves


class CorrectedCoder(DetailedCoder):
    """`prior-8` of one quality level: `prior-7` beside which single frames are corrected
    (bitstream/corrections.py)."""

    name = "prior-8"
    takes_corrections = True


class PaintedCoder(CorrectedCoder):
    """`prior-9` of one quality level: `prior-8` whose detail may stand in place of what is decoded."""

    name = "prior-9"
    paints = True
    scene: Scene | None = None  # of the chunk that is encoded, if its pictures are known

    def begin(self) -> None:
        super().begin()
        self._number = 0

    def predictions(
        self, shape: tuple[int, int, int], past: Past, wanted: np.ndarray | None, *, is_aligned: bool = False
    ) -> Predictions:
        yield from super().predictions(shape, past, wanted, is_aligned=is_aligned)
        self._number += 1

    def search(self, before: Picture, wanted: Tensor) -> np.ndarray:
        if self.scene is None:
            return super().search(before, wanted)
        known = self.scene.fields.get(self._number)
        if known is not None:
            return known
        return self.scene.exactly(self._number, super().search(before, wanted), vector_price(self.level))

    def starts(self, rows: int, columns: int) -> tuple[np.ndarray, ...]:
        return () if self.scene is None else self.scene.starts(self._number, rows, columns)

    def seen(self, count: int) -> np.ndarray | None:
        return None if self.scene is None or self.scene.seen is None else self.scene.seen[:count]

    def beginning(self, scaled: np.ndarray, past: Past, aligned: Aligned) -> tuple[Plan, float]:
        """Behind what is remembered and still right, symbols are hidden if a period goes on from a past."""
        if self.scene is None or not past:
            return super().beginning(scaled, past, aligned)
        seen, linked = self.scene.seen, self.scene.seen_if_linked
        self.scene.seen = seen if linked is None else linked
        found = super().beginning(scaled, past, aligned)
        self.scene.seen = seen
        return found

    def best_residuals(self, aims: np.ndarray, guess: Prediction, prices: np.ndarray) -> np.ndarray:
        """Where a bit is worth much, 0 if that is better still."""
        residuals = super().best_residuals(aims, guess, prices)
        at = np.nonzero((residuals != 0) & (prices > DEAR * self.price))
        if len(at[0]):
            self.try_others(residuals, at, np.zeros_like(residuals[at]), aims, guess, prices)
        return residuals


class BorrowingCoder(PaintedCoder):
    """`prior-10` of one quality level: `prior-9` beside which frames are taken from the group beside theirs
    (flow/borrow.py)."""

    name = "prior-10"
    borrows = True


class GroupedCoder(BorrowingCoder):
    """`prior-11` of one quality level: `prior-10` whose symbols are coded in groups of channels.

    A position says of its own first channels how busy it is, before the others are predicted.
    """

    name = "prior-11"
    tables_kind: type[GroupedTables] = GroupedTables


class PyramidCoder(GroupedCoder):
    """`prior-12` of one quality level: `prior-11` that codes a fresh frame from coarse to fine, in passes of
    its own.

    The first quarter of its positions, of which nothing told, took half of its bits.
    """

    name = "prior-12"
    tables_kind: type[PyramidTables] = PyramidTables


class CoarseToFineCoder(PyramidCoder):
    """`prior-13` of one quality level: `prior-12` that codes the other frames from coarse to fine, too, and
    beside which the light of frames is coded (flow/light.py)."""

    name = "prior-13"
    lights = True
    tables_kind: type[CoarseToFineTables] = CoarseToFineTables


class ReachingCoder(CoarseToFineCoder):
    """`prior-14` of one quality level: `prior-13` whose vectors may be larger, as its integers say."""

    name = "prior-14"
    tables_kind: type[ReachingTables] = ReachingTables
    tables: ReachingTables

    @property
    def reach(self) -> int:
        return int(self.tables.reach[0])


class KeepingCoder(ReachingCoder):
    """`prior-15` of one quality level: `prior-14` whose opaque detail is shown as it is.

    Frames are not joined there, and what leaves the picture comes from the very group that painted it
    (flow/border.py). To symbols it is all one.
    """

    name = "prior-15"
