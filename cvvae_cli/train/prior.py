"""The prior of `prior-5` to `prior-15` in floats, as training shapes it, and its rounding to integers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cvvae_cli.bitstream.anchors import OFFSETS, AlignedCoder, offset_tables
from cvvae_cli.bitstream.motion import FRACTION, VECTOR_TABLES, MotionTables
from cvvae_cli.bitstream.prior import (
    FAR_FEATURES,
    FEATURES,
    FINE,
    LARGEST,
    PRICE,
    TAPS,
    CoarseToFineTables,
    GroupedTables,
    Pass,
    PriorTables,
    PyramidTables,
    ReachingTables,
    coarse_passes,
    later_passes,
)
from cvvae_cli.bitstream.residuals import ALPHABET, CENTER, ESCAPE, PHASES
from cvvae_cli.bitstream.vectors import still
from cvvae_cli.models.layers import zero_init
from cvvae_cli.train.motion import MotionPrediction
from cvvae_cli.train.tables import as_frequencies, count_values

ANCHORS = 4  # levels with parameters of their own; those between are interpolated
COMPRESS_STEPS = 16
COMPRESS_LARGEST = 127
GATE_STEPS = 16
FIRST_GATE = 1.0  # logit of the temporal mean's share, before training
SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE, BINS_PER_NEPER = -4.0, 5.0, 6
BINS = round((LARGEST_LOG_SCALE - SMALLEST_LOG_SCALE) * BINS_PER_NEPER)
VECTOR_SPREAD = 4.0  # in pixels, of the pseudo-counts of a table of vectors
OFFSET_SHARE = 0.1  # of areas that have offsets, and of those that are not zero, in pseudo-counts
EXACT = 2**24 - 1  # the largest sum that single precision holds exactly in any order
MIN_LIKELIHOOD = 1e-6
MOTION_RATE = 0.1  # of the learning rate
FEW = 1000  # positions, all of which are looked at for the range of an activation
SMOOTHING = 0.5  # pseudo-counts of a table, spread like a logistic of the bin's own scale


def interpolate(anchors: Tensor, level: Tensor) -> Tensor:
    """Rows between anchors (A, K) at levels (B,) in [0, 1]: (B, K)."""
    place = level * (len(anchors) - 1)
    low = place.floor().clamp(max=len(anchors) - 2).long()
    part = (place - low)[:, None]
    return anchors[low] * (1 - part) + anchors[low + 1] * part


@dataclass(frozen=True)
class Levels:
    """Quality levels of the samples of a batch."""

    place: Tensor  # (B,) in [0, 1]
    gain: Tensor  # (B, C, 1, 1, 1), cells of the quantiser per unit of a latent
    step: Tensor  # (B, C, 1, 1, 1), units of a latent per cell

    @classmethod
    def at(cls, place: Tensor, log_gain: Tensor, log_step: Tensor) -> Levels:
        """Between the anchors (A, C) of the logarithms."""
        gain, step = (interpolate(a, place).exp()[:, :, None, None, None] for a in (log_gain, log_step))
        return cls(place, gain, step)


class PassNetwork(nn.Module):
    """What one pass computes at its positions."""

    def __init__(self, channels: int, width: int, cuts: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.known = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.beside = nn.ModuleList(nn.Conv2d(2 * cut, width, 1, bias=False) for cut in cuts)
        for layer in self.beside:
            zero_init(layer)
        self.trunk = nn.Conv2d(width, width, 1)
        self.hidden = nn.Conv2d(width, width, 1)
        self.head = nn.Conv2d(width, 3 * channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]


class LatentPrior(nn.Module):
    """Mean and log scale of a logistic for every symbol. bitstream/motion.py is its integer twin."""

    def __init__(
        self,
        channels: int,
        width: int = 96,
        cuts: tuple[int, ...] = (),
        strides: tuple[int, ...] = (),
        later: tuple[int, ...] = (),
        reach: int = 0,
    ) -> None:
        """`cuts`: the channel that each group but the first begins with, ascending. `strides`: of the passes
        that first frames have of their own, each half of the one before, down to 1; `later`: of those of
        other frames. `reach`: of vectors, in pixels; 0: as without."""
        super().__init__()
        self.channels = channels
        self.cuts = cuts
        self.strides = strides
        self.later = later
        self.reach = reach
        self.coarse = coarse_passes(strides)
        self.order = later_passes(later, len(FINE + self.coarse)) if later else FINE
        self.farther = tuple(each for each in self.order if each.number >= len(FINE))
        self.motion = MotionPrediction(channels)
        self.kind = nn.Parameter(torch.zeros(3, width))
        self.level = nn.Parameter(torch.zeros(ANCHORS, width))
        self.conv1 = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.heads = nn.ModuleList(PassNetwork(channels, width, cuts) for _ in self.passes)
        self.scale_kind = nn.Parameter(torch.zeros(3, channels))
        self.scale_level = nn.Parameter(torch.zeros(ANCHORS, channels))
        linear = torch.zeros(len(FINE), 2, channels, FEATURES)
        linear[:, 0, :, 0] = 1.0  # the first mean starts as the frame before,
        linear[1, 1, :, 7] = 0.25  # the second as the mean of the known neighbours
        linear[2:, 1, :, 5:7] = 0.25
        self.linear = nn.Parameter(linear[[each.quarter for each in self.passes]])
        self.far = nn.Parameter(torch.zeros(len(self.farther), 2, channels, FAR_FEATURES))

    @property
    def passes(self) -> tuple[Pass, ...]:
        """All that there are, by number."""
        return FINE + self.coarse + self.farther

    def forward(
        self, decoded: Tensor, vectors: Tensor, aligned: Tensor, levels: Levels
    ) -> tuple[Tensor, Tensor]:
        """Of decoded latents in cells, (B, C, t, h, w), from the start of a period.

        Vectors are (B, t - 1, 2, rows, columns); `aligned` (B, t - 1) says of which latent frames the frames
        were moved onto one.
        """
        return self.given(decoded, self.expected(decoded, vectors, aligned, levels), levels)

    def given(self, decoded: Tensor, expected: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """The same by what each latent frame is expected to be, in cells, (B, C, t, h, w)."""
        b, c, t, h, w = decoded.shape

        def frames(x: Tensor) -> Tensor:
            return x.transpose(1, 2).flatten(0, 1)

        nothing = torch.zeros_like(decoded[:, :, :1])
        earlier = torch.cat([nothing, decoded[:, :, :-1]], 2)
        x, p, q = frames(decoded), frames(expected), frames(earlier)
        kinds = torch.arange(t, device=x.device).clamp(max=2).repeat(b)
        trunk, spread = self.temporal(p, q, kinds, levels.place.repeat_interleave(t))
        features = [p, *around(p), q]
        seen = torch.cat([torch.asinh(x), torch.asinh(x - p)], 1)
        orders: list[tuple[Any, tuple[Pass, ...]]] = [(slice(None), FINE)]
        if self.coarse or self.later:
            orders = [(kinds == 0, self.coarse or FINE), (kinds > 0, self.order)]
        means, scales = torch.zeros_like(x), torch.zeros_like(x)
        for these, order in orders:
            of_these = (part[these] for part in (trunk, seen, x))
            means[these], scale = self.walk(order, *of_these, [each[these] for each in features])
            scales[these] = scale + spread[these]

        def back(y: Tensor) -> Tensor:
            return y.reshape(b, t, c, h, w).transpose(1, 2)

        return back(means), back(scales)

    def walk(
        self, order: tuple[Pass, ...], trunk: Tensor, seen: Tensor, x: Tensor, features: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean and log scale of frames (N, C, h, w) whose passes come in an order."""
        means, scales, known = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for each in order:
            if not each.has_any(*x.shape[2:]):
                continue
            here = (..., *each.here)
            now = [feature[here] for feature in features]
            lattice = (..., slice(None, None, each.stride), slice(None, None, each.stride))
            if each.taps:
                now += [near[(..., *quarter_of(each))] for near in around((x * known)[lattice])]
            if each in self.farther:
                now += [far[(..., *quarter_of(each))] for far in around(features[0][lattice])]
            mean, scale = self.in_pass(each, trunk[here], seen[lattice], known[lattice], now)
            means[here], scales[here] = mean.to(x.dtype), scale.to(x.dtype)
            known = known.clone()  # the products above remember it as it was
            known[here] = 1
        return means, scales

    @torch.no_grad()
    def decoded(
        self, scaled: Tensor, vectors: Tensor, aligned: Tensor, levels: Levels, rounds: int = 1
    ) -> Tensor:
        """About what the coder makes of latents in cells, (B, C, t, h, w).

        It knows what it decoded before. Here all is found at once, from means that know what was found in
        the round before, in the first round the nearest integers.
        """
        decoded = scaled.round()
        for _ in range(rounds):
            decoded = self.quantized(scaled, *self(decoded, vectors, aligned, levels), vectors)
        return decoded

    def quantized(self, scaled: Tensor, mean: Tensor, log_scale: Tensor, vectors: Tensor) -> Tensor:
        """The same by means and log scales that are known."""
        moves = torch.zeros_like(scaled[:, :1], dtype=torch.bool)
        if scaled.shape[2] > 1:
            moves[:, :, 1:] = ~resting(vectors, *scaled.shape[3:])
        return quantized(scaled, mean.float(), log_scale.float(), moves)

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameters with their learning rates. What starts from least squares moves slower."""
        motion = list(self.motion.parameters())
        own = {id(p) for p in motion}
        others = [p for p in self.parameters() if id(p) not in own]
        return [
            {"params": others, "lr": learning_rate},
            {"params": motion, "lr": MOTION_RATE * learning_rate},
        ]

    def expected(self, decoded: Tensor, vectors: Tensor, aligned: Tensor, levels: Levels) -> Tensor:
        """What each latent frame would be by the one before and motion alone; zeros for the first."""
        b, c, t, h, w = decoded.shape
        if t == 1:
            return torch.zeros_like(decoded)
        before = decoded[:, :, :-1]
        latents = (before * levels.step).transpose(1, 2).flatten(0, 1)
        moved = self.motion(latents, vectors.flatten(0, 1), aligned.flatten())
        moved = moved.view(b, t - 1, c, h, w).transpose(1, 2)
        expected = torch.where(resting(vectors, h, w), before, moved * levels.gain)
        return torch.cat([torch.zeros_like(decoded[:, :, :1]), expected], 2)

    def temporal(self, p: Tensor, q: Tensor, kinds: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Activations from the two frames before, and the part of the log scale that no pixel changes."""
        bias = self.kind[kinds] + interpolate(self.level, level)
        x = channels_last(torch.cat([torch.asinh(p), torch.asinh(p - q)], 1))
        x = functional.relu(self.conv1(x) + bias[:, :, None, None])
        spread = self.scale_kind[kinds] + interpolate(self.scale_level, level)
        return functional.relu(self.conv2(x)), spread[:, :, None, None]

    def in_pass(
        self, each: Pass, trunk: Tensor, seen: Tensor, known: Tensor, features: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean and log scale at the positions of a pass.

        `seen` is of all positions of its stride, of which `known` says what is; all else is of its own.
        """
        head, quarter = self.heads[each.number], quarter_of(each)
        x = head.trunk(trunk)
        if each.taps:
            top, left = (part.start for part in quarter)
            around_these = functional.pad(channels_last(seen * known), (1, 1, 1, 1))[..., top:, left:]
            x = x + functional.conv2d(around_these, head.known.weight, head.known.bias, stride=2)
        own, change = seen[(..., *quarter)].split(self.channels, 1)
        found = []
        for number, (first, last) in enumerate(pairwise([0, *self.cuts, self.channels])):
            if number:
                beside = torch.cat([own[:, :first], change[:, :first]], 1)
                x = x + head.beside[number - 1](channels_last(beside))
            out = head.head(functional.relu(head.hidden(functional.relu(x))))
            found.append([part[:, first:last] for part in out.chunk(3, 1)])
        gate, change, scale = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        means = []
        for weights in self.linear_of(each):
            mean = weights[:, -1, None, None]
            for number, feature in enumerate(features):
                mean = mean + weights[:, number, None, None] * feature
            means.append(mean)
        share = torch.sigmoid(gate + FIRST_GATE)
        return share * means[0] + (1 - share) * means[1] + change, scale

    def linear_of(self, each: Pass) -> Tensor:
        """Of the features of a pass, in their order, and of one: (2, C, n)."""
        weights = self.linear[each.number]
        if each not in self.farther:
            return weights
        return torch.cat([weights[..., :-1], self.far[self.farther.index(each)], weights[..., -1:]], 2)


def quarter_of(each: Pass) -> tuple[slice, slice]:
    """Where the positions of a pass are among all of its stride: as one of stride 1 is among all."""
    return FINE[each.quarter].here


def resting(vectors: Tensor, h: int, w: int) -> Tensor:
    """Which latent positions do not move: vectors (B, t - 1, 2, rows, columns) → (B, 1, t - 1, h, w)."""
    return still(vectors.flatten(0, 1), h, w).unflatten(0, vectors.shape[:2])[:, None]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def around(x: Tensor) -> list[Tensor]:
    """Sums of the horizontal, the vertical and the diagonal neighbours."""
    p = functional.pad(x, (1, 1, 1, 1))
    horizontal = p[:, :, 1:-1, :-2] + p[:, :, 1:-1, 2:]
    vertical = p[:, :, :-2, 1:-1] + p[:, :, 2:, 1:-1]
    diagonal = p[:, :, :-2, :-2] + p[:, :, :-2, 2:] + p[:, :, 2:, :-2] + p[:, :, 2:, 2:]
    return [horizontal, vertical, diagonal]


def logistic_bits(values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Bits of values under a logistic distribution integrated over a unit interval."""
    inverse = torch.exp(-log_scale.clamp(SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE))
    distance = (values - mean).abs()  # the side on which sigmoid differences keep their digits
    likelihood = torch.sigmoid((0.5 - distance) * inverse) - torch.sigmoid((-0.5 - distance) * inverse)
    return -torch.log2(likelihood.clamp_min(MIN_LIKELIHOOD))


@torch.no_grad()
def quantized(scaled: Tensor, mean: Tensor, log_scale: Tensor, moves: Tensor) -> Tensor:
    """Latents in cells of the quantiser → what the coder chooses for them, in cells, without its offsets.

    Whole residuals are counted from the mean where something moves, else from the integer next to it.
    """
    start = torch.where(moves, mean, mean.round())
    far = start + (scaled - start).round()
    near = far - (far - start).sign()
    saved = logistic_bits(far, mean, log_scale) - logistic_bits(near, mean, log_scale)
    return torch.where(PRICE * saved > (scaled - near) ** 2 - (scaled - far) ** 2, near, far)


class Rounder:
    """Rounds the float prior to integers. Ranges of activations are measured on decoded latents in cells."""

    def __init__(self, prior: LatentPrior) -> None:
        self.prior = prior
        self.ranges: dict[str, Tensor] = {}

    @torch.inference_mode()
    def measure(self, decoded: Tensor, aligned: Tensor, levels: Levels) -> None:
        """Note the largest activations of each channel."""
        with self.noting():
            self.prior(decoded, self.prior.motion.vectors(decoded * levels.step), aligned, levels)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note them of whatever the prior is given."""
        hooks = [
            layer.register_forward_pre_hook(lambda _, x, name=name: self._note(name, x[0]))
            for name, layer in self._inputs()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _inputs(self) -> list[tuple[str, nn.Module]]:
        """Layers by the name of the activations that they read."""
        named: list[tuple[str, nn.Module]] = [("x1", self.prior.conv2)]
        for index, head in enumerate(self.prior.heads):
            named += [("x2", head.trunk), (f"h{index}", head.hidden), (f"g{index}", head.head)]
        return named

    def _note(self, name: str, x: Tensor) -> None:
        rows = x.transpose(0, 1).flatten(1).float()
        some = rows[:, :: 7 if rows.shape[1] > FEW else 1]
        largest = torch.quantile(some, 0.9995, dim=1).clamp_min(1e-3)
        self.ranges[name] = torch.maximum(self.ranges.get(name, largest), largest)

    def tables(self) -> PriorTables:
        """All integers; the frequencies are what is expected before any is counted."""
        unit = {name: (value / 256).double().numpy() for name, value in self.ranges.items()}  # of one step
        prior, w = self.prior, weights_of
        u = 1 / COMPRESS_STEPS
        embed = np.concatenate([w(prior.kind) + w(prior.conv1.bias), w(prior.level)])
        conv1, shift1, (embed_q,) = rounded([(taps(prior.conv1), u, COMPRESS_LARGEST)], unit["x1"], [embed])
        conv2, shift2, (bias2,) = rounded(
            [(taps(prior.conv2), unit["x1"], LARGEST)], unit["x2"], [w(prior.conv2.bias)]
        )
        shifts, biases, parts = [shift1, shift2], [bias2], []
        for index, head in enumerate(prior.heads):
            parts.append(self._round_pass(index, head, unit, shifts, biases))
        gate = np.arange(-128, 128) / GATE_STEPS + FIRST_GATE
        kind, more = PriorTables, {}
        if prior.cuts or prior.strides:
            kind = GroupedTables
            more["cuts"] = np.array(prior.cuts, np.uint8)
            more["beside"] = np.stack([p["beside"] for p in parts]).astype(np.int16)
        if prior.strides:
            kind = PyramidTables
            more["strides"] = np.array(prior.strides, np.uint8)
        if prior.later:
            kind = CoarseToFineTables
            more["later"] = np.array(prior.later, np.uint8)
            more["far"] = np.rint(w(prior.far) * 4096).astype(np.int32)
        if prior.reach:
            kind = ReachingTables
            more["reach"] = np.array([prior.reach], np.uint16)
        return kind(
            compress=compressing(),
            embed=embed_q.astype(np.int32),
            conv1=conv1[0].astype(np.int16),
            conv2=conv2[0].astype(np.int16),
            trunk=np.stack([p["trunk"] for p in parts]).astype(np.int16),
            known=np.stack([p["known"] for p in parts]).astype(np.int16),
            hidden=np.stack([p["hidden"] for p in parts]).astype(np.int16),
            head=np.stack([p["head"] for p in parts]).astype(np.int16),
            bias=np.stack(biases).astype(np.int32),
            head_bias=np.stack([p["head_bias"] for p in parts]).astype(np.int32),
            spread=np.stack([p["spread"] for p in parts], axis=1).astype(np.int32),
            shift=np.stack(shifts).astype(np.uint8),
            head_shift=np.stack([p["head_shift"] for p in parts]).astype(np.uint8),
            gate=np.rint(256 / (1 + np.exp(-gate))).astype(np.int16),
            linear=np.rint(w(prior.linear) * 4096).astype(np.int32),
            frequencies=frequencies_of(np.zeros((tables_for(prior.channels), ALPHABET))),
            **more,
        )

    def _round_pass(
        self,
        index: int,
        head: nn.Module,
        unit: dict[str, np.ndarray],
        shifts: list[np.ndarray],
        biases: list[np.ndarray],
    ) -> dict[str, np.ndarray]:
        w, channels, neighbours = weights_of, self.prior.channels, TAPS[self.prior.passes[index].quarter]
        known = np.zeros((8, *taps(head.known).shape[1:]))
        for number, (down, right) in enumerate(neighbours):
            known[number] = taps(head.known)[3 * (down + 1) + right + 1]
        beside = np.zeros((len(self.prior.cuts), 2, channels, known.shape[2]))
        for number, cut in enumerate(self.prior.cuts):
            beside[number, :, :cut] = taps(head.beside[number]).reshape(2, cut, -1)
        bias = w(head.trunk.bias) + (w(head.known.bias) if neighbours else 0)
        seen = np.concatenate([known, beside.reshape(len(beside), *known.shape[1:])])
        (trunk, seen), shift, (bias1,) = rounded(
            [(taps(head.trunk), unit["x2"], LARGEST), (seen, 1 / COMPRESS_STEPS, COMPRESS_LARGEST)],
            unit[f"h{index}"],
            [bias],
        )
        hidden, hidden_shift, (bias2,) = rounded(
            [(taps(head.hidden), unit[f"h{index}"], LARGEST)], unit[f"g{index}"], [w(head.hidden.bias)]
        )
        shifts += [shift, hidden_shift]
        biases += [bias1, bias2]
        units, offset = head_units(channels)
        base = np.concatenate([w(self.prior.scale_kind), w(self.prior.scale_level)])
        base = np.concatenate([np.zeros((len(base), 2 * channels)), base], axis=1)
        out, head_shift, (head_bias, spread) = rounded(
            [(taps(head.head), unit[f"g{index}"], LARGEST)], units, [w(head.head.bias) + offset, base]
        )
        return {
            "trunk": trunk[0],
            "known": seen[: len(known)],
            "beside": seen[len(known) :],
            "hidden": hidden[0][0],
            "head": out[0][0],
            "head_bias": head_bias,
            "head_shift": head_shift,
            "spread": spread[:, 2 * channels :],
        }


def head_units(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Of gate, change and spread, (3 C,) each: the worth of a step of the integers, and what is added."""
    units = np.repeat([1 / GATE_STEPS, 1.0, 1 / BINS_PER_NEPER], channels)
    return units, np.repeat([0.0, 0.0, -SMALLEST_LOG_SCALE], channels)


def compressing() -> np.ndarray:
    """int16: the inverse hyperbolic sine of fractions of a cell, up to the largest result."""
    cells = np.arange(1450 << FRACTION) / (1 << FRACTION)
    return np.minimum(np.rint(COMPRESS_STEPS * np.arcsinh(cells)), COMPRESS_LARGEST).astype(np.int16)


def weights_of(parameter: Tensor | None) -> np.ndarray:
    assert parameter is not None
    values: np.ndarray = parameter.detach().double().cpu().numpy()
    return values


def taps(conv: nn.Module) -> np.ndarray:
    """Weights (taps, inputs, outputs) of a convolution, neighbours in row order."""
    assert isinstance(conv, nn.Conv2d)
    weight = weights_of(conv.weight)
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[1], weight.shape[0])


