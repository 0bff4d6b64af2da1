"""Coding of residuals: what every predicting coder shares. FORMAT.md, "Residuals and tables".

A predictor gives each symbol a mean in fixed point and a table; the residual against the rounded mean is
coded by asymmetric numeral systems with the table's integer frequencies. All of it is exact in integers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import constriction
import numpy as np

from cvvae_cli.bitstream.lookahead import look_ahead
from cvvae_cli.bitstream.quantize import MAX_SYMBOL, rounded
from cvvae_cli.errors import CorruptFileError, WeightsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import Tensor

PROBABILITY_BITS = 24
MEAN_BITS = 12  # of the fraction of a predicted mean
PHASES = 3
ALPHABET = 256
ESCAPE = ALPHABET - 1
CENTER = 127
RAW_CENTER = 2**16
RAW_VALUES = 2**17
RAW = -1  # in place of a table: the uniform model of escapes

# With its first array the library looks numpy up, in Python. An interrupt in there is a panic: let it be now,
# where no job has begun.
constriction.stream.model.Categorical(np.ones(2), perfect=False, lazy=False)

Kind = TypeVar("Kind", bound="DataclassInstance")
Integers = TypeVar("Integers", np.ndarray, "Tensor")
Past = tuple[np.ndarray, ...]  # the last two latent frames, the nearest first, then the first of the period
Aligned = np.ndarray | None  # bool (t,): of each latent frame, whether the frames it stands for were aligned
Where = Any  # an index expression: the symbols of a step in a latent frame (C, h, w); or Beside


@dataclass(frozen=True)
class Beside:
    """In place of where: integers that are coded with a latent frame, but are none of its symbols."""

    values: np.ndarray | None  # that the encoder chose; None where they are decoded


@dataclass(frozen=True)
class Prediction:
    """Of the symbols of one step, in the order of their coding."""

    symbols: np.ndarray  # predicted
    signs: np.ndarray  # of the residual, so that the tables need one side of the fraction only
    tables: np.ndarray  # row of the frequencies
    bits: int = 0  # after the point of what is predicted: residuals count cells of 2^bits


Predictions = Generator[tuple[Where, Prediction], np.ndarray, None]
Step = tuple[Where, Prediction, np.ndarray]  # where it is, what was predicted, the residuals
Decide = Callable[[int, Where, Prediction], np.ndarray]  # of a frame's number and a step: its residuals


@dataclass(frozen=True)
class Plan:
    """What is coded of some latent frames: symbols (t, C, h, w) as `decode` gives them, and the steps."""

    symbols: np.ndarray
    steps: list[Step]


def predict(mean: np.ndarray, bins: np.ndarray) -> Prediction:
    """Of fixed-point means and bins of spread."""
    return Prediction(*predicted(mean, bins))


def predicted(mean: Integers, bins: Integers) -> tuple[Integers, Integers, Integers]:
    """Fixed-point means and bins of spread → predicted symbols, signs, tables. Of arrays and of tensors."""
    symbols, signs, phase = round_mean(mean)
    return symbols, signs, bins * PHASES + phase


def round_mean(mean: Integers) -> tuple[Integers, Integers, Integers]:
    """Fixed-point mean → predicted symbol, sign of its fraction, phase 0 to 2. Of arrays and of tensors."""
    predicted = (mean + (1 << (MEAN_BITS - 1))) >> MEAN_BITS
    fraction = mean - (predicted << MEAN_BITS)
    signs = (fraction >> MEAN_BITS) | 1  # -1 or 0, so -1 or 1
    phase = (fraction * signs * PHASES >> (MEAN_BITS - 1)).clip(0, PHASES - 1)
    return predicted.clip(-MAX_SYMBOL, MAX_SYMBOL), signs, phase


def tables_of(kind: type[Kind], prefix: str, tensors: Mapping[str, np.ndarray]) -> Kind:
    """A dataclass of tables from the arrays of a weights file that are named prefix.field.

    Raises WeightsError if one lacks.
    """
    try:
        return kind(**{field.name: tensors[f"{prefix}.{field.name}"] for field in fields(kind)})
    except KeyError as error:
        raise WeightsError(f"the weights lack {error.args[0]}") from None


def tensors_of(tables: Any, prefix: str) -> dict[str, np.ndarray]:
    """What `tables_of` reads. Contiguous: safetensors writes memory as it lies, whatever the strides."""
    return {f"{prefix}.{name}": np.ascontiguousarray(value) for name, value in vars(tables).items()}


def check_frequencies(rows: np.ndarray, count: int) -> None:
    """Raise WeightsError unless there are `count` tables whose integers sum to 2^24."""
    if rows.shape != (count, ALPHABET) or rows.min() < 1:
        raise WeightsError("the coder's tables are damaged")
    if (rows.sum(axis=1, dtype=np.int64) != 2**PROBABILITY_BITS).any():
        raise WeightsError("the coder's tables do not sum to 2^24")


class TableCoder:
    """Codes residuals with stored tables, step by step."""

    price = 0.0  # of a bit, in squared cells: for that much error a residual one nearer to zero is chosen

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

    def pack(self, plan: Plan) -> bytes:
        """Code what was planned."""
        parts = [part for _, guess, residuals in plan.steps for part in steps_of(guess, residuals)]
        coder = constriction.stream.stack.AnsCoder()
        for values, table in reversed(parts):
            coder.encode_reverse(values, self.raw if table == RAW else self.models[table])
        return coder.get_compressed().astype("<u4").tobytes()

    def best_residuals(self, aims: np.ndarray, guess: Prediction, prices: np.ndarray) -> np.ndarray:
        """Of the nearest symbols, or one nearer to zero where the bits saved are worth the error.

        `prices` of a bit, in squared cells, are of the shape of `aims`, in cells.
        """
        residuals = nearest(aims, guess)
        at = np.nonzero(residuals)
        self.try_others(residuals, at, residuals[at] - np.sign(residuals[at]), aims, guess, prices)
        return residuals

    def try_others(
        self,
        residuals: np.ndarray,
        at: tuple[np.ndarray, ...],
        others: np.ndarray,
        aims: np.ndarray,
        guess: Prediction,
        prices: np.ndarray,
    ) -> None:
        """Put others in place of some residuals where the bits saved are worth the error."""
        few = Prediction(guess.symbols[at], guess.signs[at], guess.tables[at], guess.bits)
        own, offset = residuals[at], offset_of(aims[at], few)
        lost = (offset - others) ** 2 - (offset - own) ** 2
        saved = self.bits_of(few, own) - self.bits_of(few, others)
        residuals[at] = np.where(prices[at] * saved > lost, others, own)

    @staticmethod
    def reader(data: bytes) -> constriction.stream.stack.AnsCoder:
        """What `decode_residuals` reads of packed bytes. Raises CorruptFileError."""
        if len(data) % 4 or not data:
            raise CorruptFileError("the symbols of a chunk are cut")
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        try:
            return constriction.stream.stack.AnsCoder(words)
        except ValueError:
            raise CorruptFileError("the symbols of a chunk are damaged") from None

    def decode_residuals(self, coder: constriction.stream.stack.AnsCoder, guess: Prediction) -> np.ndarray:
        order, counts = sort_by_table(guess.tables)
        if not counts:
            return np.zeros_like(guess.tables)
        values = np.empty(guess.tables.size, np.int32)
        values[order] = np.concatenate(
            [coder.decode(self.models[table], count) for table, count in counts.items()]
        )
        escaped = values == ESCAPE
        values -= CENTER
        count = int(escaped.sum())
        if count:
            values[escaped] = coder.decode(self.raw, count) - RAW_CENTER
        return values.reshape(guess.tables.shape) * guess.signs

    def bits_of(self, guess: Prediction, residuals: np.ndarray) -> np.ndarray:
        """Bits of each residual of a step."""
        bits: np.ndarray = self.costs[guess.tables, values_of(guess, residuals)]
        return bits

    @cached_property
    def costs(self) -> np.ndarray:
        """float64 (tables, 256): bits of every value of a table."""
        bits = PROBABILITY_BITS - np.log2(self.frequencies)
        bits[:, ESCAPE] += math.log2(RAW_VALUES)
        return bits


class ResidualCoder(TableCoder, ABC):
    """Codes symbols (t, C, h, w) in the steps of a predictor."""

    takes_fields = False  # whether groups of frames may be aligned before they are encoded (cvvae_cli/flow)
    takes_detail = False  # whether what pictures lack is coded beside them (bitstream/detail.py)
    paints = False  # and whether that may stand in place of what is decoded
    takes_corrections = False  # and whether what single frames lack is (bitstream/corrections.py)
    borrows = False  # whether frames may be taken from the group beside theirs (flow/borrow.py)
    lights = False  # and whether frames whose light changes may be evened out (flow/light.py)
    links = False  # whether a period may begin from the first latent frame of the period before
    symbol_bits = 0  # after the point of a symbol, in cells of the quantiser

    @abstractmethod
    def predictions(
        self, shape: tuple[int, int, int], past: Past, wanted: np.ndarray | None, *, is_aligned: bool = False
    ) -> Predictions:
        """The steps of a latent frame of `shape` (C, h, w); after each, the step's symbols are sent in.

        `wanted` (n, C, h, w) is what is encoded, in cells of the quantiser or as symbols: this latent frame
        and those after it in its chunk; None in decoding. `is_aligned`: the frames it stands for were.
        """

    def seen(self, count: int) -> np.ndarray | None:
        """How much of so many latent frames shows, float32 (t, h, w) above 0; None: all."""
        return None

    def begin(self) -> None:
        """Before the first of some latent frames is planned or decoded."""
        return

    def encode(self, symbols: np.ndarray, past: Past) -> bytes:
        """Code int32 (t, C, h, w); `past` is empty where the coder starts fresh."""
        return self.pack(self.exactly(symbols, past))

    def exactly(self, symbols: np.ndarray, past: Past) -> Plan:
        """The plan of these very symbols, int32 (t, C, h, w); of coders whose symbols are whole cells."""
        return self.plan(symbols, past, lambda number, where, guess: nearest(symbols[number][where], guess))

    def choose(
        self, scaled: np.ndarray, past: Past, aligned: Aligned = None, count: int | None = None
    ) -> Plan:
        """Symbols for latents in units of the quantiser's cells, float32 (t, C, h, w).

        Or of the first `count` of them, as they would be among all. `aligned`, here and below, says of which
        latent frames the frames were (t,); None: of none.
        """
        largest = (MAX_SYMBOL >> self.symbol_bits) - bool(self.symbol_bits)  # half a cell is added to it
        scaled = scaled.clip(-largest, largest)
        aims, prices = look_ahead(scaled, self.price)
        seen = self.seen(len(prices))
        if seen is not None:  # a bit is worth more where errors are seen less
            prices = prices / seen[:, None]

        def decide(number: int, where: Where, guess: Prediction) -> np.ndarray:
            return self.best_residuals(aims[number][where], guess, prices[number][where])

        return self.plan(scaled, past, decide, aligned, count)

    def plan(
        self,
        values: np.ndarray,
        past: Past,
        decide: Decide,
        aligned: Aligned = None,
        count: int | None = None,
    ) -> Plan:
        """Walk over latent frames of these values, `count` of them or all; `decide` gives the residuals of
        each step."""
        self.begin()
        plan = Plan(np.zeros(values[:count].shape, np.int32), [])
        for number, symbols in enumerate(plan.symbols):
            is_aligned = aligned is not None and bool(aligned[number])
            steps = self.predictions(symbols.shape, past, values[number:], is_aligned=is_aligned)
            where, guess = next(steps)
            while True:
                if isinstance(where, Beside):
                    assert where.values is not None
                    residuals = nearest(where.values, guess)
                    coded = symbols_of(guess, residuals)
                else:
                    residuals = decide(number, where, guess)
                    coded = symbols[where] = symbols_of(guess, residuals)
                plan.steps.append((where, guess, residuals))
                try:
                    where, guess = steps.send(coded)
                except StopIteration:
                    break
            past = shift(past, symbols)
        return plan

    def beginning(self, scaled: np.ndarray, past: Past, aligned: Aligned) -> tuple[Plan, float]:
        """Symbols for the first of latents in cells (t, C, h, w), and what they come to: squared error, as
        far as it is seen, and bits at their price."""
        plan, seen = self.choose(scaled, past, aligned, 1), self.seen(1)
        error = (scaled[:1] - plan.symbols * 0.5**self.symbol_bits) ** 2
        if seen is not None:
            error *= seen[:, None]
        bits = sum(self.bits_of(guess, residuals).sum() for _, guess, residuals in plan.steps)
        return plan, float(error.sum() + self.price * bits)

    def decode(
        self,
        data: bytes,
        shape: tuple[int, int, int, int],
        past: Past,
        aligned: Aligned = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> np.ndarray:
        """int32 of `shape` (t, C, h, w) from what `encode` gave for the same past."""
        self.begin()
        coder = self.reader(data)
        symbols = np.zeros(shape, np.int32)
        for number, frame in enumerate(symbols):
            is_aligned = aligned is not None and bool(aligned[number])
            steps = self.predictions(frame.shape, past, None, is_aligned=is_aligned)
            where, guess = next(steps)
            while True:
                residuals = self.decode_residuals(coder, guess)
                if on_step is not None:
                    on_step((where, guess, residuals))
                values = symbols_of(guess, residuals)
                if not isinstance(where, Beside):
                    frame[where] = values
                try:
                    where, guess = steps.send(values)
                except StopIteration:
                    break
            if np.abs(frame).max() > MAX_SYMBOL:
                raise CorruptFileError("the symbols of a chunk are out of range")
            past = shift(past, frame)
        return symbols

    def unpack(
        self, data: bytes, shape: tuple[int, int, int, int], past: Past, aligned: Aligned = None
    ) -> Plan:
        """What `data` holds, with all its steps."""
        steps: list[Step] = []
        return Plan(self.decode(data, shape, past, aligned, steps.append), steps)

    def bits_by_channel(self, plan: Plan) -> np.ndarray:
        """float64 (C,): what packing a plan will take, but for some bytes; all share what lies beside."""
        bits = np.zeros(plan.symbols.shape[1:])
        beside = 0.0
        for where, guess, residuals in plan.steps:
            spent = self.bits_of(guess, residuals)
            if isinstance(where, Beside):
                beside += spent.sum()
            else:
                bits[where] += spent
        total: np.ndarray = bits.sum(axis=(1, 2)) + beside / len(bits)
        return total

    def bits_by_position(self, plan: Plan) -> np.ndarray:
        """float64 (t, h, w): what the symbols of a plan take, without what lies beside them."""
        _, channels, *size = plan.symbols.shape
        total, bits = np.zeros((len(plan.symbols), *size)), np.zeros((channels, *size))
        coded = 0
        for where, guess, residuals in plan.steps:
            if isinstance(where, Beside):
                continue
            bits[where] = self.bits_of(guess, residuals)
            coded += residuals.size
            if coded % bits.size == 0:  # a latent frame is whole
                total[coded // bits.size - 1] = bits.sum(axis=0)
        return total


def offset_of(cells: np.ndarray, guess: Prediction) -> np.ndarray:
    """By how many cells values differ from what is predicted."""
    difference: np.ndarray = cells - guess.symbols * 0.5**guess.bits
    return difference


def nearest(cells: np.ndarray, guess: Prediction) -> np.ndarray:
    """The residuals, int64, of the symbols nearest to values in cells."""
    if guess.bits:
        return np.rint(offset_of(cells, guess)).astype(np.int64)
    return rounded(cells) - guess.symbols


def symbols_of(guess: Prediction, residuals: np.ndarray) -> np.ndarray:
    """What residuals stand for."""
    symbols: np.ndarray = guess.symbols + (residuals << guess.bits)
    return symbols


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
    order, counts = sort_by_table(tables)
    begin = 0
    for table, count in counts.items():
        yield table, order[begin : begin + count]
        begin += count


def sort_by_table(tables: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Positions by table, then in row order; and how many are of each table in use, ascending."""
    flat = tables.ravel()
    counts = np.bincount(flat)
    used = np.flatnonzero(counts)
    order = np.argsort(flat.astype(np.uint16), kind="stable")
    return order, dict(zip(used.tolist(), counts[used].tolist(), strict=True))


def shift(past: Past, frame: np.ndarray) -> Past:
    """The past of the next latent frame."""
    return (frame, *past[:1], *past[1:][-1:])
