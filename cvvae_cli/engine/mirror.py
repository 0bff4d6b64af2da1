"""The decoder inside the encoder: what its pictures will lack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.engine.base import to_device
from cvvae_cli.flow.field import GROUP
from cvvae_cli.types import DETAIL_BITS, Lacking, LatentChunk

if TYPE_CHECKING:
    from cvvae_cli.engine.stream import Engine

LEVELS = 127.5  # of 255, in a unit of the network


class Mirror:
    """Decodes the chunks of an encode, in order."""

    def __init__(self, engine: Engine, level: int | None) -> None:
        """`level` is the quality of what is encoded, in tenths."""
        self.engine = engine
        self.level = level
        self._decode: Callable[..., Iterator[Tensor]] | None = None

    def lacking(self, chunk: LatentChunk, latents: np.ndarray) -> Lacking:
        """What pictures of `latents`, which stand for a chunk, lack of its frames as they were encoded."""
        assert chunk.means is not None
        pictures = self.means(replace(chunk, latents=latents, level=self.level))
        return Lacking((chunk.means - pictures) * np.float32(LEVELS), counts(chunk.frames))

    @torch.inference_mode()
    def means(self, chunk: LatentChunk, *, refines: bool = True) -> np.ndarray:
        """Of the frames of each latent frame as they are decoded, before they are moved back.

        With `refines=False`, as the network gives them.
        """
        seen = shown(chunk.frames)
        parts = []
        for video in self._decoded(chunk, refines=refines):
            parts.append(means(video, seen[: video.shape[2] // GROUP]).cpu().numpy())
            seen = seen[video.shape[2] // GROUP :]
        return np.concatenate(parts)

    @torch.inference_mode()
    def learn(self, chunk: LatentChunk) -> None:
        """Let the network remember a chunk whose pictures nobody wants."""
        for _ in self._decoded(chunk, refines=False):
            pass

    def _decoded(self, chunk: LatentChunk, *, refines: bool = True) -> Iterator[Tensor]:
        if self._decode is None:
            self._decode = self.engine.decoder(*chunk.latents.shape[-2:])
        return self._decode(chunk, refines=refines)


def shown(frames: range) -> list[slice]:
    """Which of the four of each latent frame are frames of a chunk: only the last of a video's first one."""
    first = [slice(GROUP - 1, GROUP)] if frames.start == 0 else []
    left = len(frames) - len(first)
    return first + [slice(0, min(GROUP, left - start)) for start in range(0, left, GROUP)]


def counts(frames: range) -> np.ndarray:
    """How many frames of a chunk each of its latent frames stands for: int (t,)."""
    return np.array([part.stop - part.start for part in shown(frames)])


def means(video: Tensor, parts: list[slice]) -> Tensor:
    """Of the parts of groups of four frames (1, 3, 4n, H, W), as many as there are: float32 (t, 3, H, W)."""
    groups = torch.split(video[0], GROUP, 1)
    seen = [group[:, part].float().clamp(-1, 1).mean(1) for group, part in zip(groups, parts, strict=False)]
    return torch.stack(seen)


def added(video: Tensor, detail: np.ndarray) -> Tensor:
    """Groups of frames (1, 3, 4n, H, W) with the detail of each group, int16 (n, 3, H, W)."""
    if not detail.any():
        return video
    colours = to_device(detail, video.device).to(torch.float32).div_(LEVELS * 2**DETAIL_BITS)
    shown = video.float().clamp(-1, 1)
    torch.unflatten(shown, 2, (-1, GROUP)).add_(colours.transpose(0, 1)[None, :, :, None])
    return shown
