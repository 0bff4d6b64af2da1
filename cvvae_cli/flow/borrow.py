"""Frames that a cut separates from the reference of their group: the group beside shows what they show.

A group is described as one picture, and where there is a cut in it, it would have to be two. So the frames on
the other side of the cut than the reference are *borrowed*: the decoder moves the frame of the group beside
that they follow, or lead to, onto them. The encoder puts the reference in their place, which takes no bits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.flow.align import (
    CODED,
    LEAST_GAIN,
    LOSS,
    brightness,
    doublings,
    find,
    gained,
    in_areas,
    textured,
    unlike_reference,
)
from cvvae_cli.flow.field import (
    FIRST,
    GROUP,
    LAST,
    OTHERS,
    REFERENCE,
    SECOND,
    moved_by,
)
from cvvae_cli.flow.refinement import WORTHLESS
from cvvae_cli.types import Borrowed

CUT = 1.5  # doublings by which frames differ more across a cut than others around it: most cuts have 2 to 6
ACROSS = ((FIRST,), (FIRST, SECOND), (LAST,))  # those on the other side of a cut after frame 1, 2 or 3


@torch.no_grad()
def borrow(
    groups: Tensor, before: Tensor | None, after: Tensor | None, worthless: float = WORTHLESS
) -> tuple[Tensor, Borrowed]:
    """Consecutive groups (N, 3, 4, H, W) in [-1, 1] → the same with the reference in place of what is
    borrowed, and that, by group and part.

    `before` and `after` are the frames (3, H, W) beside them; None: there is none, or nobody knows it yet.
    `worthless` is as in `align`.
    """
    frames = brightness(groups)
    beside = [None if each is None else brightness(each[None, :, None])[0, 0] for each in (before, after)]
    borrowed: Borrowed = {}
    for number, luma in enumerate(frames):
        last = frames[number - 1, -1] if number else beside[0]
        neighbours = (
            None if (number - 1, LAST) in borrowed else last,  # which is to be the first of this one
            frames[number + 1, 0] if number + 1 < len(frames) else beside[1],
        )
        for part, vectors in across_cut(luma, neighbours, worthless).items():
            if not borrowed:
                groups = groups.clone()
            borrowed[number, part] = vectors
            groups[number, :, OTHERS[part]] = groups[number, :, REFERENCE]
    return groups, borrowed


def across_cut(
    luma: Tensor, neighbours: tuple[Tensor | None, Tensor | None], worthless: float
) -> dict[int, np.ndarray]:
    """What a group of brightness (4, H, W) had better borrow of the frames before and after it, (H, W): parts
    and their vectors, int16 (2, rows, columns)."""
    cut = cut_in(luma, neighbours)
    if cut is None:
        return {}
    parts = ACROSS[cut]
    neighbour = neighbours[parts[0] == LAST]
    assert neighbour is not None
    found = vectors_from(neighbour, luma, parts, worthless)
    texture, whole = (of(luma[None]) for of in (textured, unlike_reference))
    rest = luma.clone()
    lost = luma.new_zeros(1)
    for part, vectors in found.items():
        rest[OTHERS[part]] = luma[REFERENCE]
        there = moved_by(neighbour[None, None], vectors)[0, 0]
        lost += (there - luma[OTHERS[part]]).square().mean() / GROUP
    gain = gained(texture, whole, unlike_reference(rest[None]))
    worse = LOSS * torch.log2(1 + lost / (CODED * torch.exp2(texture)))
    return found if float(gain - worse) > LEAST_GAIN else {}


def cut_in(luma: Tensor, neighbours: tuple[Tensor | None, Tensor | None]) -> int | None:
    """After which frame of a group there is a cut, if there is one, and a neighbour on that side."""
    changes = doublings_between(luma[:-1], luma[1:])
    cut = int(changes.argmax())
    is_after = ACROSS[cut] == (LAST,)
    neighbour = neighbours[is_after]
    if neighbour is None:
        return None
    around = float(doublings_between(neighbour[None], luma[-1:] if is_after else luma[:1]))
    others = [around, *(float(change) for number, change in enumerate(changes) if number != cut)]
    return cut if float(changes[cut]) > CUT + max(others) else None


def doublings_between(one: Tensor, other: Tensor) -> Tensor:
    """How far frames (n, H, W) are from others, each: (n,)."""
    return doublings(in_areas((one - other).square()[:, None]))


def vectors_from(
    neighbour: Tensor, luma: Tensor, parts: tuple[int, ...], worthless: float
) -> dict[int, np.ndarray]:
    """Where in a neighbour (H, W) the content of parts of a group (4, H, W) lies.

    They are found as those of a group whose reference is the neighbour, with the nearer of two before it.
    """
    nearer, farther = (luma[OTHERS[part]] for part in (parts[0], parts[-1]))
    fields = find(torch.stack([farther, nearer, neighbour, neighbour])[None], worthless)[0]
    return dict(zip(parts, fields[[SECOND, FIRST]], strict=False))
