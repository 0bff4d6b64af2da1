"""Frames to latents and back as streams: one chunk in memory at a time, whatever the length."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.engine.device import Placement, keep_freed_memory
from cvvae_cli.engine.plan import pad_frames, plan_tiles, regroup
from cvvae_cli.engine.tiles import TiledRunner
from cvvae_cli.errors import NonFiniteError
from cvvae_cli.models.autoencoder import StreamingAutoencoder
from cvvae_cli.models.layers import Memory
from cvvae_cli.models.registry import ModelSpec
from cvvae_cli.types import FrameBatch, LatentChunk

logger = logging.getLogger("cvvae")
LARGEST_WHOLE_PICTURE = 1920 * 1088  # pixels; above, the picture is tiled
DEFAULT_TILE_PIXELS = 1024


@dataclass(frozen=True)
class EngineOptions:
    """How to run; no option changes the latents beyond rounding."""

    tile_pixels: int | None = None  # largest side of a tile; None: chosen from the picture's size

    def tile_latents(self, height: int, width: int, pixels: int) -> int | None:
        if self.tile_pixels is not None:
            return max(1, self.tile_pixels // pixels)
        is_small = height * width * pixels**2 <= LARGEST_WHOLE_PICTURE
        return None if is_small else DEFAULT_TILE_PIXELS // pixels


class Engine:
    """A model on a device. `encode_stream` and `decode_stream` are independent of each other."""

    def __init__(
        self,
        spec: ModelSpec,
        build: Callable[[], StreamingAutoencoder],
        placement: Placement,
        options: EngineOptions | None = None,
    ) -> None:
        """`build` gives the network in fp32; it is called again if another number type fails."""
        self.spec = spec
        self.build = build
        self.placement = placement
        self.options = options or EngineOptions()
        if placement.device.type == "cpu":
            keep_freed_memory()
        self.network = self._place(placement.dtype)
        self.fell_back = False  # to fp32, after a chunk that was not finite

    def _place(self, dtype: torch.dtype) -> StreamingAutoencoder:
        self.dtype = dtype
        return self.build().to(self.placement.device).compute_in(dtype)

    @torch.inference_mode()
    def encode_stream(self, batches: Iterable[FrameBatch], first_latent: int = 0) -> Iterator[LatentChunk]:
        """Latents of consecutive frames, a chunk of the grid at a time.

        `batches` start at the first frame of latent frame `first_latent`, a point of the chunk grid.
        Started in the middle, the first `encode_context` latent frames differ from those of the whole
        video: drop them.
        """
        geometry, chunk = self.spec.geometry, self.spec.chunk_latents
        runner: TiledRunner | None = None
        latent = first_latent
        for batch in regroup(batches, geometry, chunk, first_latent):
            height, width = geometry.latent_size(batch.rgb.shape[2], batch.rgb.shape[1])
            if runner is None:
                runner = self._runner(self._encode, height, width, geometry.pixels, 1, self.spec.encode_halo)
            repeats = geometry.frames - 1 if latent == 0 else 0
            rgb = pad_frames(batch.rgb, repeats, geometry.frames * chunk, geometry.pixels)
            start = geometry.frames_of(range(latent, latent + chunk)).start
            frames = range(start, start + len(batch))
            count = geometry.num_latents(frames.stop) - latent
            latents = self._finite(runner, self._pixels_to_network(rgb), frames)[:, :, :count]
            yield LatentChunk(latents[0].float().cpu().numpy(), frames, batch.pts)
            latent += count

    @torch.inference_mode()
    def decode_stream(self, chunks: Iterable[LatentChunk], width: int, height: int) -> Iterator[FrameBatch]:
        """Frames of consecutive chunks of the grid, cropped to the true size.

        Started in the middle, the frames of the first `decode_context` latent frames differ: drop them.
        """
        geometry, length = self.spec.geometry, self.spec.chunk_latents
        runner: TiledRunner | None = None
        for chunk in chunks:
            latents = torch.from_numpy(chunk.latents)[None]
            if runner is None:
                rows, columns = latents.shape[-2:]
                halo = self.spec.decode_halo
                runner = self._runner(self._decode, rows, columns, 1, geometry.pixels, halo)
            missing = length - latents.shape[2]
            if missing:  # causal: what is repeated after the end changes nothing before it
                latents = torch.cat([latents, latents[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
            x = latents.to(self.placement.device, memory_format=torch.channels_last_3d)
            video = self._finite(runner, x, chunk.frames)
            skip = geometry.frames - 1 if chunk.frames.start == 0 else 0
            video = video[:, :, skip : skip + len(chunk.frames), :height, :width]
            yield FrameBatch(self._network_to_pixels(video), chunk.pts)

    def _runner(
        self,
        run: Callable[[Tensor, Memory], Tensor],
        height: int,
        width: int,
        scale_in: int,
        scale_out: int,
        halo: int,
    ) -> TiledRunner:
        tile = self.options.tile_latents(height, width, self.spec.geometry.pixels)
        return TiledRunner(run, plan_tiles(height, width, tile, halo), scale_in, scale_out)

    def _encode(self, x: Tensor, memory: Memory) -> Tensor:
        return self.network.encode_groups(x, memory)

    def _decode(self, x: Tensor, memory: Memory) -> Tensor:
        return self.network.decode_groups(x, memory)

    def _finite(self, runner: TiledRunner, x: Tensor, frames: range) -> Tensor:
        """Run a chunk; if it is not finite, go on in fp32; raise NonFiniteError if that does not help."""
        before = runner.snapshot()
        y = runner(x)
        if is_finite(y):
            return y
        if self.dtype != torch.float32:
            old = self.network
            self.network = self._place(torch.float32)
            self.fell_back = True
            logger.warning("frames from %d on are computed in fp32: NaN or infinity before", frames.start)
            runner.memories = [carry_over(memory, old, self.network) for memory in before]
            y = runner(x)
            if is_finite(y):
                return y
        raise NonFiniteError(
            f"the network gave NaN or infinity in frames {frames.start} to {frames.stop - 1}, in fp32 too",
            hint="check the source there, and the weights",
        )

    def _pixels_to_network(self, rgb: np.ndarray) -> Tensor:
        """uint8 (T, H, W, 3) → float (1, 3, T, H, W) in [-1, 1], channels last in memory."""
        x = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.placement.device, non_blocking=True)
        x = x.to(torch.float32).div_(127.5).sub_(1)
        return x.permute(3, 0, 1, 2)[None]

    def _network_to_pixels(self, video: Tensor) -> np.ndarray:
        """(1, 3, T, H, W) → uint8 (T, H, W, 3), rounded and clamped."""
        x = video[0].permute(1, 2, 3, 0).float()
        x = x.add(1).mul_(127.5).round_().clamp_(0, 255)
        return x.to(torch.uint8).contiguous().cpu().numpy()


def is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def carry_over(memory: Memory, old: StreamingAutoencoder, new: StreamingAutoencoder) -> Memory:
    """The memory of one copy of a network for another copy, which computes in fp32."""
    twins = dict(zip(old.modules(), new.modules(), strict=True))
    return {twins[module]: state.float() for module, state in memory.items()}
