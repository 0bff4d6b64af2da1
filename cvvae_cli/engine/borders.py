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
from cvvae_cli.flow.border import Across, Size, filled, followed_across, joined, loses
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
    is_painted: bool = False  # whether opaque detail stands where it is to stand


class Borders:
    """Of consecutive chunks. A group has the one before it in sight, and the one after it in its chunk."""

    def __init__(self, size: Size) -> None:
        """`size`: rows and columns of the true picture."""
        self.size = size
        self._groups: dict[int, Group] = {}  # by the number of the latent frame
        self._across: dict[int, Across] = {}  # to a group, from the one before it

    def copy(self) -> Borders:
        twin = Borders(self.size)
        twin._groups, twin._across = dict(self._groups), self._across
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
            if group is not None and not group.is_painted:
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
        return torch.stack(frames, 2)

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
    where = torch.from_numpy(detail.opaque[number]).to(group.first.device)
    colours = in_network_units(detail.colours[number], group.first.device)
    first, last = (torch.where(where, colours, frame.float()) for frame in (group.first, group.last))
    return replace(group, first=first, last=last, is_painted=True)


def as_shown(frame: Tensor) -> Tensor:
    return frame.float().clamp(-1, 1)
