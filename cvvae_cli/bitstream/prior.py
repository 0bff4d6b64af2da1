"""`prior-1`: a small integer network predicts mean and spread of every symbol (FORMAT.md, "prior-1").

From the two latent frames before, once per frame, and from the symbols already known of the present one, in
four passes. Every machine gets the same integers: weights, activations and sums are integers below 2^24, so
that single-precision matrix products are exact in any order of summation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from cvvae_cli.bitstream.context import PASSES
from cvvae_cli.bitstream.quantize import MAX_SYMBOL
from cvvae_cli.bitstream.residuals import (
    MEAN_BITS,
    PHASES,
    Past,
    Prediction,
    Predictions,
    ResidualCoder,
    check_frequencies,
    predict,
)
from cvvae_cli.errors import CorruptFileError, WeightsError

LARGEST = 255  # activation
LEVEL_STEPS = 30  # level numbers from one anchor to the next
FIRST_LEVEL, LAST_LEVEL = 10, 100  # quality 1 to 10, in tenths
GATE_CENTER, GATE_BITS = 128, 8
PRICE = 0.025  # of a bit, in squared cells, to level 55: saves 2 to 6 % of them at equal PSNR
FEATURES = 9  # of the linear means: P, P+, P|, PX, Q, C+, C|, CX, and one
TAPS = {
    0: (),
    1: ((-1, -1), (-1, 1), (1, -1), (1, 1)),
    2: ((0, -1), (0, 1), (-1, 0), (1, 0)),
    3: ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)),
}  # rows and columns, relative to a position of the pass, of the neighbours that are known by then


@dataclass(frozen=True)
class PriorTables:
    """The integers of `prior-1`, as they lie with the weights of a model. W is the width of the network."""

    compress: np.ndarray  # int16 (N,): of |symbol|, the last for all larger
    embed: np.ndarray  # int32 (3 + A, W): of the kind of frame; of the anchors of the level
    conv1: np.ndarray  # int16 (9, 2C, W): neighbours in row order
    conv2: np.ndarray  # int16 (9, W, W)
    trunk: np.ndarray  # int16 (4, W, W)
    known: np.ndarray  # int16 (4, 8, 2C, W): the taps of each pass, the rest zero
    hidden: np.ndarray  # int16 (4, W, W)
    head: np.ndarray  # int16 (4, W, 3C): gate, change, spread
    bias: np.ndarray  # int32 (9, W): of conv2, of trunk and hidden of each pass
    head_bias: np.ndarray  # int32 (4, 3C)
    spread: np.ndarray  # int32 (3 + A, 4, C): like embed, in units of the head's spread, of each pass
    shift: np.ndarray  # uint8 (10, W): of conv1, conv2, trunk and hidden of each pass
    head_shift: np.ndarray  # uint8 (4, 3C)
    gate: np.ndarray  # int16 (256,): a sigmoid in 1/256
    linear: np.ndarray  # int32 (4, 2, C, 9): two linear means of each pass, in 2^-12
    frequencies: np.ndarray  # int32 (3 K, 256)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> PriorTables:
        """From the `prior.*` arrays of a weights file. Raises WeightsError if they are unfit."""
        try:
            tables = cls(**{field.name: tensors[f"prior.{field.name}"] for field in fields(cls)})
        except KeyError as error:
            raise WeightsError(f"the weights lack {error.args[0]}") from None
        width, channels = tables.conv2.shape[1], tables.linear.shape[2]
        shapes = {
            "conv1": (9, 2 * channels, width),
            "known": (4, 8, 2 * channels, width),
            "head": (4, width, 3 * channels),
            "shift": (10, width),
            "spread": (len(tables.embed), 4, channels),
        }
        if any(getattr(tables, name).shape != shape for name, shape in shapes.items()):
            raise WeightsError("the prior's weights are damaged")
        check_frequencies(tables.frequencies, len(tables.frequencies))
        return tables

    def to_tensors(self) -> dict[str, np.ndarray]:
        # safetensors writes the memory of an array as it lies, whatever its strides
        return {f"prior.{name}": np.ascontiguousarray(value) for name, value in vars(self).items()}


def at_level(rows: np.ndarray, kind: int, level: int) -> np.ndarray:
    """The sum of the row of a kind of frame and of the row of a level, between its two anchors."""
    anchors = rows[3:].astype(np.int64)
    number, part = divmod(level - FIRST_LEVEL, LEVEL_STEPS)
    number, part = (number, part) if number < len(anchors) - 1 else (len(anchors) - 2, LEVEL_STEPS)
    mixed = (anchors[number] * (LEVEL_STEPS - part) + anchors[number + 1] * part) // LEVEL_STEPS
    total: np.ndarray = rows[kind] + mixed
    return total


def activate(total: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """clamp((total + half) >> shift, 0, 255), in place; float32 holds all of it exactly."""
    total *= np.float32(0.5) ** shift.astype(np.float32)
    total += np.float32(0.5)
    np.floor(total, out=total)
    np.clip(total, 0, LARGEST, out=total)
    return total


def bordered(plane: np.ndarray) -> np.ndarray:
    """(h, w, C) → (h + 2, w + 2, C), zeros around."""
    return np.pad(plane, ((1, 1), (1, 1), (0, 0)))


def convolve(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """3x3 convolution with zeros around: (h, w, I) with weights (9, I, O) → (h, w, O), exact."""
    h, w, inputs = x.shape
    rows = np.zeros((h + 2, w, 3, inputs), np.float32)  # the three columns of a row side by side
    rows[1:-1, 1:, 0], rows[1:-1, :, 1], rows[1:-1, :-1, 2] = x[:, :-1], x, x[:, 1:]
    kernels = weights.reshape(3, 3 * inputs, -1)
    total = rows[:h].reshape(h * w, -1) @ kernels[0]
    part = np.empty_like(total)
    for dy in (1, 2):
        np.matmul(rows[dy : dy + h].reshape(h * w, -1), kernels[dy], out=part)
        total += part
    return total.reshape(h, w, -1)


class PriorCoder(ResidualCoder):
    """`prior-1` of one quality level."""

    def __init__(self, tables: PriorTables, level: int) -> None:
        super().__init__(tables.frequencies)
        self.level = level
        self.tables = tables
        self.price = PRICE * min(1.0, 2 * (LAST_LEVEL - level) / (LAST_LEVEL - FIRST_LEVEL))
        self.bins = len(tables.frequencies) // PHASES
        # of the integers that hold every linear mean: |features| sum up to four neighbours
        largest = np.abs(tables.linear).sum(-1, dtype=np.int64).max() * 4 * MAX_SYMBOL
        self.integer = np.int32 if largest < 2**30 else np.int64
        self.linear = np.ascontiguousarray(tables.linear.transpose(0, 1, 3, 2), self.integer)
        self.gate = tables.gate.astype(np.int64)
        sizes = tables.compress.astype(np.float32)
        self.compress = np.concatenate([-sizes[:0:-1], sizes])
        names = ("conv1", "conv2", "trunk", "known", "hidden", "head")
        self.weights = {name: getattr(tables, name).astype(np.float32) for name in names}

    @classmethod
    def of_model(cls, tensors: Mapping[str, np.ndarray], level: int | None) -> PriorCoder:
        """With the integers that lie with a model's weights."""
        if level is None or not FIRST_LEVEL <= level <= LAST_LEVEL:
            raise CorruptFileError(f"the coder prior-1 has no quality level {level}")
        return cls(PriorTables.from_tensors(tensors), level)

    def predictions(self, shape: tuple[int, int, int], past: Past) -> Predictions:
        frame = PriorFrame(self, shape, past)
        for index, (top, left) in enumerate(PASSES):
            if top >= shape[1] or left >= shape[2]:
                continue  # a plane of one row or column has no such positions
            symbols = yield (
                (slice(None), slice(top, None, 2), slice(left, None, 2)),
                frame.predict(index),
            )
            frame.set(index, symbols)

    def compressed(self, symbols: np.ndarray) -> np.ndarray:
        """float32 of the same shape: sign(s) * compress[|s|]."""
        last = len(self.tables.compress) - 1
        return self.compress[np.clip(symbols, -last, last) + last]


