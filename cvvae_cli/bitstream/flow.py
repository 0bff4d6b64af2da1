"""`flow-1`: how frames moved before they were encoded (FORMAT.md, "flow-1"; cvvae_cli/flow).

For every latent frame three parts, of two numbers at each place: where the frame before the reference moves,
and by how much the others differ from a steady motion. A part is empty, or goes from coarse to fine.
"""

from __future__ import annotations

from collections.abc import Mapping

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
from cvvae_cli.flow.field import LARGEST, OTHERS
from cvvae_cli.flow.refinement import field_passes, from_parts, to_parts

PARTS = len(OTHERS)
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
    def of_model(cls, tensors: Mapping[str, np.ndarray]) -> FlowCoder:
        """With the integers that lie with a model's weights. Raises WeightsError if they are unfit."""
        frequencies = tensors.get(FREQUENCIES)
        if frequencies is None:
            raise WeightsError(f"the weights lack {FREQUENCIES}")
        check_frequencies(frequencies, FLOW_TABLES)
        return cls(frequencies)

    def encode_fields(self, fields: np.ndarray) -> bytes:
        """int16 (t, 3, 2, rows, columns) → bytes."""
        return self.encode(self.as_symbols(fields), ())

    def decode_fields(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """Bytes → int16 (t, 3, 2, rows, columns), of a shape (t, rows, columns)."""
        t, rows, columns = shape
        symbols = self.decode(data, (t, 2 * PARTS, rows, columns), ())
        fields = from_parts(symbols.reshape(t, PARTS, 2, rows, columns))
        if fields.size and np.abs(fields).max() > LARGEST:
            raise CorruptFileError("the motion of a chunk is out of range")
        return fields.astype(np.int16)

    @staticmethod
    def as_symbols(fields: np.ndarray) -> np.ndarray:
        """int32 (t, 6, rows, columns): the three parts of each latent frame."""
        parts: np.ndarray = to_parts(fields.astype(np.int32))
        return parts.reshape(len(parts), 2 * PARTS, *parts.shape[3:])

    def predictions(
        self, shape: tuple[int, int, int], past: Past, wanted: np.ndarray | None, *, is_aligned: bool = False
    ) -> Predictions:
        parts = None if wanted is None else wanted[0].reshape(PARTS, -1)
        flags = yield (
            Beside(None if parts is None else parts.any(1).astype(np.int32)),
            unforeseen(np.arange(PARTS, dtype=np.int32)),
        )
        for part in np.flatnonzero(flags).tolist():
            known = np.zeros((2, *shape[1:]), np.int32)
            first_table = FLAG_TABLES + VECTOR_TABLES * (part > 0)
            for where, neighbours in field_passes(*shape[1:]):
                guess = predict_vectors(known, where, neighbours, first_table)
                known[where] = yield (slice(2 * part, 2 * part + 2), *where[1:]), guess
