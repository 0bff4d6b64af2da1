"""What an eye sees in motion and no metric of single frames does: flicker, and seams where pieces meet.

Throughout, e_t is the BT.709 luma of decoded minus source frame t, in 8-bit levels, and
d_t = e_t - e_(t-1) = (decoded_t - decoded_(t-1)) - (source_t - source_(t-1)): how far the change from frame
to frame departs from that of the source. A constant error gives 0, whatever its size.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.metrics.metric import Metric, MetricOptions, Pair
from cvvae_cli.metrics.psnr import decibel, psnr_of

BLOCK = 8  # pixels: fine noise, which averages out, is not flicker
MIN_BORDERS = 2  # a seam of fewer says nothing


class ChangeMetric(Metric):
    """A metric of d_t; the first frame has none."""

    def __init__(self, options: MetricOptions) -> None:
        super().__init__(options)
        self._last: Tensor | None = None

    def of_changes(self, change: Tensor) -> Tensor:
        """d_t, reduced as `of_errors` does, (T, ...) → (T,)."""
        raise NotImplementedError

    def of_errors(self, pair: Pair) -> Tensor:
        """What of e_t is followed from frame to frame."""
        return pair.luma_error

    def of_frames(self, pair: Pair) -> Tensor:
        errors = self.of_errors(pair)
        has_last = self._last is not None
        before = torch.cat([self._last if has_last else errors[:1], errors[:-1]])  # type: ignore[list-item]
        self._last = errors[-1:].clone()
        values = self.of_changes(errors - before)
        if not has_last:
            values[0] = torch.nan
        return values


class Flicker(ChangeMetric):
    """Flicker in 8-bit levels: sqrt(mean over t and blocks b of B_b(d_t)^2), B the mean of an 8x8 block.

    0 is best. The value of a frame is sqrt(mean over b of B_b(d_t)^2). Squares weigh one jump more than the
    same change spread over many frames, as an eye does. Rows and columns beyond the last whole block are
    left out.
    """

    higher_is_better: ClassVar[bool | None] = False

    def of_errors(self, pair: Pair) -> Tensor:
        return functional.avg_pool2d(pair.luma_error[:, None], BLOCK)[:, 0]

    def of_changes(self, change: Tensor) -> Tensor:
        return change.square().mean(dim=(1, 2), dtype=torch.float64).sqrt()

    def value(self) -> float | None:
        changes = self.per_frame()[1:]
        return math.sqrt(float(np.mean(changes**2))) if len(changes) else None


class DifferencePsnr(ChangeMetric):
    """PSNR of frame differences in dB: 10 log10(255^2 / mean over t and pixels of d_t^2)."""

    def of_changes(self, change: Tensor) -> Tensor:
        return decibel(change.square().mean(dim=(1, 2)))

    def value(self) -> float | None:
        changes = self.per_frame()[1:]
        return float(psnr_of(np.asarray(np.mean(255.0**2 / 10 ** (changes / 10))))) if len(changes) else None


class Seam(Flicker):
    """How much more flicker there is where pieces meet: 1 is none.

    With f_t the flicker of frame t and S the frames that begin a piece (every `period`-th from `first`),
    seam = sqrt(mean of f_t^2 over S / mean of f_t^2 elsewhere). Where `first` is not known, it is the
    phase with the largest ratio, so that even pieces without a seam come out a little above 1. None for
    clips with fewer than two borders.
    """

    higher_is_better = None

    def value(self) -> float | None:
        squares = self.per_frame()[1:] ** 2  # of frames 1, 2, ...
        borders = self.options.borders
        if borders.first is not None:
            return seam_ratio(squares, borders.period, borders.first - 1)
        ratios = [seam_ratio(squares, borders.period, phase) for phase in range(borders.period)]
        known = [ratio for ratio in ratios if ratio is not None]
        return max(known) if len(known) == borders.period else None


def seam_ratio(squares: np.ndarray, period: int, first: int) -> float | None:
    """The seam of borders at `first`, `first + period`, ... of squares; None if they are too few."""
    is_border = np.zeros(len(squares), bool)
    is_border[first % period :: period] = True
    if is_border.sum() < MIN_BORDERS or is_border.all():
        return None
    return ratio(float(squares[is_border].mean()), float(squares[~is_border].mean()))


def ratio(at_borders: float, elsewhere: float) -> float:
    """Of two mean squares, as a root; 1 if there is no error at all."""
    if elsewhere == 0:
        return 1.0 if at_borders == 0 else math.inf
    return math.sqrt(at_borders / elsewhere)


class TileSeam(Metric):
    """Jumps of the error across tile borders over those across other block borders: 1 is none.

    sqrt(mean of g^2 at the given rows and columns / mean of g^2 at all other multiples of 8), g the
    difference of e between the two pixels on either side. None without tiles.
    """

    higher_is_better = None

    def of_frames(self, pair: Pair) -> Tensor:
        borders = self.options.borders
        at: list[Tensor] = []
        elsewhere: list[Tensor] = []
        for axis, tiles in ((1, borders.rows), (2, borders.columns)):
            places = range(BLOCK, pair.luma_error.shape[axis], BLOCK)
            for wanted, found in ((True, at), (False, elsewhere)):
                index = torch.tensor([n for n in places if (n in tiles) == wanted], dtype=torch.long)
                index = index.to(pair.luma_error.device)
                jump = pair.luma_error.index_select(axis, index)
                found.append((jump - pair.luma_error.index_select(axis, index - 1)).square().flatten(1))
        if not sum(part.shape[1] for part in at):
            return torch.full((len(pair),), torch.nan)
        means = [torch.cat(parts, dim=1).mean(dim=1, dtype=torch.float64) for parts in (at, elsewhere)]
        values = [ratio(float(a), float(b)) for a, b in zip(*means, strict=True)]
        return torch.tensor(values, dtype=torch.float64)
