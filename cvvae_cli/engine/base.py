"""What every engine is: a network on a device, with frames going in and out as plain arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.engine.device import Placement
from cvvae_cli.models.autoencoder import VideoAutoencoder
from cvvae_cli.models.registry import ModelSpec
from cvvae_cli.types import FrameBatch, LatentChunk

WHOLE_PICTURE = 0  # as `tile_pixels`: no tiles


@dataclass(frozen=True)
class EngineOptions:
    """How to run. With a streaming model no option changes the latents beyond rounding; with a windowed one
    tile and overlap are part of the result, and the header keeps them."""

    tile_pixels: int | None = None  # largest side of a tile; None: chosen; 0: no tiles
    temporal_overlap: int = 0  # frames that windows share beyond the one they must; a multiple of four
    max_memory_bytes: int | None = None  # of activations; None: most of what the device has left
    is_compiled: bool = False  # fuse the layers of a windowed network first (engine/compiled.py)


class BaseEngine(ABC):
    """A model on a device."""

    def __init__(
        self,
        spec: ModelSpec,
        build: Callable[[], VideoAutoencoder],
        placement: Placement,
        options: EngineOptions | None = None,
    ) -> None:
        """`build` gives the network in fp32; it is called again if another number type fails."""
        self.spec = spec
        self.build = build
        self.placement = placement
        self.options = options or EngineOptions()
        self.network: Any = self.place(placement.dtype)
        self.fell_back = False  # to fp32, after a piece that was not finite

    @abstractmethod
    def encode_stream(
        self,
        batches: Iterable[FrameBatch],
        first_latent: int = 0,
        *,
        worthless: float | None = None,
        borrows: bool = False,
        lights: bool = False,
        keeps_means: bool = False,
        keeps_frames: bool = False,
    ) -> Iterator[LatentChunk]:
        """Latents of consecutive frames, a chunk of the grid at a time.

        With `worthless`, those of groups whose frames were moved onto one, and the fields to move them back:
        fewer bits, but they mean little without the fields. It is the error for which no vector is coded.
        With `borrows` as well, frames across a cut from those are left to the group beside (flow/borrow.py).
        With `lights` as well, frames whose light changes are evened out (flow/light.py), and borrow nothing.
        With `keeps_means` also what frames look like as they are encoded (engine/mirror.py), with
        `keeps_frames` the frames.
        """

    @abstractmethod
    def decode_stream(
        self,
        chunks: Iterable[LatentChunk],
        width: int,
        height: int,
        frames: range | None = None,
        *,
        depth: int = 8,
    ) -> Iterator[FrameBatch]:
        """Frames of consecutive chunks of the grid, cropped to the true size: those in `frames`, or all."""

    def place(self, dtype: torch.dtype) -> VideoAutoencoder:
        """The network on the device, computing in a number type."""
        self.dtype = dtype
        return self.build().to(self.placement.device).compute_in(dtype)

    def needed(self, frames: range, rows: int, columns: int) -> range:
        """The latent frames of a video that `decode_stream` must be given for these very frames of it."""
        shown = self.shown_latents(frames)
        return range(self.reaching(shown.start, rows, columns), self.needed_until(shown.stop))

    def shown_latents(self, frames: range) -> range:
        """The latent frames whose frames are decoded for these."""
        geometry = self.spec.geometry
        return range(geometry.latent_of(frames.start), geometry.latent_of(frames.stop - 1) + 1)

    def reaching(self, latent: int, rows: int, columns: int) -> int:
        """The first latent frame that reaches into the decoded frames of `latent`, and those after it."""
        chunk = self.spec.chunk_latents
        return max(0, latent - latent % chunk - -(-self.spec.decode_context // chunk) * chunk)

    def needed_until(self, latent: int) -> int:
        """Where what reaches into the decoded frames of those before `latent` ends."""
        return latent + self.spec.decode_ahead

    def describe(self) -> str:
        """What decides the last digits of a result: device, number type and tile."""
        tile = f" tile {self.options.tile_pixels}" if self.options.tile_pixels else ""
        compiled = " compiled" if self.options.is_compiled else ""
        return f"{self.placement.device.type} {self.placement.dtype_name}{tile}{compiled}"

    def pixels_to_network(self, rgb: np.ndarray) -> Tensor:
        """uint8 or uint16 (T, H, W, 3) → float (1, 3, T, H, W) in [-1, 1], channels last in memory."""
        x = to_device(rgb, self.placement.device).to(torch.float32).div_(np.iinfo(rgb.dtype).max / 2).sub_(1)
        return x.permute(3, 0, 1, 2)[None]


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on a device; to a GPU by way of pinned memory, without waiting for what it still computes.

    torch keeps pinned buffers for reuse, each only after its copy is done: two take turns.
    """
    x = torch.from_numpy(np.ascontiguousarray(array))
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def network_to_pixels(video: Tensor, depth: int) -> np.ndarray:
    """(1, 3, T, H, W) → uint8, or uint16 above 8 bits, (T, H, W, 3), rounded and clamped."""
    kind, largest = (torch.uint8, 255) if depth <= 8 else (torch.uint16, 65_535)
    x = video[0].permute(1, 2, 3, 0).float()
    x = x.add(1).mul_(largest / 2).round_().clamp_(0, largest)
    return x.to(kind).contiguous().cpu().numpy()


def is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
