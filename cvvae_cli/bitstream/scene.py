"""What an encoder knows of the pictures of a chunk while it chooses vectors and symbols.

Where opaque detail hides what is decoded, symbols need not say anything; and such detail stays right only as
long as it moves by the very pixels that its content moves by, which latents tell roughly. Nothing of this is
in a file: any vectors and any symbols decode.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.bitstream.cosines import COLOURS, SIDE, in_blocks, over_pixels, turned
from cvvae_cli.bitstream.detail import Memory
from cvvae_cli.bitstream.vectors import BLOCK, LARGEST, Finder, search, useful
from cvvae_cli.flow.align import LUMA_WEIGHTS
from cvvae_cli.flow.estimate import LEAST_DRAWN, VISIBLE, is_far_better
from cvvae_cli.flow.field import GROUP, UNIT
from cvvae_cli.flow.shift import shift_between
from cvvae_cli.types import DETAIL_BITS, LEVELS, Wanted

LEAST_HIDDEN = 1 / 16  # of the pixels of a chunk
MOSTLY = 0.5  # seen of a block: less, and what is remembered there decides that it rests
LEAST_SEEN = 1 / 256  # of a latent position: so much of an error counts where nothing shows
ANEW_BITS = 160.0  # about what it takes to paint a block again
WEIGHTS = ((1, 2, 1), (2, 4, 2), (1, 2, 1))  # of the pixels of a position and of those around, in its errors


class Scene:
    """Of a chunk that is encoded."""

    def __init__(self, wanted: Wanted, memory: Memory | None, reach: int = LARGEST) -> None:
        """With what is remembered before it; None where a period begins. `reach`: of vectors, in pixels."""
        self.wanted = wanted
        self.largest = useful(reach, wanted.now.shape[2:])
        self.searches = memory is None or bool(memory.opaque.mean() > LEAST_HIDDEN)
        # float32 (t, h, w), or what broadcasts to it: how much of a position shows; None: all
        self.seen: np.ndarray | None = None if wanted.shown is None else wanted.shown[:, None, None]
        self.seen_if_linked: np.ndarray | None = None  # of a first latent frame, if its period is linked
        self.fields: dict[int, np.ndarray] = {}  # the vectors of latent frames, once they are found
        self._starts: dict[int, tuple[np.ndarray, ...]] = {}

    def starts(self, number: int, rows: int, columns: int) -> tuple[np.ndarray, ...]:
        """Vectors to a latent frame, int32 (2, rows, columns), if all moves on as its frames do, from a whole
        group or the first frame of a video; and if the whole picture is shifted. No two of them are alike."""
        if number not in self._starts:
            still = np.zeros((2, rows, columns), np.int32)
            fields, before = self.wanted.fields, self.before(number)
            steady = still if fields is None else steady_motion(fields[number], still, self.largest)
            after = self.wanted.now[number]
            shifted = still if before is None else shift(before, after, still, self.largest)
            found = {each.tobytes(): each for each in (steady, steady * (GROUP - 1) // GROUP, shifted)}
            self._starts[number] = tuple(found.values())
        return self._starts[number]

    def before(self, number: int) -> np.ndarray | None:
        """The picture before a latent frame, if it is known."""
        return self.wanted.now[number - 1] if number else self.wanted.before

    def exactly(self, number: int, field: np.ndarray, price: float) -> np.ndarray:
        """Vectors to a latent frame, int32 (2, rows, columns): others where content moves exactly by them,
        and around. They are `fields` of the scene from then on."""
        before = self.before(number)
        if before is not None:
            after, starts = self.wanted.now[number], self.starts(number, *field.shape[1:])
            field = exact(before, after, field, starts, price, self.largest, searches=self.searches)
        elif self.seen_if_linked is not None:  # hidden latents tell nothing of motion
            seen = torch.from_numpy(self.seen_if_linked)
            shares = functional.avg_pool2d(seen, BLOCK, ceil_mode=True)[0].numpy()
            field = np.where(shares < MOSTLY, 0, field)
        self.fields[number] = field
        return field

    def cover(self, memories: list[Memory]) -> bool:
        """Let what is remembered at each latent frame hide symbols; False if it hides too few for that."""
        hidden = np.stack([memory.covering() for memory in memories])
        if hidden.mean() < LEAST_HIDDEN:
            return False
        seen = seen_past(hidden)
        self.seen = seen if self.seen is None else np.maximum(seen * self.seen, LEAST_SEEN)
        return True

    def remember(self, memory: Memory, frames: int, price: float) -> None:
        """What would hide symbols if the period that begins, of so many frames, went on from that before it,
        whose first latent frame left a memory: what is opaque of it, where it is still right."""
        opaque = memory.covering()
        if not opaque.any():
            return
        true = turned(self.wanted.now[:1], COLOURS)[0] * np.float32(LEVELS)
        errors = opaque * (true - memory.picture * np.float32(0.5**DETAIL_BITS)) ** 2
        is_right = frames * in_blocks(errors).sum((2, 3, 4)) < ANEW_BITS * price
        self.seen_if_linked = seen_past((opaque & over_pixels(is_right))[None])


def exact(
    before: np.ndarray,
    after: np.ndarray,
    field: np.ndarray,
    starts: tuple[np.ndarray, ...],
    price: float,
    largest: int = LARGEST,
    *,
    searches: bool,
) -> np.ndarray:
    """The vectors of a field, or those of pictures (3, H, W) where they are far better, and around.

    Those of `starts` are tried. Where that tells something, or with `searches`, others are looked for, and
    what most blocks move by is tried everywhere: lines of text look alike. No vector
    is larger than `largest`.
    """
    source, target = (brightness(picture)[None] for picture in (before, after))
    finder = Finder(source, target, largest)
    given, *others = (torch.from_numpy(each)[None].long() for each in (field, *starts))
    errors = finder.errors(given)
    found, least = given, errors
    for other in others:
        found, least = better(found, least, other, finder)
    if not searches and not is_drawn(least, errors):
        return field
    found, least = better(found, least, search(source, target, price, tuple(others), largest), finder)
    if not is_drawn(least, errors):
        return field
    kinds, counts = torch.unique(
        found[0].flatten(1)[:, is_exact(least, errors).flatten()], dim=1, return_counts=True
    )
    found, least = better(found, least, kinds[:, counts.argmax()].view(1, 2, 1, 1).expand_as(found), finder)
    around = functional.max_pool2d(is_exact(least, errors).float()[None], 3, 1, 1)[0] > 0
    chosen: np.ndarray = torch.where(around[:, None], found, given)[0].to(torch.int32).numpy()
    return chosen


def seen_past(hidden: np.ndarray) -> np.ndarray:
    """How much of latent positions shows past hidden pixels, bool (t, H, W): float32 (t, h, w)."""
    shares = functional.avg_pool2d(torch.from_numpy(hidden[:, None]).float(), SIDE)
    weights = torch.tensor(WEIGHTS, dtype=torch.float32)[None, None]
    padded = functional.pad(shares, (1, 1, 1, 1), mode="replicate")
    hides = functional.conv2d(padded, weights / weights.sum())
    seen: np.ndarray = (1 - hides[:, 0]).clamp_(min=LEAST_SEEN).numpy()
    return seen


def is_exact(least: Tensor, errors: Tensor) -> Tensor:
    """Which blocks fit far better."""
    return is_far_better(least, errors, VISIBLE / LEVELS**2)


def is_drawn(least: Tensor, errors: Tensor) -> bool:
    """Whether so many do that it is no accident."""
    return bool(is_exact(least, errors).float().mean() > LEAST_DRAWN)


def better(found: Tensor, least: Tensor, other: Tensor, finder: Finder) -> tuple[Tensor, Tensor]:
    """Vectors (1, 2, rows, columns) and their errors, and others where those are smaller."""
    errors = finder.errors(other)
    is_better = errors < least
    return torch.where(is_better[:, None], other, found), torch.where(is_better, errors, least)


def steady_motion(fields: np.ndarray, like: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """What the frames of a group (3, 2, rows, columns) say of the way from the group before, if all moves on
    as it does: int32, of as many blocks as `like` has."""
    first, last = fields[0].astype(np.float32), fields[-1].astype(np.float32)
    frames = GROUP - 1
    step = torch.from_numpy(GROUP / frames / UNIT * (first - last))[None]
    blocks = functional.adaptive_avg_pool2d(step, like.shape[1:])[0]
    vectors: np.ndarray = blocks.round().clamp(-largest, largest).to(torch.int32).numpy()
    return vectors


def shift(before: np.ndarray, after: np.ndarray, like: np.ndarray, largest: int) -> np.ndarray:
    """The one vector by which most of a picture (3, H, W) moves to another, for all blocks, int32."""
    target, source = (brightness(picture)[None] for picture in (after, before))
    found = -shift_between(target, source, largest)[0].to(torch.int32)
    return np.broadcast_to(found.numpy()[:, None, None], like.shape).copy()


def brightness(picture: np.ndarray) -> Tensor:
    """(3, H, W) → (H, W), in the same unit."""
    weights = np.array(LUMA_WEIGHTS, np.float32)
    return torch.from_numpy((picture * weights[:, None, None]).sum(0))
