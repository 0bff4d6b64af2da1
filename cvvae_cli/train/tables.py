"""Fit the integers of the `context-1` coder (weights, thresholds, frequencies) to training latents.

Least squares gives each symbol's mean from its neighbourhood, then the size of what is left; sizes fall
into bins, and a bin's table is the histogram of its residuals. All of it is rounded before it is used, so
the fit sees exactly what the coder will compute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from cvvae_cli.bitstream.coders import WEIGHT_BITS, ContextTables, weighted
from cvvae_cli.bitstream.context import (
    MEAN_FEATURES,
    PASSES,
    SCALE_FEATURES,
    FrameWalk,
)
from cvvae_cli.bitstream.residuals import (
    ALPHABET,
    CENTER,
    ESCAPE,
    PHASES,
    PROBABILITY_BITS,
    Past,
    Plan,
    round_mean,
)

MOTION_CLASSES = 3
SCALE_ONE = 2**16  # a mean absolute residual of one symbol
SMALLEST_SCALE, LARGEST_SCALE, BINS = 0.004, 60.0, 40
RIDGE = 1e-4
SMOOTHING = 0.5  # pseudo-counts, spread like a Laplace distribution of the bin's own size


@dataclass
class Fit:
    """Integers found so far, and the histograms that become tables."""

    motion_thresholds: np.ndarray
    mean_weights: np.ndarray
    scale_weights: np.ndarray
    thresholds: np.ndarray
    counts: np.ndarray = field(default_factory=lambda: np.zeros((BINS * PHASES, ALPHABET)))


def fit_tables(clips: list[np.ndarray]) -> ContextTables:
    """Tables for symbols like those of `clips`, int32 (t, C, h, w) of one size, each from frame 0 on."""
    symbols = np.stack(clips)  # (N, t, C, h, w)
    motion_thresholds = motion_thresholds_of(symbols)
    channels, kinds = symbols.shape[2], 3 + len(motion_thresholds)
    thresholds = np.geomspace(SMALLEST_SCALE, LARGEST_SCALE, BINS - 1) * SCALE_ONE
    fit = Fit(
        motion_thresholds,
        np.zeros((len(PASSES), channels, kinds, MEAN_FEATURES), np.int32),
        np.zeros((len(PASSES), channels, kinds, SCALE_FEATURES), np.int32),
        thresholds.astype(np.int64),
    )
    fit_frames(fit, symbols[:, 0], ())
    fit_frames(fit, symbols[:, 1], (symbols[:, 0],))
    following = (symbols[:, 2:], symbols[:, 1:-1], symbols[:, :-2])
    now, before, earlier = (x.reshape(-1, *x.shape[2:]) for x in following)
    fit_frames(fit, now, (before, earlier))
    tables = tables_of(fit.counts)
    return ContextTables(fit.motion_thresholds, fit.mean_weights, fit.scale_weights, fit.thresholds, tables)


def motion_thresholds_of(symbols: np.ndarray) -> np.ndarray:
    """Where the positions that have a past fall into equally many of each class."""
    walk = FrameWalk((symbols[:, 1:-1], symbols[:, :-2]), symbols[:, 2:].shape)
    shares = np.arange(1, MOTION_CLASSES) / MOTION_CLASSES
    return np.unique(np.quantile(walk.motion[..., 1:-1, 1:-1], shares)).astype(np.int64)


def fit_frames(fit: Fit, frames: np.ndarray, past: Past) -> None:
    """Fit all channels and passes of frames (N, C, h, w) that follow `past`."""
    for channel, plane in enumerate(FrameWalk(past, frames.shape)):
        for index, start in enumerate(PASSES):
            values = frames[:, channel, start[0] :: 2, start[1] :: 2].astype(np.int64)
            kinds = plane.kinds(start, fit.motion_thresholds)
            mean_weights = fit.mean_weights[index, channel]
            features = plane.mean_features(start)
            for kind in np.unique(kinds):
                here = kinds == kind
                mean_weights[kind] = np.rint(least_squares(features[:, here], values[here]) * 2**WEIGHT_BITS)
            mean = weighted(features, mean_weights.astype(np.int64), kinds)
            predicted, signs, phase = round_mean(mean)
            left = np.abs(values - mean / 2**WEIGHT_BITS)
            features = plane.scale_features(start)
            scale_weights = fit.scale_weights[index, channel]
            for kind in np.unique(kinds):
                here = kinds == kind
                scale_weights[kind] = np.rint(fit_scale(features[:, here], left[here]) * SCALE_ONE)
            scale = weighted(features, scale_weights.astype(np.int64), kinds)
            bins = np.searchsorted(fit.thresholds, scale, side="right")
            residuals = values - predicted
            count(fit.counts, bins * PHASES + phase, residuals * signs)
            plane.set(start, values, residuals)


def fit_scale(features: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Weights that give the mean size of what is left."""
    weights = np.zeros(SCALE_FEATURES)
    spread = np.full(left.shape, left.mean() + 0.01)
    for _ in range(3):  # each value weighs by one over its expected square
        weights = non_negative_least_squares(features, left, 1 / spread**2)
        spread = np.maximum(np.tensordot(weights, features, 1), 0.02)
    return weights


