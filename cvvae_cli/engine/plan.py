"""Geometry of running a model: chunks in time, tiles in space. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cvvae_cli.types import FrameBatch, LatentGeometry, WindowGeometry

EVERYTHING = range(2**62)  # frames, or latent frames


@dataclass(frozen=True)
class Tile:
    """A part of the latent picture: `core` is kept, `window` (core and halo) is computed. Rows, columns."""

    core: tuple[range, range]
    window: tuple[range, range]

    def core_in_window(self, scale: int) -> tuple[slice, slice]:
        """Where the core lies in the window, at `scale` values per latent position."""
        rows, columns = (
            slice((c.start - w.start) * scale, (c.stop - w.start) * scale)
            for c, w in zip(self.core, self.window, strict=True)
        )
        return rows, columns


def scaled(part: tuple[range, range], scale: int) -> tuple[slice, slice]:
    """Rows and columns of a part at `scale` values per latent position."""
    rows, columns = (slice(r.start * scale, r.stop * scale) for r in part)
    return rows, columns


def split_evenly(length: int, largest: int) -> list[range]:
    """The fewest parts no longer than `largest`, as equal as can be.

    >>> split_evenly(10, 4)
    [range(0, 4), range(4, 7), range(7, 10)]
    """
    count = -(-length // largest)
    edges = [-(-length * i // count) for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def plan_tiles(height: int, width: int, tile: int | None, halo: int) -> list[Tile]:
    """Tiles of a latent picture; cores of at most `tile` positions each way, None for one tile."""
    if tile is None:
        whole = (range(height), range(width))
        return [Tile(whole, whole)]

    def widen(core: range, length: int) -> range:
        return range(max(0, core.start - halo), min(length, core.stop + halo))

    return [
        Tile((rows, columns), (widen(rows, height), widen(columns, width)))
        for rows in split_evenly(height, tile)
        for columns in split_evenly(width, tile)
    ]


def tile_starts(length: int, tile: int, stride: int) -> list[int]:
    """Where overlapping tiles begin: at multiples of the stride, until one reaches the edge.

    >>> tile_starts(160, 72, 56), tile_starts(72, 72, 56)
    ([0, 56, 112], [0])
    """
    starts = [0]
    while starts[-1] + tile < length:
        starts.append(starts[-1] + stride)
    return starts


def plan_windows(num_latents: int, windows: WindowGeometry) -> list[range]:
    """The latent frames of each window; the first of all but the first window is the one before's too.

    >>> plan_windows(10, WindowGeometry(frames=4))
    [range(0, 5), range(4, 9), range(8, 10)]
    >>> plan_windows(10, WindowGeometry(frames=4, overlap=1))
    [range(0, 5), range(3, 8), range(6, 10)]
    """
    count = max(0, -(-(num_latents - 1 - windows.frames) // windows.step)) + 1
    starts = (number * windows.step for number in range(count))
    return [range(start, min(start + windows.frames + 1, num_latents)) for start in starts]


def group_latents(positions: int, chunk: int, fewest: int) -> int:
    """Latent frames computed at a time: the least divisor of `chunk` that makes `fewest` positions.

    Few keep memory and the cost of a seek small; too few leave the machine idle.

    >>> [group_latents(positions, 4, 4096) for positions in (6360, 3000, 1000)]
    [1, 2, 4]
    """
    return next(n for n in range(1, chunk + 1) if chunk % n == 0 and (n * positions >= fewest or n == chunk))


def regroup(
    batches: Iterable[FrameBatch], geometry: LatentGeometry, chunk: int, first_latent: int
) -> Iterator[FrameBatch]:
    """Cut a stream of frames into the frames of each chunk of latents; the last may be shorter."""
    waiting: list[FrameBatch] = []
    count, latent = 0, first_latent
    wanted = len(geometry.frames_of(range(latent, latent + chunk)))
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= wanted:
            whole = concatenate(waiting)
            yield FrameBatch(whole.rgb[:wanted], whole.pts[:wanted])
            waiting = [FrameBatch(whole.rgb[wanted:], whole.pts[wanted:])]
            count, latent = count - wanted, latent + chunk
            wanted = len(geometry.frames_of(range(latent, latent + chunk)))
    if count:
        yield concatenate(waiting)


def concatenate(batches: list[FrameBatch]) -> FrameBatch:
    if len(batches) == 1:
        return batches[0]
    return FrameBatch(np.concatenate([b.rgb for b in batches]), np.concatenate([b.pts for b in batches]))


def pad_frames(rgb: np.ndarray, before: int, length: int, pixels: int) -> np.ndarray:
    """Repeat the first frame `before` times, the last up to `length`, and edges to multiples of `pixels`.

    (T, H, W, 3) → (length, H', W', 3)
    """
    t, h, w, _ = rgb.shape
    if (t, h % pixels, w % pixels) == (length, 0, 0):
        return rgb
    widths = [(before, length - before - t), (0, -h % pixels), (0, -w % pixels), (0, 0)]
    return np.pad(rgb, widths, mode="edge")
