"""`prior-1`: a small integer network predicts mean and spread of every symbol (FORMAT.md, "prior-1").

From the two latent frames before, once per frame, and from the symbols already known of the present one, in
four passes. Every machine gets the same integers: weights, activations and sums are integers below 2^24, so
that products of float32 are exact in any order of summation, and those of float64 anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

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
    predicted,
    tables_of,
    tensors_of,
)
from cvvae_cli.bitstream.vectors import LARGEST as LARGEST_VECTOR
from cvvae_cli.errors import CorruptFileError, WeightsError

LARGEST = 255  # activation
LEVEL_STEPS = 30  # level numbers from one anchor to the next
FIRST_LEVEL, LAST_LEVEL = 10, 100  # quality 1 to 10, in tenths
GATE_CENTER, GATE_BITS = 128, 8
PRICE = 0.06  # of a bit, in squared cells: saves 3 to 7 % of them at equal PSNR
FEATURES = 9  # of the linear means: P, P+, P|, PX, Q, C+, C|, CX, and one
MOST_REACH = 4095  # pixels: of vectors, if the prior says how far they may
FAR_FEATURES = 3  # of coarse passes of later frames: P+, P|, PX at their stride
TAPS = {
    0: (),
    1: ((-1, -1), (-1, 1), (1, -1), (1, 1)),
    2: ((0, -1), (0, 1), (-1, 0), (1, 0)),
    3: ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)),
}  # rows and columns, relative to a position of the pass, of the neighbours that are known by then


@dataclass(frozen=True)
class Pass:
    """Positions that are coded together: of every `stride`-th row and column, a quarter."""

    number: int  # of its weights
    quarter: int  # which: of PASSES and TAPS
    stride: int

    @property
    def here(self) -> tuple[slice, slice]:
        """The rows and columns of its positions."""
        top, left = (self.stride * first for first in PASSES[self.quarter])
        return slice(top, None, 2 * self.stride), slice(left, None, 2 * self.stride)

    @property
    def taps(self) -> list[tuple[int, int]]:
        """Rows and columns, relative to a position, of the neighbours that are known by then."""
        return [(self.stride * down, self.stride * right) for down, right in TAPS[self.quarter]]

    def within(self, h: int, w: int, border: int) -> tuple[slice, slice]:
        """Its positions of a plane of h x w with that border around."""
        rows, columns = (
            slice(border + part.start, border + size, part.step)
            for part, size in zip(self.here, (h, w), strict=True)
        )
        return rows, columns

    def has_any(self, h: int, w: int) -> bool:
        """Whether a plane of h x w has such positions: one of few rows or columns may have none."""
        rows, columns = self.here
        return rows.start < h and columns.start < w


FINE = tuple(Pass(quarter, quarter, 1) for quarter in range(len(PASSES)))


def halving(count: int) -> tuple[int, ...]:
    """So many strides, each half of the one before, the last 1."""
    return tuple(1 << k for k in reversed(range(count)))


def coarse_passes(strides: tuple[int, ...]) -> tuple[Pass, ...]:
    """Those of a whole frame from the largest of such strides to the smallest."""
    numbered = enumerate(quarters_of(strides), len(FINE))
    return tuple(Pass(number, quarter, stride) for number, (quarter, stride) in numbered)


def quarters_of(strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Those of each stride, in order, with it: the first of each but the first is all that came before."""
    return [(q, stride) for n, stride in enumerate(strides) for q in range(bool(n), len(PASSES))]


