"""Where groups of frames meet: the last frame of one and the first of the next learn from each other.

A group is decoded as one picture, which is moved to where each of its frames shows it, so those at its ends
are the worst of it. But where two groups meet they show nearly the same, and err each in its own way. No bits
are spent on it. Where a file says that a frame is borrowed of the group beside, it is that one, moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.engine.plan import Tile
from cvvae_cli.engine.refining import TiledRefiner, ways_between
from cvvae_cli.flow.field import GROUP, moved, moved_by
from cvvae_cli.models.refiner import Refiner


@dataclass(frozen=True)
class Shown:
    """Consecutive decoded frames of a video."""

    frames: range
    video: Tensor  # (1, 3, T, H, W)
    pts: np.ndarray  # int64 (T,)
    level: int | None = None  # of quality, in tenths
    borrowed: Mapping[int, np.ndarray] = field(default_factory=dict)  # vectors, of frames that are
    opaque: Tensor | None = None  # (1, 1, T, H, W), 0 to 1: how far what a file says stands there as it is

    def part(self, frames: range) -> Shown:
        """Of these frames those that lie in a range, none or more."""
        start = max(self.frames.start, frames.start)
        kept = range(start, max(start, min(self.frames.stop, frames.stop)))
        at = slice(kept.start - self.frames.start, kept.stop - self.frames.start)
        opaque = None if self.opaque is None else self.opaque[:, :, at]
        return replace(self, frames=kept, video=self.video[:, :, at], pts=self.pts[at], opaque=opaque)


class Joints:
    """Of consecutive groups of frames."""

    def __init__(self, tiles: list[Tile]) -> None:
        self.tiles = tiles
        self._last: Shown | None = None  # frame of the group before, which waits for this one

    def __call__(self, joiner: Refiner, group: Shown, wanted: range) -> Iterator[Shown]:
        """The frames of a group but for its last one, before them that of the group before; what is not
        wanted is not joined."""
        frames = group.frames
        if self._last is not None:
            last, group = lent(self._last, group)
            first = group.part(frames[:1])
            ends = {last.frames.start, first.frames.start}
            is_joined = not ends.isdisjoint(wanted) and ends.isdisjoint([*last.borrowed, *group.borrowed])
            yield from [self._joined(joiner, last, first)] if is_joined else [last, first]
            frames = frames[1:]
        yield group.part(frames[:-1])
        last = group.part(frames[-1:])
        opaque = None if last.opaque is None else last.opaque.clone()
        self._last = replace(last, video=last.video.clone(), opaque=opaque)  # not to hold the others

    def end(self) -> Iterator[Shown]:
        """The last frame of all."""
        if self._last is not None:
            yield self._last

    def _joined(self, joiner: Refiner, last: Shown, first: Shown) -> Shown:
        """Both frames, as they are shown."""
        frames, pts = range(last.frames.start, first.frames.stop), np.concatenate([last.pts, first.pts])
        pictures, differences = seen_together(last.video, first.video)
        run = TiledRefiner(joiner, self.tiles, last.level, frames)
        learnt = run(pictures, differences[:, None], pictures.new_ones(2, 1))
        for number, shown in enumerate((last, first)):
            if shown.opaque is not None:
                learnt[number] *= 1 - shown.opaque[0, :, 0]
        joined = pictures + learnt
        return Shown(frames, joined.transpose(0, 1)[None], pts, last.level)


def lent(last: Shown, group: Shown) -> tuple[Shown, Shown]:
    """The last frame of a group and the group after it, with what they borrow of each other (flow/borrow.py):
    the last frame the first of the group, its frames but the last one that last frame."""
    before, after = (shown.video[:, :, 0].float().clamp(-1, 1) for shown in (last, group))
    if last.frames.start in last.borrowed:
        taken = moved_by(after, last.borrowed[last.frames.start])
        last = replace(last, video=taken[:, :, None])
    of_before = [frame for frame in group.frames if frame in group.borrowed and frame % GROUP]
    if of_before:
        video = group.video.float().clamp(-1, 1)  # a copy
        for frame in of_before:
            video[:, :, frame - group.frames.start] = moved_by(before, group.borrowed[frame])
        group = replace(group, video=video)
    return last, group


def seen_together(last: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Two frames that follow each other, (1, 3, 1, H, W) → both as they are shown, and by what the other,
    moved onto it, differs from each: (2, 3, H, W)."""
    pictures = torch.cat([frame[:, :, 0].float().clamp(-1, 1) for frame in (last, first)])
    ways = torch.cat(ways_between(*torch.split(pictures, 1)))
    return pictures, moved(pictures.flip(0), ways) - pictures
