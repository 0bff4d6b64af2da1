"""What an encoder makes of detail: which blocks are worth their bits, and what is added to them.

A cosine costs bits once and serves all frames that show it. How many those are is seen to the end of a
chunk, by how much of what a latent frame lacks is lacking in the next one too; that it goes on like that is
expected until the period ends, where all is forgotten, or the video. Nothing of this is in a file: any choice
decodes.
"""

from __future__ import annotations

import numpy as np
import torch

from cvvae_cli.bitstream.cosine_choice import Worth, best_cosines, cosines_of, price_of, worth_adding
from cvvae_cli.bitstream.cosines import COLOURS, PLANES, SIDE, from_blocks, in_blocks, over_pixels, turned
from cvvae_cli.bitstream.detail import (
    FIRST_PAINTED,
    Change,
    DetailCoder,
    Memory,
    expected_colours,
    followed,
    has_any,
)
from cvvae_cli.bitstream.vectors import still
from cvvae_cli.flow.field import GROUP
from cvvae_cli.types import DETAIL_BITS, LEVELS, Lacking

LEAST_BITS = 40.0  # that a block takes of which it is tried whether it had better be opaque
SPARES = 2.0  # times: frames beyond a chunk count so much for opaque blocks, which spare symbols too
WANDERS = 8.0  # times: what opaque blocks are off a latent frame later counts so much against them
PIECE = 4096  # blocks at a time, so that memory does not grow with the picture
SPARED = 0.8  # of the symbols of a block that is opaque like those around
AROUND = 3  # blocks of the nine around one: with so many of them opaque, it is one of those
ROUNDS = 4  # in which opaque blocks win others over
BETTER = 0.75  # of what detail that is added comes to: less than this speaks for opaque blocks
UNTOLD = 0.5  # of what a latent frame lacks that the next one lacks too, where nothing tells
FLAG_BITS, CHANGE_BITS = 3.0, 5.0  # about what it takes to show a block or not, against custom; to change it


def encode_lacking(
    coder: DetailCoder,
    memory: Memory,
    vectors: list[np.ndarray],
    lacking: Lacking,
    bits: np.ndarray | None = None,
) -> tuple[bytes, list[Memory]]:
    """As `DetailCoder.encode`, of a chunk whose pictures lack something.

    `bits` (t, rows, columns): what the symbols of each block take, those that opaque blocks would hide.
    """
    return coder.encode(memory, vectors, DetailChooser(coder, lacking, vectors, bits).choose)