def later_passes(strides: tuple[int, ...], first: int) -> tuple[Pass, ...]:
    """Those of a frame that others come before, from the largest of such strides to the smallest.

    The first of them, and those of stride 1, have the weights of `FINE`; the others their own, numbered from
    `first` on.
    """
    own = count(first)
    return tuple(
        Pass(quarter if quarter == 0 or stride == 1 else next(own), quarter, stride)
        for quarter, stride in quarters_of(strides)
    )


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
        tables = tables_of(cls, "prior", tensors)
        if "prior.cuts" in tensors and not isinstance(tables, GroupedTables):
            raise WeightsError("the prior codes groups of channels, and this coder all of them together")
        if "prior.strides" in tensors and not isinstance(tables, PyramidTables):
            raise WeightsError("the prior codes first frames from coarse to fine, and this coder does not")
        if "prior.later" in tensors and not isinstance(tables, CoarseToFineTables):
            raise WeightsError("the prior codes all frames from coarse to fine, and this coder does not")
        if "prior.reach" in tensors and not isinstance(tables, ReachingTables):
            raise WeightsError("the prior's vectors reach farther than this coder allows")
        width, channels, count = tables.conv2.shape[1], tables.linear.shape[2], len(tables.passes)
        shapes = {
            "conv1": (9, 2 * channels, width),
            "known": (count, 8, 2 * channels, width),
            "head": (count, width, 3 * channels),
            "shift": (2 + 2 * count, width),
            "spread": (len(tables.embed), count, channels),
        }
        if any(getattr(tables, name).shape != shape for name, shape in shapes.items()):
            raise WeightsError("the prior's weights are damaged")
        tables.check()
        check_frequencies(tables.frequencies, len(tables.frequencies))
        return tables

    def check(self) -> None:
        """Raise WeightsError if what a later prior adds is unfit."""

    @property
    def channels(self) -> int:
        return self.linear.shape[2]

    @property
    def coarse(self) -> tuple[Pass, ...]:
        """Those of a frame that nothing comes before; none: as any other."""
        return ()

    @property
    def order(self) -> tuple[Pass, ...]:
        """Those of any other frame."""
        return FINE

    @property
    def passes(self) -> tuple[Pass, ...]:
        """All that there are, by the numbers of their weights."""
        return FINE + self.coarse

    @property
    def far_of(self) -> dict[int, np.ndarray]:
        """Weights (2, C, 3) of the linear means for what lies far, by the numbers of passes that have any."""
        return {}

    @property
    def groups(self) -> list[slice]:
        """The channels that are coded together in a pass, one group after the other."""
        return [slice(0, self.channels)]

    def beside_of(self, index: int) -> list[np.ndarray]:
        """Of a pass and each group but the first: weights (2 n, W) of what is known at the place itself."""
        return []

    def to_tensors(self) -> dict[str, np.ndarray]:
        return tensors_of(self, "prior")


@dataclass(frozen=True)
class GroupedTables(PriorTables):
    """The integers of `prior-11`: each position is coded in groups of channels that see those before them."""

    cuts: np.ndarray  # uint8 (G - 1,): the channel that each group but the first begins with, ascending
    beside: np.ndarray  # int16 (4, G - 1, 2C, W): of values at the place itself; zero where not known yet

    def check(self) -> None:
        width, cuts = self.conv2.shape[1], self.cuts.astype(int)
        steps = np.diff([0, *cuts, self.channels])
        if self.beside.shape != (len(self.passes), len(cuts), 2 * self.channels, width) or steps.min() < 1:
            raise WeightsError("the prior's weights are damaged")

    @property
    def groups(self) -> list[slice]:
        return [slice(*each) for each in pairwise([0, *self.cuts.tolist(), self.channels])]

    def beside_of(self, index: int) -> list[np.ndarray]:
        halves = self.beside[index].reshape(len(self.cuts), 2, self.channels, self.beside.shape[-1])
        return [np.concatenate(half[:, :cut]) for half, cut in zip(halves, self.cuts, strict=True)]


@dataclass(frozen=True)
class PyramidTables(GroupedTables):
    """The integers of `prior-12`: a frame that nothing comes before is coded from coarse to fine, in passes
    of its own."""

    strides: np.ndarray  # uint8 (S,): of those passes, each half of the one before; the last is 1

    def check(self) -> None:
        super().check()
        if not np.array_equal(self.strides, halving(self.strides.size)):
            raise WeightsError("the prior's weights are damaged")

    @property
    def coarse(self) -> tuple[Pass, ...]:
        return coarse_passes(tuple(self.strides.ravel().tolist()))


