"""Fit the integers of the `context-1` coder (weights, thresholds, frequencies) to training latents.

Least squares gives each symbol's mean from its neighbourhood, then the size of what is left; sizes fall
into bins, and a bin's table is the histogram of its residuals. All of it is rounded before it is used, so
the fit sees exactly what the coder will compute.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cvvae_cli.bitstream.coders import (
    ALPHABET,
    CENTER,
    ESCAPE,
    PHASES,
    PROBABILITY_BITS,
    WEIGHT_BITS,
    ContextTables,
    round_mean,
)
from cvvae_cli.bitstream.context import (
    MEAN_FEATURES,
    PASSES,
    SCALE_FEATURES,
    FrameWalk,
)

SCALE_ONE = 2**16  # a mean absolute residual of one symbol
SMALLEST_SCALE, LARGEST_SCALE, BINS = 0.004, 60.0, 40
RIDGE = 1e-4
SMOOTHING = 0.5  # pseudo-counts, spread like a Laplace distribution of the bin's own size


@dataclass
class Fit:
    """Integers found so far, and the histograms that become tables."""

    mean_weights: np.ndarray
    scale_weights: np.ndarray
    thresholds: np.ndarray
    counts: np.ndarray = field(default_factory=lambda: np.zeros((BINS * PHASES, ALPHABET)))


def fit_tables(clips: list[np.ndarray]) -> ContextTables:
    """Tables for symbols like those of `clips`, int32 (t, C, h, w) of one size, each from frame 0 on."""
    channels = clips[0].shape[1]
    fit = Fit(
        np.zeros((2, len(PASSES), channels, MEAN_FEATURES), np.int32),
        np.zeros((2, len(PASSES), channels, SCALE_FEATURES), np.int32),
        np.geomspace(SMALLEST_SCALE, LARGEST_SCALE, BINS - 1).__mul__(SCALE_ONE).astype(np.int64),
    )
    symbols = np.stack(clips)  # (N, t, C, h, w)
    nothing = np.zeros_like(symbols[:, 0])
    fit_kind(fit, 0, symbols[:, 0], nothing, nothing)
    now, before, earlier = symbols[:, 1:], symbols[:, :-1], symbols[:, :-1].copy()
    earlier[:, 1:] = symbols[:, :-2]
    fit_kind(fit, 1, *(x.reshape(-1, *x.shape[2:]) for x in (now, before, earlier)))
    return ContextTables(fit.mean_weights, fit.scale_weights, fit.thresholds, tables_of(fit.counts))


def fit_kind(fit: Fit, kind: int, frames: np.ndarray, before: np.ndarray, earlier: np.ndarray) -> None:
    """Fit all channels and passes of frames (N, C, h, w) that follow `before` and `earlier`."""
    for channel, plane in enumerate(FrameWalk(before, earlier)):
        for index, start in enumerate(PASSES):
            values = frames[:, channel, start[0] :: 2, start[1] :: 2].astype(np.int64)
            features = plane.mean_features(start)
            weights = least_squares(features, values) * 2**WEIGHT_BITS
            fit.mean_weights[kind, index, channel] = np.rint(weights)
            mean = np.tensordot(fit.mean_weights[kind, index, channel].astype(np.int64), features, 1)
            predicted, signs, phase = round_mean(mean)
            residuals = values - predicted
            left = np.abs(values - mean / 2**WEIGHT_BITS)
            scale = fit_scale(fit, (kind, index, channel), plane.scale_features(start), left)
            bins = np.searchsorted(fit.thresholds, scale, side="right")
            count(fit.counts, bins * PHASES + phase, residuals * signs)
            plane.set(start, values, residuals)


def fit_scale(fit: Fit, which: tuple[int, int, int], features: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Weights for the size of what is left; returns the integer scale of each position."""
    weights = np.zeros(SCALE_FEATURES)
    spread = np.full(left.shape, left.mean() + 0.01)
    for _ in range(3):  # each value weighs by one over its expected square
        weights = non_negative_least_squares(features, left, 1 / spread**2)
        spread = np.maximum(np.tensordot(weights, features, 1), 0.02)
    fit.scale_weights[which] = np.rint(weights * SCALE_ONE)
    return np.tensordot(fit.scale_weights[which].astype(np.int64), features, 1)


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


def tables_of(counts: np.ndarray) -> np.ndarray:
    """Histograms → frequencies: int32, each at least 1, rows sum to 2^24."""
    distance = np.abs(np.arange(ALPHABET - 1) - CENTER)
    scales = np.repeat(np.geomspace(SMALLEST_SCALE, LARGEST_SCALE, BINS), PHASES)
    rows = []
    for histogram, scale in zip(counts, scales, strict=True):
        prior = np.append(np.exp(-distance / max(scale, 0.15)), 1e-4)
        smoothed = histogram + SMOOTHING * prior / prior.sum() + 1e-6
        free = 2**PROBABILITY_BITS - ALPHABET
        row = np.floor(smoothed / smoothed.sum() * free).astype(np.int64)
        row[np.argmax(row)] += free - row.sum()
        rows.append(row + 1)
    return np.array(rows, np.int32)
