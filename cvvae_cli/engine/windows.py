"""Windows in time and tiles in space, for models whose result depends on the window.

The default geometry gives the numbers of the authors' released inference: windows of 16 + 1 frames that share
one, tiles of 576 pixels that overlap by 2/9 and blend linearly. One window is in memory at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.engine.base import WHOLE_PICTURE, BaseEngine, is_finite, network_to_pixels, to_device
from cvvae_cli.engine.compiled import compiled, require_compiler
from cvvae_cli.engine.memory import require_memory
from cvvae_cli.engine.plan import pad_frames, plan_windows, tile_starts
from cvvae_cli.errors import ConfigError, NonFiniteError
from cvvae_cli.models.autoencoder import VideoAutoencoder, WindowedAutoencoder
from cvvae_cli.models.half3d import in_bands
from cvvae_cli.types import FrameBatch, LatentChunk, LatentGeometry, WindowGeometry

logger = logging.getLogger("cvvae")
MOST_POSITIONS = 2**13  # each way, of any picture
BAND_ROWS = 64  # of a layer computed at a time where a tile is the whole picture
Run = Callable[[Tensor], Tensor]


class WindowEngine(BaseEngine):
    """A windowed model on a device, with the geometry of its spec."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        assert self.spec.windows is not None
        self.windows: WindowGeometry = self.spec.windows

    def place(self, dtype: torch.dtype) -> VideoAutoencoder:
        network = super().place(dtype)
        is_whole = self.spec.windows is not None and self.spec.windows.tile == self.spec.windows.stride
        in_bands(network, BAND_ROWS if is_whole else None)  # layer by layer over the whole picture
        if self.options.is_compiled:
            assert isinstance(network, WindowedAutoencoder)
            require_compiler(self.placement.device)
            return compiled(network)
        return network

    @torch.inference_mode()
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

        `batches` start at the first frame of latent frame `first_latent`, a point of the chunk grid.
        Started in the middle, the first `encode_context` latent frames differ from those of the whole
        video: drop them.
        """
        group, geometry = self.spec.geometry.frames, self.windows
        blend = TimeBlend(geometry.overlap)
        number = -(-first_latent // geometry.step)  # of the window
        lacking = number * geometry.step + 1 - first_latent if number else 0  # those of the window before
        grid = ChunkGrid(self.spec.geometry, self.spec.chunk_latents, first_latent, lacking)
        frames = FrameBuffer(self.spec.geometry.frames_of(range(first_latent, first_latent + 1)).start)
        length = group * geometry.frames + 1
        is_first = True
        for batch in batches:
            frames.add(batch.rgb)
            grid.add_times(batch.pts)
            while frames.stop >= number * geometry.step * group + length:
                frames.drop_before(number * geometry.step * group)
                grid.add_latents(*blend.add(self._encode_window(frames.take(length), number, is_first)))
                number, is_first = number + 1, False
                yield from grid.full()
        frames.drop_before(number * geometry.step * group)
        if is_first or len(frames) > 1 + group * geometry.overlap:
            grid.add_latents(*blend.add(self._encode_window(frames.take(length), number, is_first)))
        grid.add_latents(*blend.rest())
        yield from grid.full()
        yield from grid.rest()

    def _encode_window(self, rgb: np.ndarray, number: int, is_first: bool) -> Tensor:
        """(T, H, W, 3) → latents (1, C, t, h, w), without the one that the window before has."""
        group, pixels = self.spec.geometry.frames, self.spec.geometry.pixels
        padded = pad_frames(rgb, 0, 1 + -(-(len(rgb) - 1) // group) * group, pixels)
        x = self.pixels_to_network(padded)
        if is_first:
            require_memory(self, x.shape[2], x.shape[3] // pixels, x.shape[4] // pixels)
        start = number * self.windows.step * group
        latents = self._finite(lambda: self._tiled(self.network.encode, x, pixels, 1), start, len(rgb))
        return latents if number == 0 else latents[:, :, 1:]

    @torch.inference_mode()
    def decode_stream(
        self,
        chunks: Iterable[LatentChunk],
        width: int,
        height: int,
        frames: range | None = None,
        *,
        depth: int = 8,
    ) -> Iterator[FrameBatch]:
        """Frames of consecutive chunks of the grid, cropped to the true size: those in `frames`, or all.

        Their pixels are those of the whole video if the chunks start at least `decode_context` latent frames
        before the first of them and end `decode_ahead` after the last, or with the video.
        """
        wanted = range(2**62) if frames is None else frames
        group, geometry = self.spec.geometry.frames, self.windows
        blend = TimeBlend(group * geometry.overlap)
        output: FrameQueue | None = None
        latents: np.ndarray | None = None
        begin = number = 0  # of the latents in memory; of the window
        for chunk in chunks:
            if latents is None or output is None:
                begin = self.spec.geometry.latent_of(chunk.frames.start)
                number = -(-begin // geometry.step)
                latents = chunk.latents
                output = FrameQueue(chunk.frames.start, wanted, depth)
                require_memory(self, group * geometry.frames + 1, *latents.shape[-2:])
            else:
                latents = np.concatenate([latents, chunk.latents], axis=1)
            output.add_times(chunk.pts)
            while begin + latents.shape[1] > number * geometry.step + geometry.frames:
                at = number * geometry.step - begin
                window = latents[:, at : at + geometry.frames + 1]
                yield from self._decode_window(window, number, blend, output, (width, height))
                number += 1
                drop = min(number * geometry.step - begin, latents.shape[1])
                latents, begin = latents[:, drop:], begin + drop
        if latents is None or output is None:
            return
        rest = latents[:, number * geometry.step - begin :]
        if number == 0 or rest.shape[1] > 1 + geometry.overlap:
            yield from self._decode_window(rest, number, blend, output, (width, height))
        yield from output.take(*blend.rest())

    def _decode_window(
        self,
        latents: np.ndarray,
        number: int,
        blend: TimeBlend,
        output: FrameQueue,
        size: tuple[int, int],
    ) -> Iterator[FrameBatch]:
        """The frames of a window that are wanted and no later window changes."""
        group = self.spec.geometry.frames
        start = number * self.windows.step * group
        frames = range(start, start + group * (latents.shape[1] - 1) + 1)
        if frames.stop <= output.wanted.start or frames.start + 1 >= output.wanted.stop:
            return
        z = to_device(latents, self.placement.device)[None]
        scale = self.spec.geometry.pixels
        video = self._finite(lambda: self._tiled(self.network.decode, z, 1, scale), start, len(frames))
        video = video[..., : size[1], : size[0]]
        yield from output.take(
            *blend.add(video if number == 0 else video[:, :, 1:], frames.start + (number > 0))
        )

    def _tiled(self, run: Run, x: Tensor, scale_in: int, scale_out: int) -> Tensor:
        """Apply `run` to a window tile by tile; scales are values per latent position."""
        return run_tiles(run, x, self.windows, scale_in, scale_out)

    def _finite(self, run: Callable[[], Tensor], start: int, frames: int) -> Tensor:
        """Run a window; if it is not finite, go on in fp32; raise NonFiniteError if that does not help."""
        y = run()
        if is_finite(y):
            return y
        if self.dtype != torch.float32:
            self.network = self.place(torch.float32)
            self.fell_back = True
            logger.warning("frames from %d on are computed in fp32: NaN or infinity before", start)
            y = run()
            if is_finite(y):
                return y
        raise NonFiniteError(
            f"the network gave NaN or infinity in frames {start} to {start + frames - 1}, in fp32 too",
            hint="check the source there, and the weights",
        )


def run_tiles(run: Run, x: Tensor, geometry: WindowGeometry, scale_in: int, scale_out: int) -> Tensor:
    """(1, C, T, H, W) → (1, C', T', H', W'): tiles blended linearly, first with the one above, then left.

    Of finished tiles only the strips that a later one needs stay in memory.
    """
    height, width = x.shape[3] // scale_in, x.shape[4] // scale_in
    rows, columns = (tile_starts(n, geometry.tile, geometry.stride) for n in (height, width))
    if len(rows) == len(columns) == 1:
        return run(x)
    overlap, keep = ((geometry.tile - geometry.stride) * scale_out, geometry.stride * scale_out)
    out: Tensor | None = None
    above: dict[int, Tensor] = {}
    for top in rows:
        left: Tensor | None = None
        for at in columns:
            down, across = (slice(n * scale_in, (n + geometry.tile) * scale_in) for n in (top, at))
            y = run(x[..., down, across])
            if out is None:
                size = (*y.shape[:3], height * scale_out, width * scale_out)
                out = y.new_empty(size)
            if top > 0:
                blend_into(y, above[at], overlap, 3)
            if left is not None:
                blend_into(y, left, overlap, 4)
            above[at], left = y[..., keep:, :].clone(), y[..., keep:].clone()
            bottom = y.shape[3] if top == rows[-1] else keep
            right = y.shape[4] if at == columns[-1] else keep
            y0, x0 = top * scale_out, at * scale_out
            out[..., y0 : y0 + bottom, x0 : x0 + right] = y[..., :bottom, :right]
    assert out is not None
    return out


def blend_into(tile: Tensor, before: Tensor, overlap: int, axis: int) -> None:
    """Mix the strip of the tile before into the first `overlap` rows or columns of a tile, in place."""
    extent = min(overlap, tile.shape[axis], before.shape[axis])
    weight = torch.arange(extent, device=tile.device, dtype=tile.dtype) / extent
    weight = weight.view([-1 if n == axis else 1 for n in range(5)])
    part = tile.narrow(axis, 0, extent)
    part.copy_(torch.lerp(before.narrow(axis, 0, extent), part, weight))


def encode_tensor(run: Run, video: Tensor, windows: WindowGeometry, geometry: LatentGeometry) -> Tensor:
    """A whole video (1, 3, 1 + 4n, 8h, 8w) → latents or moments (1, C, 1 + n, h, w), window by window."""
    group, pixels = geometry.frames, geometry.pixels
    blend = TimeBlend(windows.overlap)
    parts = []
    for number, latents in enumerate(plan_windows(geometry.num_latents(video.shape[2]), windows)):
        x = video[:, :, latents.start * group : (latents.stop - 1) * group + 1]
        y = run_tiles(run, x, windows, pixels, 1)
        parts.append(blend.add(y if number == 0 else y[:, :, 1:])[0])
    parts.append(blend.rest()[0])
    return torch.cat([part for part in parts if part is not None], dim=2)


def decode_tensor(run: Run, latents: Tensor, windows: WindowGeometry, geometry: LatentGeometry) -> Tensor:
    """Latents (1, C, 1 + n, h, w) → the whole video (1, 3, 1 + 4n, 8h, 8w), window by window."""
    blend = TimeBlend(windows.overlap * geometry.frames)
    parts = []
    for number, part in enumerate(plan_windows(latents.shape[2], windows)):
        y = run_tiles(run, latents[:, :, part.start : part.stop], windows, 1, geometry.pixels)
        parts.append(blend.add(y if number == 0 else y[:, :, 1:])[0])
    parts.append(blend.rest()[0])
    return torch.cat([part for part in parts if part is not None], dim=2)


class TimeBlend:
    """Joins windows (1, C, n, h, w) that share `shared` frames (or latent frames) in time."""

    def __init__(self, shared: int) -> None:
        self.shared = shared
        self._tail: Tensor | None = None
        self._start = 0

    def add(self, piece: Tensor, start: int = 0) -> tuple[Tensor | None, int]:
        """The next window, whose first frame stands at `start`: what of it no later one changes."""
        if self._tail is not None:
            shared = self._tail.shape[2]
            weight = torch.arange(1, shared + 1, device=piece.device, dtype=piece.dtype) / (shared + 1)
            mixed = torch.lerp(self._tail, piece[:, :, :shared], weight.view(-1, 1, 1))
            piece = torch.cat([mixed, piece[:, :, shared:]], dim=2)
        if not self.shared:
            return piece, start
        keep = max(0, piece.shape[2] - self.shared)
        self._tail, self._start = piece[:, :, keep:].clone(), start + keep
        return piece[:, :, :keep], start

    def rest(self) -> tuple[Tensor | None, int]:
        """What is left at the end."""
        tail, self._tail = self._tail, None
        return tail, self._start


class FrameBuffer:
    """Frames that windows still need."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._frames: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def stop(self) -> int:
        return self.start + len(self._frames)

    def add(self, rgb: np.ndarray) -> None:
        self._frames.extend(rgb)

    def drop_before(self, frame: int) -> None:
        count = max(0, min(frame - self.start, len(self._frames)))
        del self._frames[:count]
        self.start += count

    def take(self, most: int) -> np.ndarray:
        """At most so many of the first frames; they stay."""
        return np.stack(self._frames[:most])


