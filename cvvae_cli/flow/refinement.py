"""Fields of vectors from coarse to fine: the order in which they are known, and what is expected of each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from cvvae_cli.flow.field import LARGEST, UNIT

COARSEST = 16  # places between those vectors that nothing is known of
UNSTEADY = 0.5  # how much errors of the parts that are no steady motion count
WORTHLESS = 120.0  # mean squared error in levels of 255 around a vector, up to which it is left as expected
SURPRISE_BITS, NO_BITS = 4.0, 0.03  # of a number that is not as expected, or is: about
Where = tuple[slice, slice, slice]
Neighbours = tuple[tuple[int, int], ...]


def field_passes(rows: int, columns: int) -> Iterator[tuple[Where, Neighbours]]:
    """Where the vectors of each step are, and which neighbours of theirs are known: coarse to fine."""
    yield (slice(None), slice(0, None, COARSEST), slice(0, None, COARSEST)), ()
    stride = COARSEST
    while stride > 1:
        stride //= 2
        s, whole, odd = stride, slice(0, None, 2 * stride), slice(stride, None, 2 * stride)
        if rows > s and columns > s:
            yield (slice(None), odd, odd), ((-s, -s), (-s, s), (s, -s), (s, s))
        if rows > s:
            yield (slice(None), odd, whole), ((-s, 0), (s, 0), (0, -s), (0, s))
        if columns > s:
            yield (slice(None), whole, odd), ((0, -s), (0, s), (-s, 0), (s, 0))


def between(known: np.ndarray, where: Where, neighbours: Neighbours) -> tuple[np.ndarray, np.ndarray]:
    """Of a step in a field (2, rows, columns): the middle of four neighbours, and how far they spread.

    For a neighbour outside the field, the first of the four stands in.
    """
    if not neighbours:
        own = known[where]
        return np.zeros_like(own), np.zeros_like(own)
    rows, columns = where[1:]
    places = places_of(known.shape[1:], (rows.start, columns.start), (rows.step, columns.step), neighbours)
    values = known.reshape(2, -1).take(places, 1)
    low, high = values.min(1), values.max(1)
    return (values.sum(1, dtype=np.int32) - low - high) >> 1, high - low


@lru_cache(maxsize=64)
def places_of(
    size: tuple[int, int], start: tuple[int, int], step: tuple[int, int], neighbours: Neighbours
) -> np.ndarray:
    """Where the neighbours (4, rows, columns) of a step lie in a field of that size that is laid flat."""
    (height, width), (top, left), (down, right) = size, start, step
    offsets = np.array(neighbours)[:, :, None, None]
    y = np.arange(top, height, down)[:, None] + offsets[:, 0]
    x = np.arange(left, width, right) + offsets[:, 1]
    places = y * width + x
    is_known = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(is_known, places, places[:1])


def to_parts(fields: np.ndarray) -> np.ndarray:
    """Fields (..., 3, 2, rows, columns) → what is coded, of the same shape.

    Where the frame before the reference moves, and by how much those after it and two before it differ from a
    steady motion.
    """
    first, before, after = np.moveaxis(fields, -4, 0)
    return np.stack([before, after + before, first - 2 * before], -4)


def from_parts(parts: np.ndarray) -> np.ndarray:
    """What `to_parts` undoes."""
    before, after, first = np.moveaxis(parts, -4, 0)
    return np.stack([first + 2 * before, before, after - before], -4)


def estimated_bits(fields: np.ndarray) -> float:
    """About what fields (3, 2, rows, columns) of one group take in a file."""
    parts = to_parts(fields.astype(np.int32))
    bits = 0.0
    for part in parts:
        for where, around in field_passes(*part.shape[1:]):
            sizes = np.abs(part[where] - between(part, where, around)[0])
            bits += np.where(sizes > 0, SURPRISE_BITS + 1.5 * np.log2(np.maximum(sizes, 1)), NO_BITS).sum()
    return float(bits)


def thinned(fields: np.ndarray, worth: np.ndarray, worthless: float = WORTHLESS) -> np.ndarray:
    """Fields int (3, 2, rows, columns) that differ from what is expected only where it pays, int16.

    `worth` (3, 3, rows, columns) is what `estimate` says of an error of theirs; `worthless` is what an error
    around a vector may be, and a share of it that of one from which others are expected, places away.
    """
    first, before, after = fields
    chosen = np.zeros_like(fields)
    for part, costs in enumerate((worth.sum(0), UNSTEADY * worth[2], UNSTEADY * worth[0])):
        steady = chosen[0]  # beside which the other parts are counted, as it has become
        wanted = (before, after + steady, first - 2 * steady)[part]
        for where, around in field_passes(*fields.shape[2:]):
            middle, _ = between(chosen[part], where, around)
            left = wanted[where] - middle
            yy, xx, yx = costs[:, where[1], where[2]]
            error = (yy * left[0] ** 2 + xx * left[1] ** 2 + 2 * yx * left[0] * left[1]) / UNIT**2
            stride = max(map(abs, around[0])) if around else COARSEST
            chosen[part][where] = middle + np.where(error > worthless / stride, left, 0)
    return from_parts(chosen).clip(-LARGEST, LARGEST).astype(np.int16)  # a steady motion may go farther
