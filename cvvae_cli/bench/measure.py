"""Compare two streams of frames, metric by metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cvvae_cli.errors import MismatchError
from cvvae_cli.metrics import METRICS, MetricOptions, Pair
from cvvae_cli.types import FrameBatch
from cvvae_cli.video.color import in_eight_bits


@dataclass(frozen=True)
class Measurement:
    """Values of a clip and of each of its frames; None and NaN where there is none."""

    values: dict[str, float | None]
    per_frame: dict[str, np.ndarray]
    frames: int


def measure(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], metrics: Sequence[str], options: MetricOptions
) -> Measurement:
    """All metrics in one pass over pieces of source and decoded, uint8 RGB (T, H, W, 3) each."""
    running = {name: METRICS[name](options) for name in metrics}
    frames = 0
    for first, second in pairs:
        pair = Pair(first, second, options.device)
        for metric in running.values():
            metric.add(pair)
        frames += len(pair)
    values = {name: metric.value() for name, metric in running.items()}
    return Measurement(values, {name: metric.per_frame() for name, metric in running.items()}, frames)


def in_step(
    reference: Iterable[FrameBatch], decoded: Iterable[FrameBatch]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of equal length of two streams, 8 bit.

    Raises MismatchError if sizes or counts of frames differ, and says by how much.
    """
    left, right = eight_bit(reference), eight_bit(decoded)
    a, b = next(left, None), next(right, None)
    frames = 0
    while a is not None and b is not None:
        if a.shape[1:] != b.shape[1:]:
            sizes = [f"{x.shape[2]}x{x.shape[1]}" for x in (a, b)]
            raise MismatchError(
                f"the sizes differ: {sizes[0]} and {sizes[1]} pixels", hint="scale one to the other first"
            )
        count = min(len(a), len(b))
        yield a[:count], b[:count]
        frames += count
        a = a[count:] if len(a) > count else next(left, None)
        b = b[count:] if len(b) > count else next(right, None)
    for rest, stream, which in ((a, left, "first"), (b, right, "second")):
        if rest is not None:
            more = len(rest) + sum(len(x) for x in stream)
            raise MismatchError(
                f"the {which} video has {frames + more} frames, the other {frames}: {more} fewer",
                hint="cut the longer one, or find where frames were lost",
            )


def eight_bit(batches: Iterable[FrameBatch]) -> Iterator[np.ndarray]:
    for batch in batches:
        yield in_eight_bits(batch.rgb)
