"""What a group of frames shows outside of its reference, from the groups beside it.

A group is described as its reference shows it, so whatever has left the picture by then, or has not entered
it yet, is lost, and the edge of the reference repeated in its place. But the last frame of the group before
shows what left, and the first of the group after what was to enter. The decoder has both, and finds by itself
how content moves between them. What a file says stands in place of what is decoded moves to the next group by
vectors of that file, so where it stays the same it needs not be followed: sight errs among letters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.flow.align import brightness
from cvvae_cli.flow.field import GROUP, at_places, led_to, moved, outside
from cvvae_cli.flow.follow import SCALES, back_from, enlarged, follow

INWARD = 16  # pixels from the edge of the reference to where a motion was seen, not guessed
RAMP = 2  # pixels over which one picture passes into the other
REDUCED = 2  # pixels of a pixel that is followed
FOLLOWED = SCALES[1:]  # of those: as coarse to begin with as whole pictures are
WINDOW = 16  # of those, each way, in which there is something to see
STERNNESS = 6  # of errors, beside how much there is to see: after cuts they are twice of it and more
NOISE = 10.0  # squared levels: errors far below are none
BLOCK = 32  # pixels of a block that moves from group to group by one vector (bitstream/vectors.py)
SAME = 0.5  # of a block: as much shows the very colours of the group before, and it is believed

Size = tuple[int, int]
"""Rows and columns of the true picture: beyond them lies what fills up the last latent positions."""


@dataclass(frozen=True)
class Across:
    """Two frames that follow each other, (1, 3, H, W) in [-1, 1], and how content moves between them."""

    last: Tensor  # of a group
    first: Tensor  # of the next
    back: Tensor  # (1, 2, H, W): where in the last the content of the first lies
    there: Tensor  # and where in the first that of the last
    belief: float  # from 0, if they are nothing alike, to 1


def followed_across(last: Tensor, first: Tensor) -> Across:
    """The last frame of a group and the first of the next, followed."""
    h, w = last.shape[2:]
    padding = (0, -w % REDUCED, 0, -h % REDUCED)
    source, target = (
        functional.avg_pool2d(
            functional.pad(brightness(frame[:, :, None]), padding, mode="replicate"), REDUCED
        )
        for frame in (last, first)
    )
    flow = follow(target, source, FOLLOWED)
    size = REDUCED * flow.shape[2], REDUCED * flow.shape[3]
    back, there = (enlarged(REDUCED * each, size)[:, :, :h, :w] for each in (flow, back_from(flow)))
    return Across(last, first, back, there, belief_in(flow, target, source))


def belief_in(flow: Tensor, target: Tensor, source: Tensor) -> float:
    """How far a flow explains a target, (1, 1, H, W) in [0, 255], by its source: from 0, not at all, to 1."""
    errors = (target - moved(source, flow, "bilinear")).square_().mean()
    windows = [functional.avg_pool2d(each, WINDOW, ceil_mode=True) for each in (target, target.square())]
    contrast = (windows[1] - windows[0].square()).mean()
    return 1 / (1 + float(errors / (contrast + NOISE)) ** STERNNESS)


@dataclass(frozen=True)
class Painted:
    """What stands in place of what is decoded in all frames of a group, before they are moved back."""

    colours: Tensor  # int16 (3, H, W): what a file says
    opaque: Tensor  # bool (H, W): where
    vectors: Tensor  # int64 (2, rows, columns): by how many pixels blocks moved from the group before


@dataclass(frozen=True)
class Kept:
    """How what is painted in a group moved to the next, which still shows it."""

    before: Painted
    after: Painted
    trusted: Tensor  # bool (rows, columns): in which blocks of the group after

    def way(self, rows: Tensor, columns: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """From places (n,) of a group to the one after it (`sign` 1) or before it (-1), in pixels down and
        right, int64 (2, n); and of which places that is known."""
        here = block_of(rows, columns)
        vectors = self.after.vectors[:, here[0], here[1]]
        if sign < 0:
            return -vectors, self.trusted[here]
        height, width = self.after.opaque.shape
        there = rows + vectors[0], columns + vectors[1]
        is_inside = outside(*there, (height, width)) == 0
        at = block_of(there[0].clamp(0, height - 1), there[1].clamp(0, width - 1))
        same = (self.after.vectors[:, at[0], at[1]] == vectors).all(0)
        return vectors, self.trusted[at] & is_inside & same


def block_of(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    return rows // BLOCK, columns // BLOCK


def kept_between(before: Painted, after: Painted) -> Kept:
    """Of groups that follow each other: the blocks of the second that show what the first shows, moved."""
    height, width = after.opaque.shape
    rows = torch.arange(height, device=after.opaque.device)[:, None]
    columns = torch.arange(width, device=after.opaque.device)[None]
    vectors = after.vectors.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, :height, :width]
    from_rows, from_columns = rows - vectors[0], columns - vectors[1]
    is_inside = outside(from_rows, from_columns, (height, width)) == 0
    at = from_rows.clamp_(0, height - 1), from_columns.clamp_(0, width - 1)
    is_same = (before.colours[:, at[0], at[1]] == after.colours).all(0)
    is_kept = is_inside & is_same & after.opaque & before.opaque[at]
    shares = functional.avg_pool2d(is_kept[None].float(), BLOCK, ceil_mode=True)[0]
    return Kept(before, after, shares > SAME)


def joined(one: Tensor, other: Tensor) -> Tensor:
    """The way that goes on by the other (N, 2, H, W) from where the one leads."""
    return one + moved(other, one, "bilinear")


def loses(flow: Tensor, size: Size) -> bool:
    """Whether a frame that follows a flow (1, 2, H, W) from the reference shows anything outside of that."""
    return bool((outside(*led_to(flow), size) > 0).any())


def filled(frame: Tensor, flow: Tensor, size: Size, source: Tensor, way: Tensor, belief: float) -> Tensor:
    """A frame (1, 3, H, W) that followed `flow` from the reference, with what that does not show.

    It comes from the frame `source`, where `way` (1, 2, H, W) leads: such a place moves as one farther
    inside, which both frames show. What the source does not show either stays as it is.
    """
    row, column = (each[0] for each in led_to(flow))
    lost = (outside(row, column, size) > 0).nonzero(as_tuple=True)
    row, column = row[lost], column[lost]
    here = [each.to(flow.dtype) for each in lost]
    inner = [place + inwards(there, n) for place, there, n in zip(here, (row, column), size, strict=True)]
    motion = at_places(way, inner[0][None, None], inner[1][None, None], "bilinear")[0, :, 0]
    found = [place + step for place, step in zip(here, motion, strict=True)]
    share = outside(row, column, size).div_(RAMP).clamp_(max=1).mul_(belief)
    share *= (1 - outside(found[0], found[1], size) / RAMP).clamp_(min=0)
    seen = at_places(source, found[0][None, None], found[1][None, None])[0, :, 0]
    return mixed(frame, lost, seen, share)


def mixed(frame: Tensor, lost: tuple[Tensor, ...], seen: Tensor, share: Tensor) -> Tensor:
    """A frame (1, 3, H, W) with a share (n,) of what was seen (3, n) for places by row and column."""
    frame = frame.clone()
    frame[0][:, lost[0], lost[1]] += share * (seen - frame[0][:, lost[0], lost[1]])
    return frame


def refilled(frame: Tensor, flow: Tensor, size: Size, source: Tensor, kept: Kept, sign: int) -> Tensor:
    """The same of what is painted in the group beside, after (`sign` 1) or before (-1): exactly.

    `source` (1, 3, H, W) is a frame of that as it is before it is moved back.
    """
    row, column = (each[0] for each in led_to(flow))
    far = outside(row, column, size)
    lost = (far > 0).nonzero(as_tuple=True)
    row, column, far = row[lost], column[lost], far[lost]
    # of the group after, what lies near that edge is new; as fast as this place left, it came in
    reach = BLOCK + GROUP * far if sign > 0 else INWARD
    inner = [
        (place + inwards(place, length, reach)).round_().long().clamp_(0, length - 1)
        for place, length in zip((row, column), size, strict=True)
    ]
    motion, is_known = kept.way(inner[0], inner[1], sign)
    found = [place + step for place, step in zip((row, column), motion, strict=True)]
    opaque = (kept.after if sign > 0 else kept.before).opaque
    seen, share = (
        at_places(each, found[0][None, None], found[1][None, None], mode)[0, :, 0]
        for each, mode in ((source, "bicubic"), (opaque[None, None].to(source.dtype), "bilinear"))
    )
    share = share * is_known * far.clamp(max=1) * (1 - outside(found[0], found[1], size)).clamp_(min=0)
    return mixed(frame, lost, seen, share)


def inwards(place: Tensor, length: int, reach: float | Tensor = INWARD) -> Tensor:
    """The step, along one direction, from outside of a picture to `reach` from its edge; inside, 0."""
    back = place.clamp(0, length - 1) - place
    return back + reach * back.sign()