class PriorFrame:
    """What is known of one latent frame. Planes are (h, w, C); symbols come and go as (C, h, w)."""

    def __init__(self, coder: PriorCoder, shape: tuple[int, int, int], past: Past) -> None:
        self.coder = coder
        self.shape = shape
        self.kind = len(past)
        nothing = np.zeros(shape, np.int32)
        before, earlier = (past[0], past[-1]) if past else (nothing, nothing)
        self.before = np.ascontiguousarray(before.transpose(1, 2, 0))
        earlier = np.ascontiguousarray(earlier.transpose(1, 2, 0))
        self.features = self._linear_features(self.before, earlier)
        self.symbols = np.zeros((shape[1] + 2, shape[2] + 2, shape[0]), coder.integer)  # bordered
        self.seen = np.zeros((shape[1] + 2, shape[2] + 2, 2 * shape[0]), np.float32)  # what the network gets
        self.trunk = self._temporal(earlier)

    def _temporal(self, earlier: np.ndarray) -> np.ndarray:
        """Activations (h, w, W) from the frames before."""
        coder, tables = self.coder, self.coder.tables
        change = coder.compressed(self.before - earlier)
        x = np.concatenate([coder.compressed(self.before), change], axis=2)
        total = convolve(x, coder.weights["conv1"])
        total += at_level(tables.embed, self.kind, coder.level).astype(np.float32)
        x = activate(total, tables.shift[0])
        total = convolve(x, coder.weights["conv2"])
        total += tables.bias[0].astype(np.float32)
        return activate(total, tables.shift[1])

    def _linear_features(self, before: np.ndarray, earlier: np.ndarray) -> list[np.ndarray]:
        """P, P+, P|, PX, Q at every position, integers (h, w, C)."""
        integer = self.coder.integer
        p = bordered(before.astype(integer))
        every = around(p, slice(1, 1 + self.shape[1]), slice(1, 1 + self.shape[2]))
        return [p[1:-1, 1:-1], *every, earlier.astype(integer)]

    def predict(self, index: int) -> Prediction:
        """Of the positions of a pass, in the order of channel, row, column."""
        coder, tables = self.coder, self.coder.tables
        top, left = PASSES[index]
        x = self.trunk[top::2, left::2]
        rows, columns, width = x.shape
        total = x.reshape(-1, width) @ coder.weights["trunk"][index]
        if index:
            total += self._from_known(index, rows, columns)
        total += tables.bias[1 + 2 * index].astype(np.float32)
        x = activate(total, tables.shift[2 + 2 * index])
        total = x @ coder.weights["hidden"][index]
        total += tables.bias[2 + 2 * index].astype(np.float32)
        x = activate(total, tables.shift[3 + 2 * index])
        total = x @ coder.weights["head"][index]
        total += tables.head_bias[index].astype(np.float32)
        mean, bins = self._decide(index, total.astype(np.int64), rows, columns)
        order = (2, 0, 1)
        return predict(mean.transpose(order), bins.transpose(order))

    def _from_known(self, index: int, rows: int, columns: int) -> np.ndarray:
        """(n, W): the network's view of the neighbours that are known."""
        top, left = PASSES[index]
        width = self.trunk.shape[2]
        taps = TAPS[index]
        seen = np.empty((rows, columns, len(taps), self.seen.shape[2]), np.float32)
        for number, (down, right) in enumerate(taps):
            seen[:, :, number] = self.seen[1 + top + down :: 2, 1 + left + right :: 2][:rows, :columns]
        known = self.coder.weights["known"][index, : len(taps)].reshape(-1, width)
        total: np.ndarray = seen.reshape(rows * columns, -1) @ known
        return total

    def _decide(
        self, index: int, total: np.ndarray, rows: int, columns: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means in 2^-12 and bins of spread, int64 (rows, columns, C), from the head's sums."""
        tables, channels = self.coder.tables, self.shape[0]
        shifts = tables.head_shift[index].astype(np.int64)
        gate, change, spread = (total[:, n * channels : (n + 1) * channels] for n in range(3))
        gate_shift, change_shift, spread_shift = shifts.reshape(3, channels)
        spread = spread + at_level(tables.spread, self.kind, self.coder.level)[index]
        bins = np.clip((spread + (1 << spread_shift >> 1)) >> spread_shift, 0, self.coder.bins - 1)
        gate = np.clip((gate + (1 << gate_shift >> 1)) >> gate_shift, -GATE_CENTER, GATE_CENTER - 1)
        weight = self.coder.gate[gate + GATE_CENTER]
        first, second = (p.reshape(-1, channels) for p in self._linear_means(index, rows, columns))
        mean = second + (weight * (first - second) >> GATE_BITS)  # that is (w m0 + (256 - w) m1) // 256
        mean += (change << MEAN_BITS) >> change_shift
        return mean.reshape(rows, columns, channels), bins.reshape(rows, columns, channels)

    def _linear_means(self, index: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """The two linear means, integers (rows, columns, C)."""
        top, left = PASSES[index]
        features = [f[top::2, left::2] for f in self.features]
        if index:
            features += around(
                self.symbols, slice(1 + top, 1 + self.shape[1], 2), slice(1 + left, 1 + self.shape[2], 2)
            )
        part = np.empty((rows, columns, self.shape[0]), self.coder.integer)
        results = []
        for weights in self.coder.linear[index]:
            mean = weights[0] * features[0]
            for number, feature in enumerate(features[1:], 1):
                np.multiply(feature, weights[number], out=part)
                mean += part
            mean += weights[8]
            results.append(mean)
        return results[0], results[1]

    def set(self, index: int, symbols: np.ndarray) -> None:
        """Make the symbols (C, rows, columns) of a pass known."""
        top, left = PASSES[index]
        values = symbols.transpose(1, 2, 0)
        innovation = values - self.before[top::2, left::2]
        seen = [self.coder.compressed(values), self.coder.compressed(innovation)]
        inside = (slice(1 + top, 1 + self.shape[1], 2), slice(1 + left, 1 + self.shape[2], 2))
        self.symbols[inside] = values
        self.seen[inside] = np.concatenate(seen, axis=2)


def around(padded: np.ndarray, rows: slice, columns: slice) -> list[np.ndarray]:
    """Sums of the horizontal, the vertical and the diagonal neighbours of positions of a bordered plane."""

    def moved(down: int, right: int) -> np.ndarray:
        row = slice(rows.start + down, rows.stop + down, rows.step)
        return padded[row, columns.start + right : columns.stop + right : columns.step]

    horizontal = moved(0, -1) + moved(0, 1)
    vertical = moved(-1, 0) + moved(1, 0)
    return [horizontal, vertical, moved(-1, -1) + moved(-1, 1) + moved(1, -1) + moved(1, 1)]
