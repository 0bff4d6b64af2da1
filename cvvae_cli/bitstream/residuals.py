"""Coding of residuals: what every predicting coder shares. FORMAT.md, "Residuals and tables".

A predictor gives each symbol a mean in fixed point and a table; the residual against the rounded mean is
coded by asymmetric numeral systems with the table's integer frequencies. All of it is exact in integers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np

from cvvae_cli.bitstream.quantize import MAX_SYMBOL
from cvvae_cli.errors import CorruptFileError, WeightsError

PROBABILITY_BITS = 24
MEAN_BITS = 12  # of the fraction of a predicted mean
PHASES = 3
ALPHABET = 256
ESCAPE = ALPHABET - 1
CENTER = 127
RAW_CENTER = 2**16
RAW_VALUES = 2**17
RAW = -1  # in place of a table: the uniform model of escapes

Past = tuple[np.ndarray, ...]  # the latent frames before, at most two, the nearest first: (C, h, w)
Where = Any  # an index expression: the symbols of a step in a latent frame (C, h, w)


@dataclass(frozen=True)
class Prediction:
    """Of the symbols of one step, in the order of their coding."""

    symbols: np.ndarray  # predicted
    signs: np.ndarray  # of the residual, so that the tables need one side of the fraction only
    tables: np.ndarray  # row of the frequencies


Predictions = Generator[tuple[Where, Prediction], np.ndarray, None]


def predict(mean: np.ndarray, bins: np.ndarray) -> Prediction:
    """Fixed-point means and bins of spread → predicted symbols, signs, tables."""
    symbols, signs, phase = round_mean(mean)
    return Prediction(symbols, signs, bins * PHASES + phase)


def round_mean(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fixed-point mean → predicted symbol, sign of its fraction, phase 0 to 2."""
    predicted = (mean + (1 << (MEAN_BITS - 1))) >> MEAN_BITS
    fraction = mean - (predicted << MEAN_BITS)
    signs = np.where(fraction < 0, -1, 1)
    phase = np.minimum(np.abs(fraction) * PHASES >> (MEAN_BITS - 1), PHASES - 1)
    return np.clip(predicted, -MAX_SYMBOL, MAX_SYMBOL), signs, phase


def check_frequencies(rows: np.ndarray, count: int) -> None:
    """Raise WeightsError unless there are `count` tables whose integers sum to 2^24."""
    if rows.shape != (count, ALPHABET) or rows.min() < 1:
        raise WeightsError("the coder's tables are damaged")
    if (rows.sum(axis=1, dtype=np.int64) != 2**PROBABILITY_BITS).any():
        raise WeightsError("the coder's tables do not sum to 2^24")


class ResidualCoder(ABC):
    """Codes symbols (t, C, h, w) in the steps of a predictor."""

    def __init__(self, frequencies: np.ndarray) -> None:
        """`frequencies` is int32 (tables, 256), rows sum to 2^24."""
        self.frequencies = frequencies
        # With these "probabilities" the library's rounding gives back exactly the stored integers:
        # it scales them to 2^24 - 256, which they sum to, and adds one to each.
        self.models = [
            constriction.stream.model.Categorical((row - 1).astype(np.float64), perfect=False, lazy=False)
            for row in frequencies
        ]
        self.raw = constriction.stream.model.Uniform(RAW_VALUES)

    @abstractmethod
    def predictions(self, shape: tuple[int, int, int], past: Past) -> Predictions:
        """The steps of a latent frame of `shape` (C, h, w); after each, the step's symbols are sent in."""

    def encode(self, symbols: np.ndarray, past: Past) -> bytes:
        """Code int32 (t, C, h, w); `past` is empty where the coder starts fresh."""
        steps: list[tuple[np.ndarray, int]] = []
        for _, guess, residuals in self.walk(symbols, past):
            steps.extend(steps_of(guess, residuals))
        coder = constriction.stream.stack.AnsCoder()
        for values, table in reversed(steps):
            coder.encode_reverse(values, self.raw if table == RAW else self.models[table])
        return coder.get_compressed().astype("<u4").tobytes()

    def walk(self, symbols: np.ndarray, past: Past) -> Iterator[tuple[Where, Prediction, np.ndarray]]:
        """Every step over known symbols (t, C, h, w): where it is, the prediction, the residuals."""
        for frame in symbols:
            steps = self.predictions(frame.shape, past)
            where, guess = next(steps)
            while True:
                values = frame[where]
                yield where, guess, values - guess.symbols
                try:
                    where, guess = steps.send(values)
                except StopIteration:
                    break
            past = shift(past, frame)

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
            steps = self.predictions(frame.shape, past)
            where, guess = next(steps)
            while True:
                frame[where] = guess.symbols + self.decode_residuals(coder, guess)
                try:
                    where, guess = steps.send(frame[where])
                except StopIteration:
                    break
            if np.abs(frame).max() > MAX_SYMBOL:
                raise CorruptFileError("the symbols of a chunk are out of range")
            past = shift(past, frame)
        return symbols

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

    def measure(self, symbols: np.ndarray, past: Past) -> np.ndarray:
        """float64 (C,): bits of the symbols of each channel, as the tables say."""
        bits = np.zeros(symbols.shape[1:])
        for where, guess, residuals in self.walk(symbols, past):
            bits[where] += self.bits_of(guess, residuals)
        return bits.sum(axis=(1, 2))

    def bits_of(self, guess: Prediction, residuals: np.ndarray) -> np.ndarray:
        """Bits of each residual of a step."""
        values = values_of(guess, residuals)
        bits = PROBABILITY_BITS - np.log2(self.frequencies[guess.tables, values])
        return np.where(values == ESCAPE, bits + math.log2(RAW_VALUES), bits)


def values_of(guess: Prediction, residuals: np.ndarray) -> np.ndarray:
    """What the tables code: the residual with its sign mended and centred, or the escape."""
    signed = residuals * guess.signs
    return np.where(np.abs(signed) <= CENTER, signed + CENTER, ESCAPE).astype(np.int32)


def steps_of(guess: Prediction, residuals: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """What is coded for a step, in the order of decoding: values of each table, then the escapes."""
    values = values_of(guess, residuals).ravel()
    for table, positions in by_table(guess.tables):
        yield values[positions], table
    escaped = (residuals * guess.signs).ravel()[values == ESCAPE]
    if len(escaped):
        yield (escaped + RAW_CENTER).astype(np.int32), RAW


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


def shift(past: Past, frame: np.ndarray) -> Past:
    """The past of the next latent frame."""
    return (frame, *past[:1])