@dataclass(frozen=True)
class CoarseToFineTables(PyramidTables):
    """The integers of `prior-13`: other frames are coded from coarse to fine too."""

    later: np.ndarray  # uint8 (S',): strides of the passes of those, each half of the one before, down to 1
    far: np.ndarray  # int32 (F, 2, C, 3): like linear, of each new pass: P+, P| and PX at its stride

    def check(self) -> None:
        super().check()
        if not np.array_equal(self.later, halving(self.later.size)) or self.later.size == 0:
            raise WeightsError("the prior's weights are damaged")
        if self.far.shape != (len(self.farther), 2, self.channels, FAR_FEATURES):
            raise WeightsError("the prior's weights are damaged")

    @property
    def order(self) -> tuple[Pass, ...]:
        return later_passes(tuple(self.later.ravel().tolist()), len(FINE + self.coarse))

    @property
    def passes(self) -> tuple[Pass, ...]:
        return FINE + self.coarse + self.farther

    @property
    def farther(self) -> tuple[Pass, ...]:
        """Passes of `order` that have integers of their own."""
        return tuple(each for each in self.order if each.number >= len(FINE))

    @property
    def far_of(self) -> dict[int, np.ndarray]:
        return dict(zip((each.number for each in self.farther), self.far, strict=True))


@dataclass(frozen=True)
class ReachingTables(CoarseToFineTables):
    """The integers of `prior-14`: vectors may be larger than before."""

    reach: np.ndarray  # uint16 (1,): the largest, down or right, in pixels

    def check(self) -> None:
        super().check()
        if self.reach.shape != (1,) or not LARGEST_VECTOR <= self.reach[0] <= MOST_REACH:
            raise WeightsError("the prior's weights are damaged")


def at_level(rows: np.ndarray, kind: int, level: int) -> np.ndarray:
    """The sum of the row of a kind of frame and of the row of a level, between its two anchors."""
    anchors = rows[3:].astype(np.int64)
    number, part = divmod(level - FIRST_LEVEL, LEVEL_STEPS)
    number, part = (number, part) if number < len(anchors) - 1 else (len(anchors) - 2, LEVEL_STEPS)
    mixed = (anchors[number] * (LEVEL_STEPS - part) + anchors[number + 1] * part) // LEVEL_STEPS
    total: np.ndarray = rows[kind] + mixed
    return total


class PriorNetwork:
    """The integers of one quality level as tensors; what is multiplied is `dtype`, which holds every sum."""

    def __init__(
        self,
        tables: PriorTables,
        level: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        bins: int,
        fraction: int,
        symbol_bits: int,
    ) -> None:
        """Bits after the point: `fraction` of the frame before, as a PriorFrame gets it; those of symbols."""

        def tensor(values: np.ndarray, kind: torch.dtype = dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device, kind)

        width, self.channels, self.groups = tables.conv2.shape[1], tables.channels, tables.groups
        self.fresh, self.later = tables.coarse or FINE, tables.order
        self.device = device
        self.dtype = dtype
        self.bins = bins
        self.symbol_bits = symbol_bits
        self.finer = fraction - symbol_bits
        # of the integers that hold every linear mean: |features| sum up to four neighbours
        linear, far = tables.linear, tables.far_of
        sums = [np.abs(part).sum(-1, dtype=np.int64).max() for part in (linear, *far.values())]
        largest = (sums[0] + max(sums[1:], default=0)) * 4 * MAX_SYMBOL
        self.integer = torch.int32 if largest < 2**30 else torch.int64
        self.linear = tensor(linear.transpose(0, 1, 3, 2), self.integer)
        self.far = {n: tensor(part.transpose(0, 2, 1), self.integer) for n, part in far.items()}
        sizes = tables.compress.astype(np.int32)
        self.compress = tensor(np.concatenate([-sizes[:0:-1], sizes]))
        self.largest_size = len(sizes) - 1
        # a layer's shift is a power of two, by which sums of floats stay as exact as they are without
        scale = 0.5 ** tables.shift.astype(np.float64)
        self.conv1 = tensor(matrices(tables.conv1) * scale[0][:, None])
        self.conv2 = tensor(matrices(tables.conv2) * scale[1][:, None])
        self.embed = [tensor(at_level(tables.embed, kind, level) * scale[0]) for kind in range(3)]
        self.spread = [tensor(at_level(tables.spread, kind, level), torch.int32) for kind in range(3)]
        self.trunk = tensor(tables.trunk.transpose(0, 2, 1) * scale[2::2, :, None])
        self.hidden = tensor(tables.hidden.transpose(0, 2, 1) * scale[3::2, :, None])
        self.known = [
            tensor((tables.known[k, : len(each.taps)].reshape(-1, width) * scale[2 + 2 * k]).T)
            for k, each in enumerate(tables.passes)
        ]
        self.beside = [
            [tensor((weights * scale[2 + 2 * k]).T) for weights in tables.beside_of(k)]
            for k in range(len(tables.passes))
        ]
        self.bias = tensor(tables.bias * scale[1:])
        heads = tables.head.transpose(0, 2, 1).reshape(-1, 3, self.channels, width)
        biases = tables.head_bias.reshape(-1, 3, self.channels)
        self.head = [[tensor(head[:, g].reshape(-1, width)) for g in self.groups] for head in heads]
        self.head_bias = [[tensor(bias[:, g].reshape(-1)) for g in self.groups] for bias in biases]
        shifts = tables.head_shift.astype(np.int32).reshape(-1, 3, self.channels)
        self.head_shift = tensor(shifts, torch.int32)
        self.head_half = tensor((1 << shifts) >> 1, torch.int32)
        self.change_scale = tensor(2.0 ** (MEAN_BITS - shifts[:, 1]))
        self.gate = tensor(tables.gate, torch.int64)

    def compressed(self, symbols: Tensor) -> Tensor:
        """Integers of any shape → sign(s) * compress[|s|]."""
        last = self.largest_size
        rows = symbols.clamp(-last, last).add_(last)
        return self.compress.index_select(0, rows.view(-1)).view(symbols.shape)