def rounded(
    parts: list[tuple[np.ndarray, np.ndarray | float, int]], unit: np.ndarray, biases: list[np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Integer weights and biases with the largest shift of each output for which all sums stay exact.

    A part is (weights (taps, I, O), worth of one step of its inputs, their largest integer); `unit` is the
    worth of one step of each output after the shift.
    """
    real = [weight * np.reshape(worth, (1, -1, 1)) / unit for weight, worth, _ in parts]
    shift = np.full(real[0].shape[2], 20)
    while True:
        scale = 2.0**shift
        weights = [np.rint(r * scale) for r in real]
        fixed = [np.rint(bias / unit * scale) for bias in biases]
        total = sum(np.abs(q).sum((0, 1)) * top for q, (_, _, top) in zip(weights, parts, strict=True))
        total = total + sum(np.abs(bias).reshape(-1, bias.shape[-1]).max(0) * 2 for bias in fixed)
        largest = np.max([np.abs(q).max((0, 1)) for q in weights], axis=0)
        too_large = ((total > EXACT) | (largest > 32_767)) & (shift > 0)
        if not too_large.any():
            return weights, shift, fixed
        shift = shift - too_large


def fit_frequencies(
    tables: PriorTables, motion: MotionTables, clips: list[CodedClip], period: int
) -> PriorTables:
    """The tables with frequencies from clips.

    Twice, for what a coder chooses depends on what it takes the bits to be.
    """
    for part in (clips[::3], clips):
        counts = sum(counts_of(AlignedCoder(tables, motion, clip.level), clip, period) for clip in part)
        tables = replace(tables, frequencies=frequencies_of(np.asarray(counts)))
    return tables


@dataclass(frozen=True)
class CodedClip:
    """What tables are fitted to."""

    scaled: np.ndarray  # latents in cells (t, C, h, w), from latent frame 0 on
    aligned: np.ndarray  # bool (t,)
    level: int  # as headers have it


def counts_of(coder: AlignedCoder, clip: CodedClip, period: int) -> np.ndarray:
    """How often each value of each table (tables, 256) is chosen."""
    starts = range(0, len(clip.scaled), period)
    periods = [slice(first, first + period) for first in starts]
    plans = (coder.choose(clip.scaled[part], (), clip.aligned[part]) for part in periods)
    return count_values(plans, len(coder.frequencies))


def frequencies_of(counts: np.ndarray) -> np.ndarray:
    """Histograms → frequencies: int32, each at least 1, rows sum to 2^24."""
    values = np.arange(ALPHABET - 1) - CENTER
    of_bins = np.exp(np.arange(BINS) / BINS_PER_NEPER + SMALLEST_LOG_SCALE)
    spreads = [*of_bins.repeat(PHASES), *of_bins, *[VECTOR_SPREAD] * VECTOR_TABLES]
    centers = [
        *[(phase + 0.5) / (2 * PHASES) for phase in range(PHASES)] * BINS,
        *[0.0] * (BINS + VECTOR_TABLES),
    ]
    rows = []
    of_symbols = counts[: len(spreads)]
    for histogram, spread, center in zip(of_symbols, spreads, centers, strict=True):
        above, below = ((values - center + side) / (2 * spread) for side in (0.5, -0.5))
        expected = np.append(np.tanh(above) - np.tanh(below), 0)
        expected = expected / expected.sum()
        expected[ESCAPE] = 1e-6
        rows.append(as_frequencies(histogram + SMOOTHING * expected / expected.sum() + 1e-7))
    for row, histogram in enumerate(counts[len(spreads) :]):  # of offsets
        expected = np.full(ALPHABET, 1e-6)
        others = CENTER + (OFFSETS[OFFSETS != 0] if row else 1)
        expected[others] = OFFSET_SHARE / np.size(others)
        expected[CENTER] = 1 - OFFSET_SHARE
        rows.append(as_frequencies(histogram + SMOOTHING * expected))
    return np.array(rows, np.int32)


def tables_for(channels: int) -> int:
    """Of what rests in each phase and of what moves, of vectors, of offsets."""
    return BINS * (PHASES + 1) + VECTOR_TABLES + offset_tables(channels)
