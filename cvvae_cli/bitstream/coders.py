"""The entropy coders: symbols (t, C, h, w) to bytes and back. FORMAT.md specifies each.

ENTROPY_CODERS maps the name in a file's header to the class that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cvvae_cli.bitstream.anchors import (
    AlignedCoder,
    AnchoredCoder,
    BorrowingCoder,
    CoarseToFineCoder,
    CorrectedCoder,
    DetailedCoder,
    GroupedCoder,
    KeepingCoder,
    LinkedCoder,
    PaintedCoder,
    PyramidCoder,
    ReachingCoder,
)
from cvvae_cli.bitstream.context import PASSES, FrameWalk, PlaneContext
from cvvae_cli.bitstream.motion import CenteredCoder, MotionCoder
from cvvae_cli.bitstream.prior import PriorCoder
from cvvae_cli.bitstream.residuals import (
    PHASES,
    Past,
    Prediction,
    Predictions,
    ResidualCoder,
    check_frequencies,
    predict,
    tables_of,
    tensors_of,
)
from cvvae_cli.errors import WeightsError

WEIGHT_BITS = 12


@dataclass(frozen=True)
class ContextTables:
    """The integers of `context-1`, as they lie with the weights of a model."""

    motion_thresholds: np.ndarray  # int64 (M,), ascending
    mean_weights: np.ndarray  # int32 (4, C, 3 + M, 9): pass, channel, kind, feature
    scale_weights: np.ndarray  # int32 (4, C, 3 + M, 7)
    thresholds: np.ndarray  # int64 (K - 1,), ascending
    frequencies: np.ndarray  # int32 (3 K, 256), rows sum to 2^24

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> ContextTables:
        """From the `coder.*` arrays of a weights file. Raises WeightsError if they are unfit."""
        tables = tables_of(cls, "coder", tensors)
        kinds = 3 + len(tables.motion_thresholds)
        if tables.mean_weights.shape[2] != kinds or tables.scale_weights.shape[2] != kinds:
            raise WeightsError("the coder's weights are damaged")
        check_frequencies(tables.frequencies, PHASES * (len(tables.thresholds) + 1))
        return tables

    def to_tensors(self) -> dict[str, np.ndarray]:
        return tensors_of(self, "coder")


def weighted(features: np.ndarray, weights: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Sums of features (F, ...) with the weights (kinds, F) of each position's kind, exact in int64."""
    first = kinds.flat[0] if kinds.size else 0
    if (kinds == first).all():
        return np.tensordot(weights[first], features, 1)
    return np.einsum("f...,...f->...", features, weights[kinds])


class ContextCoder(ResidualCoder):
    """`context-1`: integer linear prediction from neighbours in time, space and channels."""

    def __init__(self, tables: ContextTables) -> None:
        super().__init__(tables.frequencies)
        self.tables = tables
        self.mean_weights = tables.mean_weights.astype(np.int64)
        self.scale_weights = tables.scale_weights.astype(np.int64)

    @classmethod
    def of_model(
        cls, tensors: Mapping[str, np.ndarray], level: int | None, device: str = "cpu"
    ) -> ContextCoder:
        """With the integers that lie with a model's weights; one quality level; on the CPU always."""
        return cls(ContextTables.from_tensors(tensors))

    def predictions(
        self, shape: tuple[int, int, int], past: Past, wanted: np.ndarray | None, *, is_aligned: bool = False
    ) -> Predictions:
        for channel, plane in enumerate(FrameWalk(past, shape)):
            for index, start in enumerate(PASSES):
                guess = self.predict(plane, index)
                where = (channel, slice(start[0], None, 2), slice(start[1], None, 2))
                symbols = yield where, guess
                plane.set(start, symbols, symbols - guess.symbols)

    def predict(self, plane: PlaneContext, index: int) -> Prediction:
        start = PASSES[index]
        kinds = plane.kinds(start, self.tables.motion_thresholds)
        mean = weighted(plane.mean_features(start), self.mean_weights[index, plane.channel], kinds)
        scale = weighted(plane.scale_features(start), self.scale_weights[index, plane.channel], kinds)
        return predict(mean, np.searchsorted(self.tables.thresholds, scale, side="right"))


ENTROPY_CODERS: dict[str, type[ContextCoder | PriorCoder]] = {
    "context-1": ContextCoder,
    "prior-1": PriorCoder,
    "prior-2": MotionCoder,
    "prior-3": CenteredCoder,
    "prior-4": AnchoredCoder,
    "prior-5": AlignedCoder,
    "prior-6": LinkedCoder,
    "prior-7": DetailedCoder,
    "prior-8": CorrectedCoder,
    "prior-9": PaintedCoder,
    "prior-10": BorrowingCoder,
    "prior-11": GroupedCoder,
    "prior-12": PyramidCoder,
    "prior-13": CoarseToFineCoder,
    "prior-14": ReachingCoder,
    "prior-15": KeepingCoder,
}