class ChunkGrid:
    """Latents and times on their way into chunks."""

    def __init__(self, geometry: LatentGeometry, chunk: int, first_latent: int, lacking: int) -> None:
        """`lacking`: latent frames from `first_latent` on that nobody gives; they repeat the first given."""
        self.geometry, self.chunk = geometry, chunk
        self.latent = first_latent
        self.lacking = lacking
        self._pts: list[int] = []
        self._latents: np.ndarray | None = None

    def add_times(self, pts: np.ndarray) -> None:
        self._pts.extend(pts.tolist())

    def add_latents(self, piece: Tensor | None, _: int) -> None:
        if piece is None or not piece.shape[2]:
            return
        latents = piece[0].float().cpu().numpy()
        if self.lacking:
            repeats = np.repeat(latents[:, :1], self.lacking, axis=1)
            latents, self.lacking = np.concatenate([repeats, latents], axis=1), 0
        old = [] if self._latents is None else [self._latents]
        self._latents = np.concatenate([*old, latents], axis=1)

    def full(self) -> Iterator[LatentChunk]:
        """Chunks that are whole."""
        while self._latents is not None and self._latents.shape[1] >= self.chunk:
            frames = self.geometry.frames_of(range(self.latent, self.latent + self.chunk))
            if len(self._pts) < len(frames):
                return
            yield self._emit(self.chunk, frames)

    def rest(self) -> Iterator[LatentChunk]:
        """The last, shorter one; groups that the video does not fill count as far as it goes."""
        if self._latents is not None and self._latents.shape[1] and self._pts:
            start = self.geometry.frames_of(range(self.latent, self.latent + 1)).start
            yield self._emit(self._latents.shape[1], range(start, start + len(self._pts)))

    def _emit(self, count: int, frames: range) -> LatentChunk:
        assert self._latents is not None
        latents, self._latents = self._latents[:, :count], self._latents[:, count:]
        pts, self._pts = self._pts[: len(frames)], self._pts[len(frames) :]
        self.latent += count
        return LatentChunk(np.ascontiguousarray(latents), frames, np.array(pts, np.int64))