def activate(total: Tensor) -> Tensor:
    """Sums times 2^-shift → clamp((sum + half) >> shift, 0, 255), in place."""
    return total.add_(0.5).floor_().clamp_(0, LARGEST)


def matrices(kernel: np.ndarray) -> np.ndarray:
    """A 3x3 kernel (9, I, O), neighbours in row order, as `convolve` takes it."""
    return kernel.reshape(3, -1, kernel.shape[2]).transpose(0, 2, 1)


def multiply(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Integers (..., I), and (O, I) and (O,) in units of some 2^-n → (..., O).

    In float32 on a CPU as a 1x1 convolution, which has nothing to transform: matrix products of some builds
    of torch reach a third of its speed on CPUs that are not their maker's. They would stand in for it where
    there is one thread, if it were not dilated, which at 1x1 means nothing.
    """
    if not is_convolved(x):
        return functional.linear(x, matrix, bias)
    rows = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    y = functional.conv2d(rows, matrix[:, :, None, None], bias, dilation=2).permute(0, 2, 3, 1)
    return y.reshape(*x.shape[:-1], -1).contiguous()


def is_convolved(x: Tensor) -> bool:
    """Whether torch has convolutions that are faster than matrix products and as exact."""
    return x.device.type == "cpu" and x.dtype != torch.float64


def convolve(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution with zeros around: (h, w, I) with weights (3, O, 3 I) → (h, w, O), exact."""
    h, w, inputs = x.shape
    if is_convolved(x):
        weights = kernels.view(3, -1, 3, inputs).permute(1, 3, 0, 2)
        y = functional.conv2d(x.permute(2, 0, 1)[None], weights, bias, padding=1)
        return y[0].permute(1, 2, 0).contiguous()
    rows = x.new_empty(h + 2, w, 3, inputs)  # the three columns of a row side by side
    rows[1:-1, 1:, 0], rows[1:-1, :, 1], rows[1:-1, :-1, 2] = x[:, :-1], x, x[:, 1:]
    for outside in (rows[0], rows[-1], rows[:, 0, 0], rows[:, -1, 2]):
        outside.zero_()
    rows = rows.view(h + 2, w, 3 * inputs)
    total = multiply(rows[:h], kernels[0], bias)
    for dy in (1, 2):
        total += multiply(rows[dy : dy + h], kernels[dy])
    return total


def singles_are_exact() -> bool:
    """Whether products of float32 are, here and now: torch can be told to round their factors."""
    factors = (torch.arange(64 * 64, device="cpu") * 8_191 % 32_768).view(64, 64).float()
    one = torch.eye(64, dtype=torch.float32, device="cpu")
    # eight times, for small ones do not go the way of large ones
    products = (multiply(x.repeat(8, 1), m) for x, m in ((factors, one), (one, factors.T.contiguous())))
    unrounded = all(torch.equal(product.float(), factors.repeat(8, 1)) for product in products)
    return unrounded and convolutions_are_sums()


@cache
def convolutions_are_sums() -> bool:
    """Whether a 3x3 convolution of float32 sums up products, and nothing that it made of them before."""
    plane = (torch.arange(32 * 32 * 64, device="cpu") * 8_191 % 256).view(32, 32, 64)
    kernels = (torch.arange(3 * 32 * 192, device="cpu") * 4_093 % 199).view(3, 32, 192)  # sums reach 2^23
    bias = torch.zeros(32, device="cpu")
    single, double = (
        convolve(plane.to(kind), kernels.to(kind), bias.to(kind)) for kind in (torch.float32, torch.float64)
    )
    return torch.equal(single.double(), double)


class PriorCoder(ResidualCoder):
    """`prior-1` of one quality level."""

    name = "prior-1"
    price = PRICE
    tables_per_bin = PHASES
    tables_kind: type[PriorTables] = PriorTables
    fraction = 0  # bits after the point of what the network is given as the frame before

    def __init__(self, tables: PriorTables, level: int, device: str = "cpu") -> None:
        """The network runs on `device` if that is a CUDA device, else on the CPU."""
        super().__init__(tables.frequencies)
        self.level = level
        self.tables = tables
        self.device = torch.device(device if device.startswith("cuda") else "cpu")
        self._networks: dict[torch.dtype, PriorNetwork] = {}

    @classmethod
    def of_model(
        cls, tensors: Mapping[str, np.ndarray], level: int | None, device: str = "cpu"
    ) -> PriorCoder:
        """With the integers that lie with a model's weights."""
        return cls(cls.tables_kind.from_tensors(tensors), cls.checked(level), device)

    @classmethod
    def checked(cls, level: int | None) -> int:
        """The level of a header. Raises CorruptFileError if there is none such."""
        if level is None or not FIRST_LEVEL <= level <= LAST_LEVEL:
            raise CorruptFileError(f"the coder {cls.name} has no quality level {level}")
        return level

    def predictions(
        self, shape: tuple[int, int, int], past: Past, wanted: np.ndarray | None, *, is_aligned: bool = False
    ) -> Predictions:
        before, earlier = (past[0], past[:2][-1]) if past else (np.zeros(shape, np.int32),) * 2
        frame = PriorFrame(self.network(), len(past), *(as_plane(p, self.device) for p in (before, earlier)))
        yield from frame.passes()

    @property
    def first_other_table(self) -> int:
        """The row of the frequencies from which on they are not of symbols."""
        return len(self.frequencies)

    def network(self) -> PriorNetwork:
        """In float32 where its products are exact, else in float64, whose always are."""
        is_single = self.device.type == "cpu" and singles_are_exact()
        dtype = torch.float32 if is_single else torch.float64
        if dtype not in self._networks:
            self._networks[dtype] = PriorNetwork(
                self.tables,
                self.level,
                self.device,
                dtype,
                bins=self.first_other_table // self.tables_per_bin,
                fraction=self.fraction,
                symbol_bits=self.symbol_bits,
            )
        return self._networks[dtype]


def as_plane(symbols: np.ndarray, device: torch.device) -> Tensor:
    """int32 (C, h, w) → (h, w, C)."""
    return torch.from_numpy(np.ascontiguousarray(symbols)).to(device).permute(1, 2, 0).contiguous()


Parts = tuple[Tensor, Tensor, Tensor]  # of a Prediction


class PriorFrame:
    """What is known of one latent frame. Planes are (h, w, C); symbols come and go as (C, h, w)."""

    def __init__(
        self,
        network: PriorNetwork,
        known_frames: int,
        before: Tensor,
        earlier: Tensor,
        moves: Tensor | None = None,
        anchors: Tensor | None = None,
    ) -> None:
        """The frame before, int32 in the network's fractions of a cell, and the symbols of one earlier.

        `moves` (h, w) says where residuals count from the mean; None: nowhere, nor do symbols have fractions.
        Elsewhere symbols lie whole cells beside `anchors` (h, w, C); None: they are whole themselves.
        """
        self.network = network
        self.moves = moves
        self.anchors = anchors
        self.kind = min(known_frames, 2)
        self.order = network.later if known_frames else network.fresh
        self.border = max(each.stride for each in self.order)
        self.before = before
        self.h, self.w, channels = before.shape
        bordered = (self.h + 2 * self.border, self.w + 2 * self.border)
        device = network.device
        self.symbols = torch.zeros((*bordered, channels), dtype=network.integer, device=device)
        self.seen = torch.zeros((*bordered, 2 * channels), dtype=network.dtype, device=device)
        self.trunk = self._temporal(earlier)
        self.features = self._linear_features(earlier)

    def passes(self) -> Predictions:
        """The steps of the frame."""
        for each in self.order:
            if not each.has_any(self.h, self.w):
                continue
            total, means = self._view(each), self._linear_means(each)
            for number, channels in enumerate(self.network.groups):
                if number:
                    total = total + self._from_beside(each, number)
                symbols = yield (channels, *each.here), self.predict(each, number, total, means)
                self.set(each, channels, symbols)

    def _temporal(self, earlier: Tensor) -> Tensor:
        """Activations (h, w, W) from the frames before."""
        network = self.network
        change = self.before - (earlier << network.finer)
        x = torch.cat([network.compressed(self.before), network.compressed(change)], dim=2)
        x = activate(convolve(x, network.conv1, network.embed[self.kind]))
        return activate(convolve(x, network.conv2, network.bias[0]))

    def _linear_features(self, earlier: Tensor) -> list[Tensor]:
        """P, P+, P|, PX, Q at every position, integers (h, w, C)."""
        rows, columns = (slice(self.border, self.border + size) for size in (self.h, self.w))
        self.bordered = torch.zeros_like(self.symbols)
        p = self.bordered[rows, columns].copy_(self.before)
        return [p, *around(self.bordered, rows, columns), earlier.to(p.dtype)]

    def _view(self, each: Pass) -> Tensor:
        """(n, W): what the positions of a pass are seen by, sums that are not active yet."""
        network = self.network
        x = self.trunk[each.here]
        rows, columns, width = x.shape
        total = multiply(x.reshape(-1, width), network.trunk[each.number], network.bias[1 + 2 * each.number])
        return total.add_(self._from_known(each, rows, columns)) if each.taps else total

    def predict(self, each: Pass, number: int, total: Tensor, means: tuple[Tensor, Tensor]) -> Prediction:
        """Of a pass and a group of channels, in the order of channel, row, column.

        `total` (n, W) is what is known of each position; the linear means are of all channels.
        """
        network, index = self.network, each.number
        channels = network.groups[number]
        # a sum that later groups add to stays as it is
        active = activate(total.clone() if number + 1 < len(network.groups) else total)
        x = activate(multiply(active, network.hidden[index], network.bias[2 + 2 * index]))
        found = multiply(x, network.head[index][number], network.head_bias[index][number])
        both = tuple(mean[..., channels] for mean in means)
        rows, columns = both[0].shape[:2]
        mean, bins = (
            plane.view(rows, columns, -1).permute(2, 0, 1).contiguous()
            for plane in self._decide(index, channels, found, both)
        )
        if self.moves is None:
            guess = predicted(mean, bins)
        else:
            guess = self._in_fractions(mean, bins, channels, each)
        symbols, signs, tables = (part.to("cpu", torch.int32).numpy() for part in guess)
        return Prediction(symbols, signs, tables, network.symbol_bits)

    def _in_fractions(self, mean: Tensor, bins: Tensor, channels: slice, each: Pass) -> Parts:
        """A prediction that counts residuals from the mean where something moves, with tables of its own."""
        network = self.network
        coarser = MEAN_BITS - network.symbol_bits
        largest = MAX_SYMBOL >> network.symbol_bits << network.symbol_bits
        assert self.moves is not None
        moves = self.moves[each.here]
        anchors = torch.zeros_like(mean)
        if self.anchors is not None:
            anchors += self.anchors[(*each.here, channels)].permute(2, 0, 1)
        symbols, signs, tables = predicted(mean - (anchors << coarser), bins)
        symbols = (symbols << network.symbol_bits) + anchors
        symbols = torch.where(moves, (mean + (1 << coarser >> 1)) >> coarser, symbols)
        signs = torch.where(moves, 1, signs)
        tables = torch.where(moves, PHASES * network.bins + bins, tables)
        return symbols.clamp_(-largest, largest), signs, tables

    def _from_known(self, each: Pass, rows: int, columns: int) -> Tensor:
        """(n, W): the network's view of the neighbours that are known."""
        down, right = (part.start + self.border for part in each.here)
        step, count = 2 * each.stride, len(each.taps)
        seen = self.seen.new_empty(rows, columns, count, self.seen.shape[2])
        for number, (dy, dx) in enumerate(each.taps):
            seen[:, :, number] = self.seen[down + dy :: step, right + dx :: step][:rows, :columns]
        return multiply(seen.view(rows * columns, -1), self.network.known[each.number])

    def _from_beside(self, each: Pass, number: int) -> Tensor:
        """(n, W): what the channels that are known at a position say of a group of others there."""
        seen = self.seen[each.within(self.h, self.w, self.border)]
        known, channels = self.network.groups[number].start, self.network.channels
        both = torch.cat([seen[..., :known], seen[..., channels : channels + known]], dim=2)
        return multiply(both.view(-1, 2 * known), self.network.beside[each.number][number - 1])

    def _decide(
        self, index: int, channels: slice, total: Tensor, means: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Means in 2^-12, int64, and bins of spread (n, C), from the head's sums and the linear means."""
        network = self.network
        gate_shift, _, spread_shift = (part[channels] for part in network.head_shift[index])
        gate_half, _, spread_half = (part[channels] for part in network.head_half[index])
        gate, change, spread = total.view(len(total), 3, -1).unbind(1)
        bins = spread.to(torch.int32).add_(network.spread[self.kind][index][channels]).add_(spread_half)
        bins = bins.bitwise_right_shift_(spread_shift).clamp_(0, network.bins - 1)
        gate = gate.to(torch.int32).add_(gate_half).bitwise_right_shift_(gate_shift)
        gate = gate.clamp_(-GATE_CENTER, GATE_CENTER - 1).add_(GATE_CENTER)
        share = network.gate.index_select(0, gate.view(-1)).view(gate.shape)
        first, second = (mean.reshape(gate.shape) for mean in means)
        # (w m0 + (256 - w) m1) // 256, and the change << 12 >> its shift: a power of two, so it is exact
        mean = share.mul_(first - second).bitwise_right_shift_(GATE_BITS).add_(second)
        mean += (change * network.change_scale[index][channels]).floor_().to(torch.int64)
        return mean, bins

    def _linear_means(self, each: Pass) -> tuple[Tensor, Tensor]:
        """The two linear means, integers (rows, columns, C)."""
        features = [f[each.here].contiguous() for f in self.features]
        inside = each.within(self.h, self.w, self.border)
        if each.taps:
            features += around(self.symbols, *inside, each.stride)
        far = self.network.far.get(each.number)
        beyond = [] if far is None else around(self.bordered, *inside, each.stride)
        means = []
        for which, weights in enumerate(self.network.linear[each.number]):
            mean = weights[0] * features[0]
            for number, feature in enumerate(features[1:4], 1):
                mean.addcmul_(feature, weights[number])
            for number, feature in enumerate(beyond):
                assert far is not None
                mean.addcmul_(feature, far[which, number])
            if self.network.finer:
                mean.bitwise_right_shift_(self.network.finer)
            for number, feature in enumerate(features[4:], 4):
                mean.addcmul_(feature, weights[number])
            if self.network.symbol_bits:
                mean.bitwise_right_shift_(self.network.symbol_bits)
            means.append(mean.add_(weights[8]))
        return means[0], means[1]

    def set(self, each: Pass, channels: slice, symbols: np.ndarray) -> None:
        """Make the symbols (n, rows, columns) of some channels of a pass known."""
        values = as_plane(symbols, self.network.device)
        finer = values << self.network.finer
        innovation = finer - self.before[(*each.here, channels)]
        inside = each.within(self.h, self.w, self.border)
        self.symbols[(*inside, channels)] = values.to(self.symbols.dtype)
        seen = self.seen[inside]
        count = self.network.channels
        seen[..., channels] = self.network.compressed(finer)
        seen[..., count:][..., channels] = self.network.compressed(innovation)


def around(padded: Tensor, rows: slice, columns: slice, distance: int = 1) -> list[Tensor]:
    """Sums of the horizontal, the vertical and the diagonal neighbours of positions of a bordered plane."""

    def moved(down: int, right: int) -> Tensor:
        row = slice(rows.start + distance * down, rows.stop + distance * down, rows.step)
        return padded[row, columns.start + distance * right : columns.stop + distance * right : columns.step]

    horizontal = moved(0, -1) + moved(0, 1)
    vertical = moved(-1, 0) + moved(1, 0)
    return [horizontal, vertical, moved(-1, -1) + moved(-1, 1) + moved(1, -1) + moved(1, 1)]
