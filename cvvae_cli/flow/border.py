"""What a group of frames shows outside of its reference, from the groups beside it.

A group is described as its reference shows it, so whatever has left the picture by then, or has not entered
it yet, is lost, and the edge of the reference repeated in its place. But the last frame of the group before
shows what left, and the first of the group after what was to enter. The decoder has both, and finds by itself
how content moves between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from cvvae_cli.flow.align import brightness
from cvvae_cli.flow.field import at_places, led_to, moved, outside
from cvvae_cli.flow.follow import SCALES, back_from, enlarged, follow

INWARD = 16  # pixels from the edge of the reference to where a motion was seen, not guessed
RAMP = 2  # pixels over which one picture passes into the other
REDUCED = 2  # pixels of a pixel that is followed
FOLLOWED = SCALES[1:]  # of those: as coarse to begin with as whole pictures are
WINDOW = 16  # of those, each way, in which there is something to see
STERNNESS = 6  # of errors, beside how much there is to see: after cuts they are twice of it and more
NOISE = 10.0  # squared levels: errors far below are none

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
    frame = frame.clone()
    frame[0][:, lost[0], lost[1]] += share * (seen - frame[0][:, lost[0], lost[1]])
    return frame


def inwards(place: Tensor, length: int) -> Tensor:
    """The step, along one direction, from outside of a picture to INWARD from its edge; inside, 0."""
    back = place.clamp(0, length - 1) - place
    return back + INWARD * back.sign()
