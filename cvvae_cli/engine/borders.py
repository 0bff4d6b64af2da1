"""Decoded pictures moved back to where they were, with what the reference of their group does not show.

That comes from the groups beside, as the network decodes them; no bits are spent on it
(cvvae_cli/flow/border.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.engine.mirror import in_network_units
from cvvae_cli.flow.border import (
    Across,
    Kept,
    Painted,
    Size,
    filled,
    followed_across,
    joined,
    kept_between,
    loses,
    refilled,
)
from cvvae_cli.flow.field import FIRST, GROUP, LAST, OTHERS, REFERENCE, flow_of, moved, moved_by
from cvvae_cli.types import Detail, LatentChunk


@dataclass(frozen=True)
class Group:
    """Of the frames of a latent frame as the network gives them, those at its ends."""

    fields: np.ndarray  # int16 (3, 2, rows, columns)
    first: Tensor  # (1, 3, H, W)
    last: Tensor
    borrowed: tuple[int, ...]  # parts of the fields whose frames the group beside shows
    evened: int | None = None  # first latent frame of the chunk whose frames alone are as bright; None: any
    painted: Painted | None = None  # the opaque detail that stands where it is to stand


class Borders:
    """Of consecutive chunks. A group has the one before it in sight, and the one after it in its chunk."""

    def __init__(self, size: Size, period: int | None = None) -> None:
        """`size`: rows and columns of the true picture.

        `period`: of the files whose opaque detail is kept as it is (`prior-15`); in its first latent frame
        nothing moves from the one before.
        """
        self.size = size
        self.period = period
        self._groups: dict[int, Group] = {}  # by the number of the latent frame
        self._across: dict[int, Across] = {}  # to a group, from the one before it
        self._kept: dict[int, Kept] = {}  # likewise

    def copy(self) -> Borders:
        twin = Borders(self.size, self.period)
        twin._groups, twin._across, twin._kept = dict(self._groups), self._across, self._kept
        return twin

    def noticing(
        self, chunk: LatentChunk, first: int, decoded: Iterator[tuple[int, Tensor]]
    ) -> Iterator[tuple[int, Tensor]]:
        """What comes in: pieces of a chunk, (1, 3, 4n, H, W), and where in it each begins.

        `first` is the number of the first latent frame of the chunk. One can be restored when those beside it
        have passed.
        """
        for at, piece in decoded:
            if chunk.fields is not None:
                for number, video in enumerate(torch.split(piece, GROUP, 2), at):
                    # not to hold what lies between
                    before, after = (video[:, :, end].clone() for end in (0, -1))
                    borrowed = tuple(part for latent, part in chunk.borrowed if latent == number)
                    evened = None if chunk.light is None else first
                    self._groups[first + number] = Group(
                        chunk.fields[number], before, after, borrowed, evened
                    )
            yield at, piece

    def paint(self, chunk: LatentChunk, first: int) -> None:
        """Once its detail is known: the groups of a chunk that have passed show what is opaque of it."""
        if chunk.detail is None or not chunk.detail.opaque.any():
            return
        for number in range(first, first + chunk.latents.shape[1]):
            group = self._groups.get(number)
            if group is not None and group.painted is None:
                self._groups[number] = painted(group, chunk.detail, number - first)

    def restored(self, number: int, video: Tensor) -> Tensor:
        """The frames (1, 3, 4, H, W) that a latent frame stands for, as they were; in order of numbers."""
        self._groups = {n: group for n, group in self._groups.items() if n >= number - 1}
        group = self._groups.get(number)
        if group is None or not group.fields.any():
            return video
        frames = list(video.unbind(2))
        flows = [flow_of(group.fields[part], video) for part in range(len(OTHERS))]
        for part, (other, flow) in enumerate(zip(OTHERS, flows, strict=True)):
            if group.fields[part].any():
                frames[other] = moved(frames[other], flow)
            source = self._beside(number, part, flows) if loses(flow, self.size) else None
            if source is not None:
                frames[other] = filled(frames[other], flow, self.size, *source)
                frames[other] = self._refilled(number, part, frames[other], flow)
        return torch.stack(frames, 2)

    def opaque(self, number: int, like: Tensor) -> Tensor | None:
        """How far each of the frames of a latent frame, once restored, is as the file says: (1, 1, 4, H, W)
        from 0 to 1; None if none is, or files are not of that kind."""
        group = self._groups.get(number)
        if self.period is None or group is None or group.painted is None:
            return None
        mask = group.painted.opaque[None, None].to(like.dtype)
        frames = [mask] * GROUP
        for part, other in enumerate(OTHERS):
            if group.fields[part].any():
                frames[other] = moved(mask, flow_of(group.fields[part], like), "bilinear")
        return torch.stack(frames, 2)

    def _refilled(self, number: int, part: int, frame: Tensor, flow: Tensor) -> Tensor:
        """A frame with what it has lost of what is painted in the group beside."""
        is_after = OTHERS[part] > REFERENCE
        kept = self._kept_to(number + is_after)
        if kept is None:
            return frame
        source = as_shown(self._groups[number + 1].first if is_after else self._groups[number - 1].last)
        return refilled(frame, flow, self.size, source, kept, 1 if is_after else -1)

    def _kept_to(self, number: int) -> Kept | None:
        """Likewise, if opaque detail of the one before moved to it."""
        if self.period is None or number % self.period == 0:
            return None
        before, after = self._groups[number - 1].painted, self._groups[number].painted
        if before is None or after is None:
            return None
        if number not in self._kept:
            self._kept = {number: kept_between(before, after)}
        return self._kept[number]

    def _beside(self, number: int, part: int, flows: list[Tensor]) -> tuple[Tensor, Tensor, float] | None:
        """The frame beside a group that shows what one of its frames has lost, and the way there, and how
        far it is to be trusted."""
        is_after = OTHERS[part] > REFERENCE
        across = self._across_to(number + is_after)
        if across is None:
            return None
        if is_after:
            return across.first, across.there, across.belief
        to_first = flows[part] - flows[0]  # about: both lead to the reference
        way = joined(to_first, across.back) if part else across.back
        return across.last, way, across.belief

    def _across_to(self, number: int) -> Across | None:
        """To a group from the one before it, if both are at hand, as bright, and no cut is between."""
        before, after = self._groups.get(number - 1), self._groups.get(number)
        if before is None or after is None or LAST in before.borrowed or FIRST in after.borrowed:
            return None
        if before.evened != after.evened:
            return None
        if number not in self._across:
            last = moved_by(as_shown(before.last), before.fields[LAST])
            first = moved_by(as_shown(after.first), after.fields[FIRST])
            self._across = {number: followed_across(last, first)}
        return self._across[number]


def painted(group: Group, detail: Detail, number: int) -> Group:
    """A group with the opaque detail of a latent frame of its chunk."""
    device = group.first.device
    where, planes = (torch.from_numpy(each[number]).to(device) for each in (detail.opaque, detail.colours))
    vectors = torch.from_numpy(detail.vectors[number]).to(device, torch.int64)
    colours = in_network_units(detail.colours[number], device)
    first, last = (torch.where(where, colours, frame.float()) for frame in (group.first, group.last))
    return replace(group, first=first, last=last, painted=Painted(planes, where, vectors))


def as_shown(frame: Tensor) -> Tensor:
    return frame.float().clamp(-1, 1)
