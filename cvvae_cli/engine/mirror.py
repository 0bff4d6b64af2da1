"""The decoder inside the encoder: what its pictures will lack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.engine.base import to_device
from cvvae_cli.engine.plan import EVERYTHING
from cvvae_cli.flow.field import GROUP
from cvvae_cli.flow.light import shares
from cvvae_cli.types import DETAIL_BITS, LEVELS, Detail, Lacking, LatentChunk, Progress, Wanted

if TYPE_CHECKING:
    from cvvae_cli.engine.stream import Decoding, Engine

BLOCK = 8  # pixels each way of a block of detail
LEAST_SHOWN = 1 / 256  # of a frame
KEPT_AS = torch.float16  # pictures that wait for their detail
Pieces = Iterator[tuple[int, Tensor]]


class Mirror:
    """Decodes the chunks of an encode, in order."""

    def __init__(
        self,
        engine: Engine,
        level: int | None,
        size: tuple[int, int] | None = None,
        num_frames: int | None = None,
    ) -> None:
        """`level` is the quality of what is encoded, in tenths.

        `size`, rows and columns of a picture: frames are followed to the end, and `Reflection.left` tells
        what each of them lacks. Without it, pictures are. `num_frames` are expected of the video, if it is
        known.
        """
        self.engine = engine
        self.num_frames = num_frames
        self.level = level
        self.size = size
        self._decoding: Decoding | None = None
        self._source: np.ndarray | None = None  # the last frame of the chunk before, (H, W, 3)
        self._wanted: np.ndarray | None = None  # its last picture, (3, H, W)

    def of(self, chunk: LatentChunk) -> Reflection:
        """What becomes of the next chunk."""
        assert chunk.means is not None
        before, shown = self._wanted, None
        self._remember_wanted(chunk)
        if chunk.light is not None:
            before, shown = None, (shown_frames(chunk) / counts(chunk.frames)).astype(np.float32)
        return Reflection(self, chunk, Wanted(chunk.means, before, chunk.fields, shown))

    def following(self, chunk: LatentChunk) -> int:
        """How many latent frames come after a chunk before the coder starts fresh, or the video is expected
        to end."""
        spec = self.engine.spec
        so_far = spec.geometry.num_latents(chunk.frames.stop)
        of_period = -so_far % spec.period
        total = Progress(chunk.frames.stop, self.num_frames).believed_total
        return of_period if total is None else min(of_period, spec.geometry.num_latents(total) - so_far)

    @torch.inference_mode()
    def means(self, chunk: LatentChunk, *, refines: bool = True) -> np.ndarray:
        """Of the frames of each latent frame as they are decoded, before they are moved back.

        With `refines=False`, as the network gives them.
        """
        return means_of(self.pieces(chunk, refines=refines), chunk.frames)

    def reaching(self, latent: int, rows: int, columns: int) -> int:
        """The latent frame to `learn` from on, to go on with one of those with which a chunk begins."""
        first = self.engine.reaching(latent, rows, columns)
        if self.size is not None:  # the frame before is joined with the first
            last = self.engine.spec.geometry.frames_of(range(latent))[-1:]
            first = min(first, self.engine.needed(last, rows, columns).start)
        return first

    @torch.inference_mode()
    def learn(self, chunk: LatentChunk) -> None:
        """Remember a chunk that lies in a file already."""
        pieces = self.pieces(chunk, refines=self.size is not None)
        as_kept = ((at, piece.to(KEPT_AS).float()) for at, piece in pieces)
        for _ in as_kept if self.size is None else self.frames(chunk, as_kept):
            pass

    def skip(self, chunk: LatentChunk) -> None:
        """Remember the frames of such a chunk as they were."""
        self._remember_wanted(chunk)
        if self.size is not None:
            self.sources(chunk)

    def _remember_wanted(self, chunk: LatentChunk) -> None:
        """The last picture of a chunk, if it is as bright as what comes after."""
        assert chunk.means is not None
        self._wanted = chunk.means[-1].copy() if chunk.light is None else None

    def pieces(self, chunk: LatentChunk, *, refines: bool = True) -> Pieces:
        """Pictures of a chunk, as `Engine.pictures` gives them."""
        return self.engine.pictures(self.begun(chunk), chunk, EVERYTHING, refines=refines)

    def begun(self, chunk: LatentChunk) -> Decoding:
        """The decode, as it is before a chunk."""
        if self._decoding is None:
            self._decoding = self.engine.decoding(chunk, self.size)
        return self._decoding

    def go_on(self, decoding: Decoding) -> None:
        """From a decode as it was."""
        self._decoding = decoding

    def frames(self, chunk: LatentChunk, pieces: Pieces) -> Iterator[Tensor]:
        """The frames that a chunk completes, all before its last one: (3, H, W) in [-1, 1], in order."""
        assert self._decoding is not None
        complete = range(chunk.frames.stop - 1)
        groups = self.engine.restored(self._decoding, chunk, pieces)
        for shown in self.engine.joined(self._decoding, groups, EVERYTHING):
            yield from shown.part(complete).video[0].float().clamp(-1, 1).unbind(1)

    def sources(self, chunk: LatentChunk) -> list[np.ndarray]:
        """The frames (H, W, 3) as they were of which `frames` gives what became, and one more."""
        assert chunk.rgb is not None
        before, self._source = self._source, chunk.rgb[-1]
        return [*([] if before is None else [before]), *chunk.rgb]


@dataclass
class Reflection:
    """What becomes of a chunk that is encoded."""

    mirror: Mirror
    chunk: LatentChunk
    wanted: Wanted
    _before: Decoding | None = None  # when `lacking` was called first
    _pictures: Tensor | None = None  # (1, 3, 4t, H, W), kept until `left` is told their detail

    @property
    def follows_frames(self) -> bool:
        """Whether the mirror was given the size, so that `left` tells anything."""
        return self.mirror.size is not None

    @torch.inference_mode()
    def lacking(self, latents: np.ndarray) -> Lacking:
        """What pictures of `latents`, which stand for the chunk, lack of its frames as they were encoded.

        More than once: each time as if it were the first.
        """
        if self._before is None:
            self._before = self.mirror.begun(self.chunk).copy()
        self.mirror.go_on(self._before.copy())
        self._pictures = None
        self.chunk = replace(self.chunk, latents=latents, level=self.mirror.level)
        pieces = self.mirror.pieces(self.chunk)
        pictures = means_of(self._keeping(pieces) if self.follows_frames else pieces, self.chunk.frames)
        assert self.chunk.spreads is not None
        wanted, spreads = self.wanted.now, self.chunk.spreads * np.float32(LEVELS**2)
        lacking = (wanted - pictures) * np.float32(LEVELS)
        following = self.mirror.following(self.chunk)
        return Lacking(lacking, wanted, shown_frames(self.chunk), following, spreads)

    def _keeping(self, pieces: Pieces) -> Pieces:
        """The pieces as they come. Room is made for all at once, and half of what they take: a chunk of a
        large picture is a good part of what there is."""
        count, rows, columns = self.chunk.latents.shape[1:]
        for at, piece in pieces:
            if self._pictures is None:
                pixels = self.mirror.engine.spec.geometry.pixels
                shape = (1, 3, GROUP * count, rows * pixels, columns * pixels)
                self._pictures = torch.empty(shape, dtype=KEPT_AS, device=piece.device)
            self._pictures[:, :, GROUP * at : GROUP * at + piece.shape[2]] = piece
            yield at, piece

    def _kept(self) -> Pieces:
        """Each latent frame of what was kept."""
        assert self._pictures is not None
        for at, piece in enumerate(torch.split(self._pictures, GROUP, 2)):
            yield at, piece.float()

    @torch.inference_mode()
    def left(self, detail: Detail | None) -> Iterator[np.ndarray]:
        """What each frame lacks that can be shown by now, if pictures are given such detail.

        float32 (3, H, W) in levels of 255, of the true size: from the last frame of the chunk before to the
        last but one of this. Nothing if the mirror was not given the size.
        """
        if self.mirror.size is None:
            return
        chunk, sources = replace(self.chunk, detail=detail), self.mirror.sources(self.chunk)
        rows, columns = self.mirror.size
        for frame, source in zip(self.mirror.frames(chunk, self._kept()), sources, strict=False):
            seen = frame[:, :rows, :columns].add(1).mul_(LEVELS).cpu().numpy()
            scale = np.float32(255 / np.iinfo(source.dtype).max)
            yield source.transpose(2, 0, 1) * scale - seen
        self._pictures = None


def means_of(pieces: Pieces, frames: range) -> np.ndarray:
    """Of the pictures of a chunk of frames: float32 (t, 3, H, W)."""
    seen = shown(frames)
    parts = []
    for _, video in pieces:
        parts.append(means(video, seen[: video.shape[2] // GROUP]).cpu().numpy())
        seen = seen[video.shape[2] // GROUP :]
    return np.concatenate(parts)


def shown(frames: range) -> list[slice]:
    """Which of the four of each latent frame are frames of a chunk: only the last of a video's first one."""
    first = [slice(GROUP - 1, GROUP)] if frames.start == 0 else []
    left = len(frames) - len(first)
    return first + [slice(0, min(GROUP, left - start)) for start in range(0, left, GROUP)]


