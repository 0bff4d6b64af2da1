"""What an encoder makes of detail: which blocks are worth their bits, and what is added to them.

A cosine costs bits once and serves all frames that show it. How many those are is seen to the end of a
chunk, by how much of what a latent frame lacks is lacking in the next one too, and guessed beyond. Nothing of
this is in a file: any choice decodes.
"""

from __future__ import annotations

import numpy as np
import torch

from cvvae_cli.bitstream.cosine_choice import price_of, worth_adding
from cvvae_cli.bitstream.cosines import COLOURS, SIDE, from_blocks, in_blocks, turned
from cvvae_cli.bitstream.detail import Change, DetailCoder, Memory, followed, has_any
from cvvae_cli.bitstream.vectors import still
from cvvae_cli.types import DETAIL_BITS, Lacking

RESTING, MOVING = 4.0, 0.0  # frames expected beyond a chunk that show what its last one lacks
FLAG_BITS, CHANGE_BITS = 3.0, 5.0  # about what it takes to show a block or not, against custom; to change it


def encode_lacking(
    coder: DetailCoder, memory: Memory, vectors: list[np.ndarray], lacking: Lacking
) -> tuple[bytes, list[Memory]]:
    """As `DetailCoder.encode`, of a chunk whose pictures lack something."""
    return coder.encode(memory, vectors, DetailChooser(coder, lacking, vectors).choose)


class DetailChooser:
    """Of a chunk."""

    def __init__(self, coder: DetailCoder, lacking: Lacking, vectors: list[np.ndarray]) -> None:
        self.coder = coder
        self.price = price_of(coder.level)
        self.lacking = [in_blocks(turned(picture[None], COLOURS)[0]) for picture in lacking.pictures]
        self.counts = counts = lacking.counts
        self.aims = list(self.lacking)
        self.frames = [np.full(each.shape[:2], float(n)) for each, n in zip(self.aims, counts, strict=True)]
        self._look_ahead(vectors)

    def _look_ahead(self, vectors: list[np.ndarray]) -> None:
        """Aims that are means over what is to come, and how many frames each serves."""
        last = len(self.aims) - 1
        now = self.lacking[last]
        rests = still(torch.from_numpy(vectors[last])[None], *now.shape[:2])[0].numpy()
        beyond = np.where(rests, RESTING, MOVING)
        if last:
            before = in_blocks(followed(from_blocks(self.lacking[last - 1]), vectors[last]))
            beyond *= likeness(before, now) ** 2
        self.frames[last] += beyond
        for number in range(last - 1, -1, -1):
            field = -vectors[number + 1]
            now, own = self.lacking[number], self.counts[number]
            following = in_blocks(followed(from_blocks(self.aims[number + 1]), field))
            frames = followed(self.frames[number + 1].repeat(SIDE, 0).repeat(SIDE, 1)[None], field)
            frames = frames[0, SIDE // 2 :: SIDE, SIDE // 2 :: SIDE]
            share = likeness(following, now)
            self.frames[number] += share**2 * frames
            weights = np.stack([np.full(frames.shape, own), share * frames]) / self.frames[number]
            first, second = weights.astype(np.float32)[..., None, None, None]
            self.aims[number] = first * now + second * following

    def choose(self, number: int, memory: Memory) -> Change:
        """Of a latent frame, with what is remembered by then."""
        known = in_blocks(memory.picture).astype(np.float32) * np.float32(0.5**DETAIL_BITS)
        kept = has_any(memory.picture)
        aims, frames = self.aims[number], self.frames[number]
        added = worth_adding(self.coder, self.price, aims, known, frames, CHANGE_BITS)
        now, count = self.lacking[number], self.counts[number]
        gain = count * (known * (2 * now - known)).sum((2, 3, 4))  # of showing what is known
        against = np.where(memory.shown, -FLAG_BITS, FLAG_BITS) * self.price
        shown = kept & (gain > against) | added.changed
        return Change(added.changed, added.cosines, shown)


def likeness(of: np.ndarray, to: np.ndarray) -> np.ndarray:
    """By what share blocks (rows, columns, 3, 8, 8) explain others, 0 to 1."""
    both, own = (around((of * other).sum((2, 3, 4))) for other in (to, of))
    share = both / (own + 1e-3)
    clipped: np.ndarray = share.clip(0, 1)
    return clipped


def around(values: np.ndarray) -> np.ndarray:
    """Sums of 3x3 blocks."""
    p = np.pad(values, 1, mode="edge")
    p = p[:-2] + p[1:-1] + p[2:]
    sums: np.ndarray = p[:, :-2] + p[:, 1:-1] + p[:, 2:]
    return sums
