"""Entropy coders: symbols (t, C, h, w) to bytes and back. FORMAT.md specifies `context-1`.

ENTROPY_CODERS maps the name in a file's header to the class that reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import constriction
import numpy as np

from cvvae_cli.bitstream.context import PASSES, FrameWalk, Past, PlaneContext
from cvvae_cli.bitstream.quantize import MAX_SYMBOL
from cvvae_cli.errors import CorruptFileError, WeightsError

PROBABILITY_BITS = 24
WEIGHT_BITS = 12
PHASES = 3
ALPHABET = 256
ESCAPE = ALPHABET - 1
CENTER = 127
RAW_CENTER = 2**16
RAW_VALUES = 2**17
RAW = -1  # in place of a table: the uniform model of escapes


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
        try:
            tables = cls(**{name: tensors[f"coder.{name}"] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise WeightsError(f"the weights lack {error.args[0]}") from None
        rows = tables.frequencies
        bins = len(tables.thresholds) + 1
        kinds = 3 + len(tables.motion_thresholds)
        if tables.mean_weights.shape[2] != kinds or tables.scale_weights.shape[2] != kinds:
            raise WeightsError("the coder's weights are damaged")
        if rows.shape != (PHASES * bins, ALPHABET) or rows.min() < 1:
            raise WeightsError("the coder's tables are damaged")
        if (rows.sum(axis=1, dtype=np.int64) != 2**PROBABILITY_BITS).any():
            raise WeightsError("the coder's tables do not sum to 2^24")
        return tables

    def to_tensors(self) -> dict[str, np.ndarray]:
        return {f"coder.{name}": value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Prediction:
    """Of the positions of one pass."""

    symbols: np.ndarray  # predicted
    signs: np.ndarray  # of the residual, so that the tables need one side of the fraction only
    tables: np.ndarray  # row of the frequencies


def round_mean(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fixed-point mean → predicted symbol, sign of its fraction, phase 0 to 2."""
    predicted = (mean + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS
    fraction = mean - (predicted << WEIGHT_BITS)
    signs = np.where(fraction < 0, -1, 1)
    phase = np.minimum(np.abs(fraction) * PHASES >> (WEIGHT_BITS - 1), PHASES - 1)
    return np.clip(predicted, -MAX_SYMBOL, MAX_SYMBOL), signs, phase


def weighted(features: np.ndarray, weights: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Sums of features (F, ...) with the weights (kinds, F) of each position's kind, exact in int64."""
    first = kinds.flat[0] if kinds.size else 0
    if (kinds == first).all():
        return np.tensordot(weights[first], features, 1)
    return np.einsum("f...,...f->...", features, weights[kinds])


class ContextCoder:
    """`context-1`: integer linear prediction from neighbours in time, space and channels."""

    def __init__(self, tables: ContextTables) -> None:
        self.tables = tables
        self.mean_weights = tables.mean_weights.astype(np.int64)
        self.scale_weights = tables.scale_weights.astype(np.int64)
        # With these "probabilities" the library's rounding gives back exactly the stored integers:
        # it scales them to 2^24 - 256, which they sum to, and adds one to each.
        self.models = [
            constriction.stream.model.Categorical((row - 1).astype(np.float64), perfect=False, lazy=False)
            for row in tables.frequencies
        ]
        self.raw = constriction.stream.model.Uniform(RAW_VALUES)

    def encode(self, symbols: np.ndarray, past: Past) -> bytes:
        """Code int32 (t, C, h, w); `past` is empty where the coder starts fresh."""
        steps: list[tuple[np.ndarray, int]] = []
        for _, guess, residuals in self.walk(symbols, past):
            steps.extend(self.steps_of(guess, residuals))
        coder = constriction.stream.stack.AnsCoder()
        for values, table in reversed(steps):
            coder.encode_reverse(values, self.raw if table == RAW else self.models[table])
        return coder.get_compressed().astype("<u4").tobytes()

    def walk(self, symbols: np.ndarray, past: Past) -> Iterator[tuple[int, Prediction, np.ndarray]]:
        """Every pass over known symbols (t, C, h, w): its channel, the prediction, the residuals."""
        for frame in symbols:
            for channel, plane in enumerate(FrameWalk(past, frame.shape)):
                for index, start in enumerate(PASSES):
                    values = frame[channel][start[0] :: 2, start[1] :: 2]
                    guess = self.predict(plane, index)
                    residuals = values - guess.symbols
                    plane.set(start, values, residuals)
                    yield channel, guess, residuals
            past = shift(past, frame)

    def measure(self, symbols: np.ndarray, past: Past) -> np.ndarray:
        """float64 (C,): bits of the symbols of each channel, as the tables say."""
        bits = np.zeros(symbols.shape[1])
        for channel, guess, residuals in self.walk(symbols, past):
            for values, table in self.steps_of(guess, residuals):
                bits[channel] += self.bits_of(values, table)
        return bits

    def bits_of(self, values: np.ndarray, table: int) -> float:
        if table == RAW:
            return len(values) * math.log2(RAW_VALUES)
        return float((PROBABILITY_BITS - np.log2(self.tables.frequencies[table][values])).sum())

    def decode(self, data: bytes, shape: tuple[int, int, int, int], past: Past) -> np.ndarray:
        """int32 of `shape` (t, C, h, w) from what `encode` gave for the same past."""
        if len(data) % 4 or not data:
            raise CorruptFileError("the symbols of a chunk are cut")
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        try:
            coder = constriction.stream.stack.AnsCoder(words)
        except ValueError:
            raise CorruptFileError("the symbols of a chunk are damaged") from None
        symbols = np.zeros(shape, np.int32)
        for frame in symbols:
            for channel, plane in enumerate(FrameWalk(past, frame.shape)):
                for index, start in enumerate(PASSES):
                    guess = self.predict(plane, index)
                    residuals = self.decode_residuals(coder, guess)
                    values = guess.symbols + residuals
                    plane.set(start, values, residuals)
                    frame[channel][start[0] :: 2, start[1] :: 2] = values
            if np.abs(frame).max() > MAX_SYMBOL:
                raise CorruptFileError("the symbols of a chunk are out of range")
            past = shift(past, frame)
        return symbols

    def predict(self, plane: PlaneContext, index: int) -> Prediction:
        start = PASSES[index]
        kinds = plane.kinds(start, self.tables.motion_thresholds)
        mean = weighted(plane.mean_features(start), self.mean_weights[index, plane.channel], kinds)
        scale = weighted(plane.scale_features(start), self.scale_weights[index, plane.channel], kinds)
        symbols, signs, phase = round_mean(mean)
        bins = np.searchsorted(self.tables.thresholds, scale, side="right")
        return Prediction(symbols, signs, bins * PHASES + phase)

    def steps_of(self, guess: Prediction, residuals: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """What is coded for a pass, in the order of decoding: values of each table, then the escapes."""
        signed = (residuals * guess.signs).ravel()
        values = np.where(np.abs(signed) <= CENTER, signed + CENTER, ESCAPE).astype(np.int32)
        for table, positions in by_table(guess.tables):
            yield values[positions], table
        escaped = signed[values == ESCAPE]
        if len(escaped):
            yield (escaped + RAW_CENTER).astype(np.int32), RAW

    def decode_residuals(self, coder: constriction.stream.stack.AnsCoder, guess: Prediction) -> np.ndarray:
        values = np.empty(guess.tables.size, np.int64)
        for table, positions in by_table(guess.tables):
            values[positions] = coder.decode(self.models[table], len(positions))
        escaped = values == ESCAPE
        values -= CENTER
        count = int(escaped.sum())
        if count:
            values[escaped] = coder.decode(self.raw, count).astype(np.int64) - RAW_CENTER
        return values.reshape(guess.tables.shape) * guess.signs


def shift(past: Past, frame: np.ndarray) -> Past:
    """The past of the next latent frame."""
    return (frame, *past[:1])


def by_table(tables: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each table in use, ascending, with its positions in row order."""
    flat = tables.ravel()
    order = np.argsort(flat.astype(np.uint16), kind="stable")
    ends = np.flatnonzero(np.diff(flat[order], append=-1)) + 1
    begin = 0
    for end in ends.tolist():
        positions = order[begin:end]
        yield int(flat[positions[0]]), positions
        begin = end


ENTROPY_CODERS = {"context-1": ContextCoder}
