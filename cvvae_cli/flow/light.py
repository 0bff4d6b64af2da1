"""Frames whose light changes: of each a share of the brightness of another, and an offset.

A lamp flickers, a scene fades: what is to be seen stays, and yet no frame is like the one before. So the
encoder sees frames *evened*, as bright as the one that shows most among those of their scene in a chunk, and
the decoder dims them again. Light is int16 (T, 2): of each frame the share, in 2^-12, and the offset, in 2^-5
levels of 255.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.flow.align import AREA, LUMA_WEIGHTS
from cvvae_cli.flow.estimate import VISIBLE

SHARE_BITS, OFFSET_BITS = 12, 5  # after the point
ONE = 1 << SHARE_BITS, 1 << OFFSET_BITS
WHOLE = np.array([ONE[0], 0], np.int16)  # of a frame that stays as it is
MOST = np.array([ONE[0], 255 * ONE[1]], np.int16)
LEAST = np.array([0, -MOST[1]], np.int16)
LEAST_SHARE = 1 / 16  # of a frame that can be evened: of a darker one little is seen, and another stands in
STRIDE = 2  # of the pixels that are looked at
FLAT = 3.0  # levels: a frame that spreads less belongs to any scene
ALIKE = 0.5  # correlation, at least, of frames that follow each other in a scene
DISTANCES = (1, 2, 4)  # in frames, over which they had better be alike
LEAST_GAIN = 0.2  # doublings by which they are more alike: less is not worth it
LOST = 4.0  # squared levels that may be lost where what is evened would be brighter than white
OUTLIERS = 2.0  # times the median of squared errors: beyond that an area moves, or shows another thing
ROUNDS = 3


def find_light(rgb: np.ndarray) -> np.ndarray | None:
    """Of the frames (T, H, W, 3) of a chunk, uint8 or uint16: their light, or None if it is not worth it."""
    areas = np.stack([areas_of(frame) for frame in rgb])
    light = np.tile(WHOLE, (len(rgb), 1))
    for scene in scenes(areas):
        light[scene] = light_of(areas[scene])
    return light if (light != WHOLE).any() else None


def stand_ins(light: np.ndarray) -> np.ndarray:
    """Of every frame the number of the one that is evened in its place, (T,): its own, if it is bright
    enough, or the last such before it, or the first after it."""
    bright = np.flatnonzero(light[:, 0] >= LEAST_SHARE * WHOLE[0])
    before = np.searchsorted(bright, np.arange(len(light)), side="right") - 1
    found: np.ndarray = bright[np.maximum(before, 0)]
    return found


def evened(video: Tensor, light: np.ndarray) -> Tensor:
    """Frames (1, 3, T, H, W) in [-1, 1] as bright as the one that their light (T, 2) is counted from."""
    share, offset = in_network_units(light, video)
    return ((video + 1 - offset) / share - 1).clamp_(-1, 1)


def dimmed(video: Tensor, light: np.ndarray) -> Tensor:
    """Frames (1, 3, T, H, W) that were evened as they were."""
    if (light == WHOLE).all():
        return video
    share, offset = in_network_units(light, video)
    return (video.float().clamp(-1, 1) + 1) * share + (offset - 1)


def shares(light: np.ndarray) -> np.ndarray:
    """Of light (T, 2), the shares in [0, 1]: (T,)."""
    found: np.ndarray = light[:, 0] / ONE[0]
    return found


def in_network_units(light: np.ndarray, like: Tensor) -> tuple[Tensor, Tensor]:
    """Shares and offsets, (T, 1, 1) each."""
    values = torch.from_numpy(light).to(like.device, torch.float32)
    share, offset = values[:, :, None, None].unbind(1)
    return share / ONE[0], offset / (127.5 * ONE[1])


def areas_of(frame: np.ndarray) -> np.ndarray:
    """How bright areas of a frame (H, W, 3) are, float32 in levels of 255."""
    pixels = frame[::STRIDE, ::STRIDE].astype(np.float32) * np.float32(255 / np.iinfo(frame.dtype).max)
    luma = torch.from_numpy(pixels @ np.array(LUMA_WEIGHTS, np.float32))
    means: np.ndarray = functional.avg_pool2d(luma[None], AREA // STRIDE, ceil_mode=True)[0].numpy()
    return means


def scenes(areas: np.ndarray) -> Iterator[slice]:
    """Frames, of areas (T, rows, columns), with no cut between them."""
    starts, shown = [0], areas[0]
    for number, frame in enumerate(areas):
        if frame.std() >= FLAT:
            if shown.std() >= FLAT and np.corrcoef(shown.ravel(), frame.ravel())[0, 1] < ALIKE:
                starts.append(number)
            shown = frame
    yield from (slice(*each) for each in pairwise([*starts, len(areas)]))


def light_of(areas: np.ndarray) -> np.ndarray:
    """The light of the frames of a scene, of areas (T, rows, columns): int16 (T, 2)."""
    spreads = areas.std((1, 2))
    if spreads.max() < FLAT:
        return np.tile(WHOLE, (len(areas), 1))
    whole = areas[spreads.argmax()]
    light = np.stack([light_between(whole, frame) for frame in areas])
    share, offset = light.T[:, :, None, None] / np.array(ONE)[:, None, None, None]
    standing = stand_ins(light)
    seen = ((areas - offset)[standing] / share[standing]).clip(0, 255)
    lost = np.square((seen * share + offset).clip(0, 255) - areas).mean((1, 2))
    before, after = (np.mean([doublings(each[n:] - each[:-n]) for n in DISTANCES]) for each in (areas, seen))
    is_worth_it = before - after > LEAST_GAIN and lost.max() < LOST
    return light if is_worth_it else np.tile(WHOLE, (len(areas), 1))


def light_between(whole: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The light of a frame, counted from another, both in areas (rows, columns): int16 (2,).

    By how they spread, for regression finds the less the more moves: all areas, then those that stay.
    """
    x, y = (areas.ravel().astype(np.float64) for areas in (whole, frame))
    found: list[tuple[float, float]] = []
    stays = np.ones(x.shape, bool)
    while len(found) <= ROUNDS and x[stays].std() >= FLAT:
        share = min(1.0, y[stays].std() / x[stays].std())
        found.append((share, y[stays].mean() - share * x[stays].mean()))
        errors = np.square(y - share * x - found[-1][1])
        stays = errors <= OUTLIERS * np.median(errors)
    share, offset = min((found[0], found[-1]), key=lambda each: doublings(y - each[0] * x - each[1]))
    numbers = np.rint([share * ONE[0], offset * ONE[1]])
    light: np.ndarray = numbers.clip(LEAST, MOST).astype(np.int16)
    return light


def doublings(differences: np.ndarray) -> float:
    """How far areas are from others, in doublings of an error that is seen; the mean."""
    return float(np.log2(1 + np.square(differences) / VISIBLE).mean()) if len(differences) else 0.0
