"""Decoded pictures that learn from those beside them: a latent frame late, within a chunk.

No bits are spent on it and no symbol depends on it. The encoder's mirror refines as well, so that detail is
coded of what is lacking after it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cvvae_cli.engine import mirror
from cvvae_cli.engine.base import is_finite
from cvvae_cli.engine.plan import Tile
from cvvae_cli.engine.tiles import TiledRunner
from cvvae_cli.errors import NonFiniteError
from cvvae_cli.flow.align import brightness
from cvvae_cli.flow.field import GROUP, moved
from cvvae_cli.flow.follow import follow
from cvvae_cli.models.refiner import HIGHEST_LEVEL, Refiner
from cvvae_cli.types import LatentChunk

SCALE = 8  # pixels of a latent position, by which tiles are counted


class Refining:
    """Of a chunk."""

    def __init__(self, refiner: Refiner, chunk: LatentChunk, tiles: list[Tile]) -> None:
        self.refiner = refiner
        self.frames = chunk.frames
        self.level = HIGHEST_LEVEL if chunk.level is None else float(chunk.level)
        self.tiles = tiles

    def __call__(self, decoded: Iterator[tuple[int, Tensor]], wanted: range) -> Iterator[tuple[int, Tensor]]:
        """Pieces of consecutive latent frames, (1, 3, 4n, H, W), and where in the chunk they begin → the same
        of each wanted latent frame, refined. `decoded` must hold those beside the wanted ones."""
        shown = mirror.shown(self.frames)
        before: Tensor | None = None
        held: tuple[int, Tensor, Tensor] | None = None
        for at, piece in decoded:
            for number, video in enumerate(torch.split(piece, GROUP, 2), at):
                picture = mirror.means(video, shown[number : number + 1])
                if held is not None:
                    if held[0] in wanted:
                        yield held[0], self._refined(held[1], before, held[2], picture)
                    before = held[2]
                held = number, video, picture
        if held is not None and held[0] in wanted:
            yield held[0], self._refined(held[1], before, held[2], None)

    def _refined(self, video: Tensor, before: Tensor | None, picture: Tensor, after: Tensor | None) -> Tensor:
        differences, known = beside(picture, before, after)
        level = picture.new_tensor([self.level])
        run = TiledRunner(lambda x, _: self._run(x, known, level), self.tiles, SCALE, SCALE)
        more = run(torch.cat([picture[:, None], differences], 1).flatten(1, 2)[:, :, None])
        if not is_finite(more):
            first, last = self.frames.start, self.frames.stop - 1
            raise NonFiniteError(f"refining gave NaN or infinity in frames {first} to {last}")
        return video.float().clamp(-1, 1) + more

    def _run(self, seen: Tensor, known: Tensor, level: Tensor) -> Tensor:
        """(1, 9, 1, H, W): a picture and two differences → what to add, (1, 3, 1, H, W)."""
        picture, *differences = torch.split(seen[:, :, 0], 3, 1)
        more: Tensor = self.refiner(picture, torch.stack(differences, 1), known, level)
        return more[:, :, None]


def beside(picture: Tensor, before: Tensor | None, after: Tensor | None) -> tuple[Tensor, Tensor]:
    """By what the pictures beside one, moved onto it, differ from it; and which of the two there are.

    (1, 3, H, W) in [-1, 1] → (1, 2, 3, H, W) and (1, 2).
    """
    neighbours = {number: p for number, p in enumerate((before, after)) if p is not None}
    differences = picture.new_zeros(1, 2, *picture.shape[1:])
    known = picture.new_zeros(1, 2)
    if neighbours:
        sources, at = torch.cat(list(neighbours.values())), list(neighbours)
        targets = picture.expand_as(sources)
        flow = follow(brightness(targets[:, :, None]), brightness(sources[:, :, None]))
        differences[0, at] = moved(sources, flow) - targets
        known[0, at] = 1
    return differences, known