class FrameQueue:
    """Gives decoded frames their times, and those out that are wanted."""

    def __init__(self, start: int, wanted: range, depth: int) -> None:
        self.start, self.wanted, self.depth = start, wanted, depth
        self._pts: list[int] = []

    def add_times(self, pts: np.ndarray) -> None:
        self._pts.extend(pts.tolist())

    def take(self, video: Tensor | None, first: int) -> Iterator[FrameBatch]:
        """Of (1, 3, T, H, W) that begins with frame `first`; repeats after the video's end are dropped."""
        if video is None or not video.shape[2]:
            return
        stop = min(first + video.shape[2], self.start + len(self._pts), self.wanted.stop)
        keep = range(max(first, self.wanted.start, self.start), stop)
        if keep:
            part = video[:, :, keep.start - first : keep.stop - first]
            pts = self._pts[keep.start - self.start : keep.stop - self.start]
            yield FrameBatch(network_to_pixels(part, self.depth), np.array(pts, np.int64))


def geometry_for(
    default: WindowGeometry, tile_pixels: int | None, temporal_overlap: int, group: int, pixels: int
) -> WindowGeometry:
    """The geometry that options ask for. Raises ConfigError for one that cannot be."""
    tile, stride = default.tile, default.stride
    if tile_pixels == WHOLE_PICTURE:
        tile = stride = MOST_POSITIONS
    elif tile_pixels is not None:
        tile = tile_pixels // pixels
        stride = max(1, round(tile * default.stride / default.tile))
    if temporal_overlap % group or not 0 <= temporal_overlap < group * default.frames:
        most = group * (default.frames - 1)
        raise ConfigError(
            f"windows cannot share {temporal_overlap} more frames",
            hint=f"pass a multiple of {group}, at most {most}",
        )
    return WindowGeometry(default.frames, temporal_overlap // group, tile, stride)
