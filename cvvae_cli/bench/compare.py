"""Two videos side by side: the same metrics, and whether one runs ahead of the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cvvae_cli.bench.dataset import fit
from cvvae_cli.bench.measure import Measurement, in_step, measure
from cvvae_cli.bench.run import WORST, rounded, side_by_side, worst_frame
from cvvae_cli.errors import MismatchError
from cvvae_cli.metrics import MetricOptions
from cvvae_cli.video.color import in_eight_bits
from cvvae_cli.video.reader import open_source

Frames = tuple[np.ndarray, np.ndarray]
LARGEST_SHIFT = 3  # frames
THUMBNAIL = (64, 36)
LEAST_GAIN = 0.8  # a shift counts if it lowers the error to this share


@dataclass
class Alignment:
    """Mean squared error of small grey pictures at every shift; a frame is looked at once, none is kept long.

    Shift +1: frame t+1 of the second shows what frame t of the first does: the second is late.
    """

    _first: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=LARGEST_SHIFT + 1))
    _second: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=LARGEST_SHIFT + 1))
    _sums: dict[int, float] = field(default_factory=dict)
    frames: int = 0

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """The next frame of each, uint8 RGB (H, W, 3)."""
        self._first.appendleft(thumbnail(first))
        self._second.appendleft(thumbnail(second))
        for shift in range(-LARGEST_SHIFT, LARGEST_SHIFT + 1):
            a, b = (0, -shift) if shift < 0 else (shift, 0)
            if a < len(self._first) and b < len(self._second):
                error = float(np.mean((self._first[a] - self._second[b]) ** 2))
                self._sums[shift] = self._sums.get(shift, 0.0) + error
        self.frames += 1

    def watch(self, pairs: Iterator[Frames]) -> Iterator[Frames]:
        """Pieces of both, looked at on their way."""
        for pair in pairs:
            for first, second in zip(*pair, strict=True):
                self.add(first, second)
            yield pair

    def best_shift(self) -> int:
        """The shift with the least error; 0 unless another is clearly better."""
        means = {shift: total / (self.frames - abs(shift)) for shift, total in self._sums.items()}
        best = min(means, key=lambda shift: (means[shift], abs(shift)))
        return best if means[best] < LEAST_GAIN * means[0] else 0


def thumbnail(rgb: np.ndarray) -> np.ndarray:
    small: np.ndarray = fit(rgb, THUMBNAIL, is_cropped=False).mean(axis=2, dtype=np.float32)
    return small


@dataclass(frozen=True)
class Comparison:
    """What is known of two videos."""

    row: dict[str, Any]
    measurement: Measurement
    shift: int
    pictures: dict[str, bytes]


def compare(first: Path, second: Path, metrics: Sequence[str], options: MetricOptions) -> Comparison:
    """Measure the second against the first. Raises MismatchError, with the numbers, if they do not fit."""
    with open_source(first) as a, open_source(second) as b:
        require_same_size(a.info, b.info)
        size = (a.info.width, a.info.height)
        alignment = Alignment()
        measurement = measure(alignment.watch(in_step(a, b)), metrics, options)
    shift = alignment.best_shift()
    worst = worst_frame(measurement)
    row = {
        "clip": second.name,
        "reference": first.name,
        "frames": measurement.frames,
        "width": size[0],
        "height": size[1],
        **{name: rounded(value) for name, value in measurement.values.items()},
        "shift_frames": shift,
        "worst_frame": worst,
    }
    pictures = {}
    if worst is not None:
        pictures = side_by_side(WORST, frame_of(first, worst), frame_of(second, worst))
    return Comparison(row, measurement, shift, pictures)


def require_same_size(first: Any, second: Any) -> None:
    """Raise MismatchError if sizes differ. How many frames there are is known when all are read, no sooner:
    what a container says of it may be about."""
    if (first.width, first.height) != (second.width, second.height):
        raise MismatchError(
            f"the sizes differ: {first.width}x{first.height} and {second.width}x{second.height} pixels",
            hint="scale one to the other first",
        )


def frame_of(path: Path, number: int) -> np.ndarray:
    """One frame, 8 bit."""
    start = 0
    with open_source(path) as video:
        for batch in video:
            if number < start + len(batch):
                return in_eight_bits(batch.rgb[number - start])
            start += len(batch)
    raise IndexError(number)