def counts(frames: range) -> np.ndarray:
    """How many frames of a chunk each of its latent frames stands for: int (t,)."""
    return np.array([part.stop - part.start for part in shown(frames)])


def shown_frames(chunk: LatentChunk) -> np.ndarray:
    """The same, of frames that are dimmed after only as much as shows of a squared error: float (t,)."""
    if chunk.light is None:
        return counts(chunk.frames)
    starts = np.cumsum([0, *counts(chunk.frames)[:-1]])
    return np.maximum(np.add.reduceat(shares(chunk.light) ** 2, starts), LEAST_SHOWN)


def means(video: Tensor, parts: list[slice]) -> Tensor:
    """Of the parts of groups of four frames (1, 3, 4n, H, W), as many as there are: float32 (t, 3, H, W)."""
    return torch.stack([seen.mean(1) for seen in seen_of(video, parts)])


def spreads(video: Tensor, parts: list[slice]) -> Tensor:
    """Of the same groups, by how much a frame differs from the mean: sums of squares over blocks of 8x8
    pixels and all colours, (t, rows, columns)."""
    squares = torch.stack(
        # not torch.var, which takes twenty times as long
        [(seen - seen.mean(1, keepdim=True)).square_().mean(1).sum(0) for seen in seen_of(video, parts)]
    )
    return functional.avg_pool2d(squares[:, None], BLOCK)[:, 0] * BLOCK**2


def seen_of(video: Tensor, parts: list[slice]) -> Iterator[Tensor]:
    """The parts themselves, as they are shown: float32 (3, n, H, W) in [-1, 1]."""
    for group, part in zip(torch.split(video[0], GROUP, 1), parts, strict=False):
        yield group[:, part].float().clamp(-1, 1)


def added(video: Tensor, detail: Detail, groups: slice) -> Tensor:
    """Groups of frames (1, 3, 4n, H, W) with the detail of each, which is that of so many latent frames."""
    colours, opaque = detail.colours[groups], detail.opaque[groups]
    if not (colours.any() or opaque.any()):
        return video
    shown = video.float().clamp(-1, 1)
    of_groups = torch.unflatten(shown, 2, (-1, GROUP))
    if opaque.any():
        of_groups.masked_fill_(to_device(opaque, video.device)[None, None, :, None], 0.0)
    of_groups.add_(in_network_units(colours, video.device).transpose(0, 1)[None, :, :, None])
    return shown


def in_network_units(colours: np.ndarray, device: torch.device) -> Tensor:
    """What is added to colours, int16 in 2^-4 levels, on a device."""
    return to_device(colours, device).to(torch.float32).div_(LEVELS * 2**DETAIL_BITS)