def normal_equations(
    features: np.ndarray, target: np.ndarray, weight: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    rows = features.reshape(len(features), -1).astype(np.float64)
    weighted = rows * np.broadcast_to(weight, target.shape).ravel()
    gram, moment = weighted @ rows.T, weighted @ target.ravel()
    return gram + RIDGE * (gram.trace() / len(gram) + 1e-9) * np.eye(len(gram)), moment


def least_squares(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    gram, moment = normal_equations(features, target, 1.0)
    return np.asarray(np.linalg.solve(gram, moment))


def non_negative_least_squares(features: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Coordinate descent: a size only grows with the activity around it."""
    gram, moment = normal_equations(features, target, weight)
    solution = np.zeros(len(moment))
    for _ in range(200):
        for i in range(len(moment)):
            rest = moment[i] - gram[i] @ solution + gram[i, i] * solution[i]
            solution[i] = max(0.0, rest / gram[i, i])
    return solution


def count(counts: np.ndarray, tables: np.ndarray, residuals: np.ndarray) -> None:
    values = np.where(np.abs(residuals) <= CENTER, residuals + CENTER, ESCAPE)
    flat = tables.ravel().astype(np.int64) * ALPHABET + values.ravel()
    counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)


def count_values(plans: Iterable[Plan], tables: int) -> np.ndarray:
    """How often plans code each value of each table: (tables, 256)."""
    counts = np.zeros((tables, ALPHABET))
    for plan in plans:
        for _, guess, residuals in plan.steps:
            count(counts, guess.tables, residuals * guess.signs)
    return counts


def tables_of(counts: np.ndarray) -> np.ndarray:
    """Histograms → frequencies: int32, each at least 1, rows sum to 2^24."""
    distance = np.abs(np.arange(ALPHABET - 1) - CENTER)
    scales = np.repeat(np.geomspace(SMALLEST_SCALE, LARGEST_SCALE, BINS), PHASES)
    rows = []
    for histogram, scale in zip(counts, scales, strict=True):
        prior = np.append(np.exp(-distance / max(scale, 0.15)), 1e-4)
        rows.append(as_frequencies(histogram + SMOOTHING * prior / prior.sum() + 1e-6))
    return np.array(rows, np.int32)


def as_frequencies(weights: np.ndarray) -> np.ndarray:
    """Positive weights of an alphabet → integers of at least 1 that sum to 2^24."""
    free = 2**PROBABILITY_BITS - len(weights)
    row = np.floor(weights / weights.sum() * free).astype(np.int64)
    row[np.argmax(row)] += free - row.sum()
    return row + 1
