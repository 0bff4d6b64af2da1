"""What is known before a symbol: integer features of its neighbourhood (FORMAT.md, "context-1").

A plane (h, w) is coded in four passes, each a quarter of its positions. Planes are kept with a border of
zeros, (..., h + 2, w + 2), and may have leading axes: the coder has none, the fitting of tables many.
Everything is an integer, so every machine gets the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cvvae_cli.bitstream.residuals import Past

PASSES = ((0, 0), (1, 1), (0, 1), (1, 0))  # first row and column of each
MEAN_FEATURES = 9
SCALE_FEATURES = 7
CONSTANT = 64
MAX_ACTIVITY = 255  # of one residual, in the sums that only steer the choice of a table


def bordered(planes: np.ndarray) -> np.ndarray:
    """(..., h, w) → (..., h + 2, w + 2), zeros around."""
    widths = [(0, 0)] * (planes.ndim - 2) + [(1, 1), (1, 1)]
    return np.pad(planes, widths)


def own(padded: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """The positions of a pass: a view."""
    return shifted(padded, start, 0, 0)


def shifted(padded: np.ndarray, start: tuple[int, int], down: int, right: int) -> np.ndarray:
    """The values that lie `down` and `right` of the positions of a pass: a view."""
    h, w = padded.shape[-2] - 2, padded.shape[-1] - 2
    rows = slice(1 + start[0] + down, 1 + h + down, 2)
    return padded[..., rows, slice(1 + start[1] + right, 1 + w + right, 2)]


def around(padded: np.ndarray, start: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of the horizontal, the vertical and the diagonal neighbours of a pass."""
    horizontal = shifted(padded, start, 0, -1) + shifted(padded, start, 0, 1)
    vertical = shifted(padded, start, -1, 0) + shifted(padded, start, 1, 0)
    above = shifted(padded, start, -1, -1) + shifted(padded, start, -1, 1)
    below = shifted(padded, start, 1, -1) + shifted(padded, start, 1, 1)
    return horizontal, vertical, above + below


def blur(padded: np.ndarray) -> np.ndarray:
    """b(x) = 4x + 2(x+ + x|) + xX at every position, with a border of zeros again."""
    rows = padded[..., :, :-2] + 2 * padded[..., :, 1:-1] + padded[..., :, 2:]
    return bordered(rows[..., :-2, :] + 2 * rows[..., 1:-1, :] + rows[..., 2:, :])


def activity(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.abs(values), MAX_ACTIVITY)


class FrameWalk:
    """The channels of one latent frame in order; iterating gives the PlaneContext of each.

    Planes have shape (..., C, h + 2, w + 2). A plane must be filled before the next is asked for.
    """

    def __init__(self, past: Past, shape: tuple[int, ...]) -> None:
        """Of frames of `shape` (..., C, h, w) that follow `past`; what is not known is zero or repeated."""
        past = past[:2]
        self.known_frames = len(past)
        nothing = np.zeros(shape, np.int32)
        self.before = bordered(past[0] if past else nothing)  # P
        self.earlier = bordered(past[-1] if past else nothing)  # Q
        difference = np.abs(self.before - self.earlier)
        self.change = blur(difference)
        self.size = blur(np.abs(self.before))
        self.motion = blur(activity(difference).sum(axis=-3, dtype=np.int32))
        self.total = np.zeros_like(self.motion)  # A
        self.last = np.zeros_like(self.motion)  # L

    def __iter__(self) -> Iterator[PlaneContext]:
        for channel in range(self.before.shape[-3]):
            plane = PlaneContext(self, channel)
            yield plane
            self.last = activity(plane.residuals)
            self.total += self.last


class PlaneContext:
    """The plane of one channel while it is coded pass by pass."""

    def __init__(self, frame: FrameWalk, channel: int) -> None:
        self.frame = frame
        self.channel = channel
        self.symbols = np.zeros_like(frame.total)  # C
        self.residuals = np.zeros_like(frame.total)  # R
        self._total = blur(frame.total)
        self._last = blur(frame.last)

    def mean_features(self, start: tuple[int, int]) -> np.ndarray:
        """int64 (9, ...) of a pass."""
        before = self.frame.before[..., self.channel, :, :]
        earlier = self.frame.earlier[..., self.channel, :, :]
        known = around(self.symbols, start)
        features = [own(before, start), *around(before, start), own(earlier, start), *known]
        return stacked(features)

    def scale_features(self, start: tuple[int, int]) -> np.ndarray:
        """int64 (7, ...) of a pass."""
        horizontal, vertical, diagonal = around(np.abs(self.residuals), start)
        features = [
            own(self.frame.change[..., self.channel, :, :], start),
            own(self.frame.size[..., self.channel, :, :], start),
            own(self._total, start),
            own(self._last, start),
            4 * (horizontal + vertical + diagonal),
            own(self.frame.motion, start),
        ]
        return stacked(features)

    def kinds(self, start: tuple[int, int], motion_thresholds: np.ndarray) -> np.ndarray:
        """Which weights each position of a pass takes: by the frames known, and by the motion before."""
        motion = own(self.frame.motion, start)
        if self.frame.known_frames < 2:
            return np.full(motion.shape, self.frame.known_frames)
        return 2 + np.searchsorted(motion_thresholds, motion, side="right")

    def set(self, start: tuple[int, int], symbols: np.ndarray, residuals: np.ndarray) -> None:
        """Make a pass known."""
        own(self.symbols, start)[...] = symbols
        own(self.residuals, start)[...] = residuals


def stacked(features: list[np.ndarray]) -> np.ndarray:
    """The features and the constant, int64 (n + 1, ...)."""
    out = np.empty((len(features) + 1, *features[0].shape), np.int64)
    for row, feature in zip(out, features, strict=False):
        row[...] = feature
    out[-1] = CONSTANT
    return out