class Canvas:
    """The blocks of a latent frame that are painted."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.painted = np.zeros(shape, bool)  # (rows, columns)
        self._places = [np.zeros(0, np.int64)]
        self._colours = [np.zeros((0, PLANES, SIDE, SIDE), np.int64)]

    def add(self, at: tuple[np.ndarray, ...], colours: np.ndarray) -> None:
        """Blocks by row and column, none that is painted, and their cosines (n, 3, 8, 8)."""
        self.painted[at] = True
        self._places.append(np.ravel_multi_index(at, self.painted.shape))
        self._colours.append(colours)

    @property
    def colours(self) -> np.ndarray:
        """The cosines of all, row by row: (painted blocks, 3, 8, 8)."""
        order = np.argsort(np.concatenate(self._places))
        found: np.ndarray = np.concatenate(self._colours)[order]
        return found


class DetailChooser:
    """Of a chunk."""

    def __init__(
        self,
        coder: DetailCoder,
        lacking: Lacking,
        vectors: list[np.ndarray],
        bits: np.ndarray | None = None,
    ) -> None:
        """`bits` as in `encode_lacking`; without them, none are spared."""
        self.coder = coder
        self.price = price_of(coder.level)
        self.lacking = [in_blocks(turned(picture[None], COLOURS)[0]) for picture in lacking.pictures]
        self.counts = counts = lacking.counts
        self.following = lacking.following
        self.aims = list(self.lacking)
        self.frames = [np.full(each.shape[:2], float(n)) for each, n in zip(self.aims, counts, strict=True)]
        self._look_ahead(vectors)
        self.wanted, self.spreads = lacking.wanted, lacking.spreads
        if coder.paints:
            self.bits = SPARED * (np.zeros_like(lacking.spreads) if bits is None else bits)
            self.lives, self.spared = self._lives(vectors)

    def _look_ahead(self, vectors: list[np.ndarray]) -> None:
        """Aims that are means over what is to come, and how many frames each serves."""
        last = len(self.aims) - 1
        now = self.lacking[last]
        rests = still(torch.from_numpy(vectors[last])[None], *now.shape[:2])[0].numpy()
        share = np.full(now.shape[:2], UNTOLD)
        if last:
            before = in_blocks(followed(from_blocks(self.lacking[last - 1]), vectors[last]))
            share = likeness(before, now) ** 2
        self.frames[last] += np.where(rests, GROUP * lasting(share, self.following), 0)
        for number in range(last - 1, -1, -1):
            field = -vectors[number + 1]
            now, own = self.lacking[number], self.counts[number]
            following = in_blocks(followed(from_blocks(self.aims[number + 1]), field))
            frames = blocks_followed(self.frames[number + 1], field)
            share = likeness(following, now)
            self.frames[number] += share**2 * frames
            weights = np.stack([np.full(frames.shape, own), share * frames]) / self.frames[number]
            first, second = weights.astype(np.float32)[..., None, None, None]
            self.aims[number] = first * now + second * following

    def colours(self, number: int, at: tuple[np.ndarray, ...]) -> np.ndarray:
        """What blocks of a picture, by row and column, should be: (n, 3, 8, 8) levels above mid-grey."""
        return turned(in_blocks(self.wanted[number])[at], COLOURS) * np.float32(LEVELS)

    def _lives(self, vectors: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """How many frames each block of each latent frame serves if it is opaque: as long as its colours
        stay nearer to what is wanted than what is decoded. And how many bits of symbols that spares."""
        lives = [np.full(each.shape[:2], float(n)) for each, n in zip(self.lacking, self.counts, strict=True)]
        spared = list(self.bits)
        for number in range(len(lives) - 1, 0, -1):
            field, nothing = vectors[number], (self.lacking[number] ** 2).sum((2, 3, 4))
            difference = followed(self.wanted[number - 1], field) - self.wanted[number]
            drift = LEVELS**2 * (in_blocks(difference) ** 2).sum((2, 3, 4))
            share = (1 - WANDERS * drift / (nothing + 1e-3)).clip(0, 1)
            if number == len(lives) - 1:
                more = lasting(share, self.following)
                lives[number] += SPARES * GROUP * more
                spared[number] = spared[number] * (1 + more)
            lives[number - 1] += blocks_followed(share * lives[number], -field)
            spared[number - 1] = spared[number - 1] + blocks_followed(share * spared[number], -field)
        return lives, spared

    def choose(self, number: int, memory: Memory) -> Change:
        """Of a latent frame, with what is remembered by then."""
        remembered = in_blocks(memory.picture).astype(np.float32) * np.float32(0.5**DETAIL_BITS)
        now, count = self.lacking[number], self.counts[number]
        opaque, is_opaque = in_blocks(memory.opaque[None]), has_any(memory.opaque[None])
        known = remembered  # by how much pictures change that show it
        if is_opaque.any():
            remembered = np.where(opaque, 0, remembered)
            at = np.nonzero(is_opaque)
            known[at] += np.where(opaque[at], now[at] - self.colours(number, at), 0)
        worth = worth_adding(
            self.coder, self.price, self.aims[number], remembered, self.frames[number], CHANGE_BITS
        )
        gain = (known * (2 * now - known)).sum((2, 3, 4))  # of showing what is known, in one frame
        gain -= np.where(is_opaque, self.spreads[number], 0)  # opaque blocks show the same in all frames
        changed, painted, colours = worth.added.changed, None, None
        if self.coder.paints:
            left = np.where(is_opaque, (now**2).sum((2, 3, 4)) - gain, np.inf)
            is_kept, painted, colours = self.opaque(number, memory, left, worth)
            changed = changed & ~is_kept | painted
        added = changed if painted is None else changed & ~painted
        cosines = worth.added.cosines[added[worth.added.changed]]
        against = np.where(memory.shown, -FLAG_BITS, FLAG_BITS) * self.price
        shown = memory.held & (count * gain > against) | changed
        return Change(changed, cosines, shown, painted, colours)

    def opaque(
        self, number: int, memory: Memory, left: np.ndarray, worth: Worth
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which blocks are left as opaque as they are; which are painted, and with what cosines.

        `left` is the error of blocks that are opaque, in one frame; `worth` is of what would be added.
        """
        lives, per_frame = self.lives[number], worth.cost / self.frames[number]
        otherwise = np.minimum(per_frame, left) * lives
        whole = in_blocks(memory.opaque[None]).all((2, 3, 4))
        is_better = left <= per_frame
        canvas = Canvas(lives.shape)
        self.paint_where(canvas, number, memory, otherwise > LEAST_BITS * self.price, BETTER * otherwise)
        kept, tried = whole & is_better & ~canvas.painted, np.zeros(lives.shape, bool)
        would_stay = whole & (left <= per_frame + self.price * self.bits[number] / self.counts[number])
        limits = BETTER * otherwise + self.price * self.spared[number]
        for _ in range(ROUNDS):
            opaque = kept | canvas.painted
            near = ~(opaque | tried) & (around(opaque.astype(int)) >= AROUND)
            tried |= near
            stays = near & would_stay
            if not self.paint_where(canvas, number, memory, near & ~stays, limits) and not stays.any():
                break
            kept |= stays
        return (kept | is_better) & ~canvas.painted, canvas.painted, canvas.colours

    def paint_where(
        self, canvas: Canvas, number: int, memory: Memory, where: np.ndarray, limits: np.ndarray
    ) -> bool:
        """Paint those of some blocks that come to less than their limits; whether there are any."""
        at = np.nonzero(where)
        before = int(canvas.painted.sum())
        for begin in range(0, len(at[0]), PIECE):
            piece = tuple(places[begin : begin + PIECE] for places in at)
            chosen, cost = self.paint(number, memory, piece)
            is_less = cost < limits[piece]
            canvas.add(tuple(places[is_less] for places in piece), chosen[is_less])
        return int(canvas.painted.sum()) > before

    def paint(self, number: int, memory: Memory, at: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The cosines that make blocks, by row and column, opaque, (n, 3, 8, 8), and what each comes to."""
        expected = expected_colours(memory, at).astype(np.float32) * np.float32(0.5**DETAIL_BITS)
        step = np.float32(self.coder.step * 0.5**DETAIL_BITS)
        cells = cosines_of(self.colours(number, at) - expected) / step
        lives = self.lives[number][at]
        chosen, cost = best_cosines(self.coder, self.price, cells, lives, FIRST_PAINTED)
        return chosen, cost + CHANGE_BITS * self.price + self.spreads[number][at] * lives


def blocks_followed(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Values of blocks (rows, columns) as the middles of blocks see them that moved by vectors."""
    moved = followed(over_pixels(values)[None], vectors)
    return moved[0, SIDE // 2 :: SIDE, SIDE // 2 :: SIDE]


def lasting(share: np.ndarray, following: int) -> np.ndarray:
    """How many of so many latent frames will show something, if each shows a share of what the one before
    it does."""
    total: np.ndarray = np.cumprod(np.broadcast_to(share, (following, *share.shape)), axis=0).sum(0)
    return total


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
