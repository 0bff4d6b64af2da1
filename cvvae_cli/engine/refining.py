"""Decoded pictures that learn from those beside them: a latent frame late, within a chunk.

No bits are spent on it and no symbol depends on it. The encoder's mirror refines as well, so that detail is
coded of what is lacking after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cvvae_cli.engine import mirror
from cvvae_cli.engine.base import is_finite
from cvvae_cli.engine.plan import Tile
from cvvae_cli.engine.tiles import TiledRunner
from cvvae_cli.errors import NonFiniteError
from cvvae_cli.flow.align import brightness
from cvvae_cli.flow.field import GROUP, moved
from cvvae_cli.flow.follow import back_from, follow
from cvvae_cli.models.compact import COARSE
from cvvae_cli.models.layers import Memory
from cvvae_cli.models.refiner import HIGHEST_LEVEL, Refiner
from cvvae_cli.types import LatentChunk

Neighbour = tuple[Tensor, Tensor]
"""A picture (1, 3, H, W), and where in it the content of the one beside it lies, (1, 2, H, W)."""


@dataclass(frozen=True)
class Held:
    """A wanted latent frame that waits for the one after it."""

    number: int
    video: Tensor  # (1, 3, 4, H, W)
    picture: Tensor  # (1, 3, H, W), the mean of its frames
    before: Neighbour | None


class Refining:
    """Of consecutive chunks."""

    def __init__(self, tiles: list[Tile]) -> None:
        self.tiles = tiles
        self._last: Tensor | None = None  # picture of the chunk before

    def __call__(
        self, refiner: Refiner, chunk: LatentChunk, decoded: Iterator[tuple[int, Tensor]], wanted: range
    ) -> Iterator[tuple[int, Tensor]]:
        """Pieces of consecutive latent frames, (1, 3, 4n, H, W), and where in the chunk they begin → the same
        of each wanted latent frame, refined. `decoded` must hold those beside the wanted ones."""
        held: Held | None = None
        crosses = refiner.across and chunk.light is None  # what is evened has a brightness of its own
        beside, self._last = self._last if crosses else None, None
        for number, video, picture in pictures_of(chunk, decoded):
            before: Neighbour | None = None
            if beside is not None and (held is not None or number in wanted):
                there, back = ways_between(beside, picture)
                before = beside, back
                if held is not None:
                    yield held.number, self._refined(refiner, chunk, held, (picture, there))
            held = Held(number, video, picture, before) if number in wanted else None
            beside = picture
        if held is not None:
            yield held.number, self._refined(refiner, chunk, held, None)
        self._last = beside if chunk.light is None else None

    def copy(self) -> Refining:
        twin = Refining(self.tiles)
        twin._last = self._last
        return twin

    def passing(
        self, chunk: LatentChunk, decoded: Iterator[tuple[int, Tensor]]
    ) -> Iterator[tuple[int, Tensor]]:
        """The pieces of a chunk as they come, which the next chunk will learn from."""
        piece: Tensor | None = None
        for at, piece in decoded:
            yield at, piece
        if piece is not None and chunk.light is None:
            self._last = mirror.means(piece[:, :, -GROUP:], mirror.shown(chunk.frames)[-1:])

    def _refined(self, refiner: Refiner, chunk: LatentChunk, held: Held, after: Neighbour | None) -> Tensor:
        differences, known = differences_of(held.picture, held.before, after)
        run = TiledRefiner(refiner, self.tiles, chunk.level, chunk.frames)
        return held.video.float().clamp(-1, 1) + run(held.picture, differences, known)[:, :, None]


@dataclass(frozen=True)
class TiledRefiner:
    """A refiner for pictures of any size."""

    refiner: Refiner
    tiles: list[Tile]
    level: int | None  # of quality, in tenths; None: latents that are not rounded
    frames: range  # of the video, to say where it failed

    def __call__(self, pictures: Tensor, differences: Tensor, known: Tensor) -> Tensor:
        """What to add to pictures (B, 3, H, W); see Refiner. Raises NonFiniteError."""
        level = HIGHEST_LEVEL if self.level is None else float(self.level)
        levels = known.new_full((len(known),), level)

        def refine(seen: Tensor, _: Memory) -> Tensor:
            """(B, 3 + 3n, 1, H, W): pictures and differences → what to add, (B, 3, 1, H, W)."""
            picture, *others = torch.split(seen[:, :, 0], 3, 1)
            added: Tensor = self.refiner(picture, torch.stack(others, 1), known, levels)
            return added[:, :, None]

        run = TiledRunner(refine, self.tiles, COARSE, COARSE)
        more = run(torch.cat([pictures[:, None], differences], 1).flatten(1, 2)[:, :, None])[:, :, 0]
        if not is_finite(more):
            first, last = self.frames.start, self.frames.stop - 1
            raise NonFiniteError(f"refining gave NaN or infinity in frames {first} to {last}")
        return more


def pictures_of(
    chunk: LatentChunk, decoded: Iterator[tuple[int, Tensor]]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of each latent frame in pieces of a chunk: its number there, its frames, their mean as shown."""
    shown = mirror.shown(chunk.frames)
    for at, piece in decoded:
        for number, video in enumerate(torch.split(piece, GROUP, 2), at):
            yield number, video, mirror.means(video, shown[number : number + 1])


def ways_between(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Of pictures (1, 3, H, W) in [-1, 1]: where in the other the content of the one lies, and back."""
    there = follow(brightness(one[:, :, None]), brightness(other[:, :, None]))
    return there, back_from(there)


def differences_of(
    picture: Tensor, before: Neighbour | None, after: Neighbour | None
) -> tuple[Tensor, Tensor]:
    """By what the pictures beside one, moved onto it, differ from it; and which of the two there are.

    (1, 3, H, W) in [-1, 1] → (1, 2, 3, H, W) and (1, 2).
    """
    differences = picture.new_zeros(1, 2, *picture.shape[1:])
    known = picture.new_zeros(1, 2)
    for number, neighbour in enumerate((before, after)):
        if neighbour is not None:
            differences[:, number] = moved(*neighbour) - picture
            known[:, number] = 1
    return differences, known
