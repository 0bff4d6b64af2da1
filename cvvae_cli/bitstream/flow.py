"""`flow-1`: how frames moved before they were encoded (FORMAT.md, "flow-1"; cvvae_cli/flow).

For every latent frame three parts, of two numbers at each place: where the frame before the reference moves,
and by how much the others differ from a steady motion. A part is empty, or goes from coarse to fine. With
`flow-2` a part may be that of a frame which is borrowed (flow/borrow.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from cvvae_cli.bitstream.anchors import unforeseen
from cvvae_cli.bitstream.motion import VECTOR_TABLES, between_levels, predict_vectors
from cvvae_cli.bitstream.residuals import (
    Beside,
    Past,
    Predictions,
    ResidualCoder,
    check_frequencies,
)
from cvvae_cli.errors import CorruptFileError, WeightsError
from cvvae_cli.flow.field import FIRST, LARGEST, OTHERS, SECOND
from cvvae_cli.flow.refinement import field_passes, from_parts, to_parts
from cvvae_cli.types import Borrowed

PARTS = len(OTHERS)
CODED_AS = (2, 0, 1)  # of the parts as they are coded (`to_parts`)
HELD, BORROWED = 1, 2  # flags of `flow-2`
FREQUENCIES = "flow.frequencies"
FIRST_WORTHLESS, LAST_WORTHLESS = 250.0, 15.0  # squared levels, at the lowest and the highest level
FLAG_TABLES = PARTS  # whether a part holds anything
FLOW_TABLES = FLAG_TABLES + 2 * VECTOR_TABLES  # of the first part, and of the others


def worthless(level: int) -> float:
    """The error for which no vector is coded at a level (see `thinned`): less where errors weigh more."""
    return between_levels(FIRST_WORTHLESS, LAST_WORTHLESS, level)


class FlowCoder(ResidualCoder):
    """Codes fields; each latent frame by itself."""

    name = "flow-1"

    @classmethod
    def of_model(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """With the integers that lie with a model's weights. Raises WeightsError if they are unfit."""
        frequencies = tensors.get(FREQUENCIES)
        if frequencies is None:
            raise WeightsError(f"the weights lack {FREQUENCIES}")
        check_frequencies(frequencies, FLOW_TABLES)
        return cls(frequencies)

    def encode_fields(self, fields: np.ndarray) -> bytes:
        """int16 (t, 3, 2, rows, columns) → bytes."""
        return self.encode_all(fields, {})

    def decode_fields(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """Bytes → int16 (t, 3, 2, rows, columns), of a shape (t, rows, columns)."""
        return self.decode_all(data, shape)[0]

    def encode_all(self, fields: np.ndarray, borrowed: Borrowed) -> bytes:
        """The same with what is borrowed: nothing, with this coder."""
        return self.encode(self.as_symbols(fields), ())

    def decode_all(self, data: bytes, shape: tuple[int, int, int]) -> tuple[np.ndarray, Borrowed]:
        """The same, and what is borrowed, whose own fields are zero."""
        return in_range(from_parts(self.decoded_parts(data, shape))), {}

    def decoded_parts(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """Bytes → what is coded, int32 (t, 3, 2, rows, columns), of a shape (t, rows, columns)."""
        t, rows, columns = shape
        symbols = self.decode(data, (t, 2 * PARTS, rows, columns), ())
        return symbols.reshape(t, PARTS, 2, rows, columns)

    @staticmethod
    def as_symbols(fields: np.ndarray) -> np.ndarray:
        """int32 (t, 6, rows, columns): the three parts of each latent frame."""
        parts: np.ndarray = to_parts(fields.astype(np.int32))
        return parts.reshape(len(parts), 2 * PARTS, *parts.shape[3:])

    def flags_of(self, parts: np.ndarray) -> np.ndarray:
        """What is said of the parts (3, n) of the next latent frame before they are coded, int32 (3,)."""
        return np.asarray(parts.any(1), np.int32)

    def hold_any(self, flags: np.ndarray) -> np.ndarray:
        """Of such flags, bool (3,): whether the parts are coded at all."""
        return flags != 0

    def predictions(
        self, shape: tuple[int, int, int], past: Past, wanted: np.ndarray | None, *, is_aligned: bool = False
    ) -> Predictions:
        parts = None if wanted is None else wanted[0].reshape(PARTS, -1)
        flags = yield (
            Beside(None if parts is None else self.flags_of(parts)),
            unforeseen(np.arange(PARTS, dtype=np.int32)),
        )
        for part in np.flatnonzero(self.hold_any(flags)).tolist():
            known = np.zeros((2, *shape[1:]), np.int32)
            first_table = FLAG_TABLES + VECTOR_TABLES * (part > 0)
            for where, neighbours in field_passes(*shape[1:]):
                guess = predict_vectors(known, where, neighbours, first_table)
                known[where] = yield (slice(2 * part, 2 * part + 2), *where[1:]), guess


class BorrowingFlowCoder(FlowCoder):
    """`flow-2`: codes fields, and the vectors of what is borrowed in place of those of such frames."""

    name = "flow-2"

    def encode_all(self, fields: np.ndarray, borrowed: Borrowed) -> bytes:
        symbols = self.as_symbols(fields)
        parts = symbols.reshape(len(symbols), PARTS, 2, *symbols.shape[2:])
        self._marks = np.zeros(parts.shape[:2], np.int32)
        for (number, part), vectors in borrowed.items():
            parts[number, CODED_AS[part]] = vectors
            if part == SECOND and (number, FIRST) in borrowed:  # about twice as far
                parts[number, CODED_AS[part]] -= 2 * borrowed[number, FIRST]
            self._marks[number, CODED_AS[part]] = BORROWED
        return self.encode(symbols, ())

    def decode_all(self, data: bytes, shape: tuple[int, int, int]) -> tuple[np.ndarray, Borrowed]:
        parts = self.decoded_parts(data, shape)
        found: Borrowed = {}
        for number, flags in enumerate(self._flags):
            for part in (part for part in range(PARTS) if flags[CODED_AS[part]] & BORROWED):
                vectors = parts[number, CODED_AS[part]].copy()
                if part == SECOND and (number, FIRST) in found:
                    vectors += 2 * found[number, FIRST]
                found[number, part] = in_range(vectors)
                parts[number, CODED_AS[part]] = 0
        fields = from_parts(parts)
        for number, part in found:  # what a steady motion would make of it may be out of range
            fields[number, part] = 0
        return in_range(fields), found

    def begin(self) -> None:
        self._flags: list[np.ndarray] = []  # of the latent frames so far

    def flags_of(self, parts: np.ndarray) -> np.ndarray:
        return super().flags_of(parts) + self._marks[len(self._flags)]

    def hold_any(self, flags: np.ndarray) -> np.ndarray:
        if ((flags < 0) | (flags > HELD + BORROWED)).any():
            raise CorruptFileError("the motion of a chunk is damaged")
        self._flags.append(flags)
        return flags & HELD != 0


def in_range(vectors: np.ndarray) -> np.ndarray:
    """Vectors as they are kept, int16. Raises CorruptFileError if some are too long."""
    if vectors.size and np.abs(vectors).max() > LARGEST:
        raise CorruptFileError("the motion of a chunk is out of range")
    return vectors.astype(np.int16)
