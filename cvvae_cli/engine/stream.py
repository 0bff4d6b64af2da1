"""Frames to latents and back as streams: one chunk in memory at a time, whatever the length.

The network sees a few latent frames at a time, a *group*: its length follows from the size of the picture
and the kind of device alone, and groups are anchored at latent 0. So the same kernels see the same shapes
wherever a job starts, and its results are the same to the last bit on one machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.engine import mirror
from cvvae_cli.engine.base import (
    WHOLE_PICTURE,
    BaseEngine,
    EngineOptions,
    is_finite,
    network_to_pixels,
    to_device,
)
from cvvae_cli.engine.borders import Borders
from cvvae_cli.engine.borrowing import Borrowing
from cvvae_cli.engine.correcting import corrected
from cvvae_cli.engine.device import keep_freed_memory
from cvvae_cli.engine.joints import Joints, Shown
from cvvae_cli.engine.memory import CORRECTED, DECODING, ENCODING, MIRRORED, require_memory_for_chunk
from cvvae_cli.engine.plan import EVERYTHING, Tile, group_latents, pad_frames, plan_tiles, regroup
from cvvae_cli.engine.refining import Refining
from cvvae_cli.engine.tiles import TiledRunner
from cvvae_cli.errors import NonFiniteError
from cvvae_cli.flow import align
from cvvae_cli.flow.border import Size
from cvvae_cli.flow.field import OTHERS, SECOND
from cvvae_cli.flow.light import dimmed, evened, find_light, stand_ins
from cvvae_cli.models.autoencoder import StreamingAutoencoder, VideoAutoencoder
from cvvae_cli.models.layers import Memory
from cvvae_cli.models.refiner import Refiner
from cvvae_cli.types import Correction, FrameBatch, LatentChunk

logger = logging.getLogger("cvvae")
LARGEST_WHOLE_PICTURE = 1920 * 1088  # pixels; above, the picture is tiled
DEFAULT_TILE_PIXELS = 1024
BUSY_POSITIONS = 4096  # latent positions of a group that keep a CPU busy (`make benchmark`)


@dataclass(frozen=True)
class Decoding:
    """What a decode remembers from chunk to chunk."""

    runner: TiledRunner
    refining: Refining | None
    borders: Borders | None
    joints: Joints | None

    def copy(self) -> Decoding:
        """The same, to decode the pictures of a chunk more than once; joints come after those."""
        return replace(
            self,
            runner=self.runner.copy(),
            refining=self.refining and self.refining.copy(),
            borders=self.borders and self.borders.copy(),
        )


class Engine(BaseEngine):
    """A streaming model on a device. `encode_stream` and `decode_stream` are independent of each other."""

    def place(self, dtype: torch.dtype) -> VideoAutoencoder:
        if self.placement.device.type == "cpu":
            keep_freed_memory()  # not for windowed models, whose large layers would leave holes of gigabytes
        return super().place(dtype)

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
        video, with `borrows` one more: drop them.
        """
        geometry, chunk = self.spec.geometry, self.spec.chunk_latents
        runner: TiledRunner | None = None
        latent = first_latent
        before: Tensor | None = None  # the last frame of the chunk before
        for batch in regroup(batches, geometry, chunk, first_latent):
            height, width = geometry.latent_size(batch.rgb.shape[2], batch.rgb.shape[1])
            start = geometry.frames_of(range(latent, latent + chunk)).start
            count = geometry.num_latents(start + len(batch)) - latent
            if runner is None:
                each = CORRECTED if keeps_frames else MIRRORED if keeps_means else ENCODING
                require_memory_for_chunk(self, each, count, batch.rgb.shape[1:3])
                runner = self._runner(self._encode, height, width, geometry.pixels, 1, self.spec.encode_halo)
            latents = range(latent, latent + count)
            light = find_light(batch.rgb) if lights and worthless is not None else None
            borrowing = None
            if borrows and worthless is not None and light is None:
                borrowing = Borrowing(worthless, count, before)
            yield self._encoded(
                runner,
                batch,
                latents,
                worthless,
                borrowing,
                light,
                keeps_means=keeps_means,
                keeps_frames=keeps_frames,
            )
            before = self._frame(batch.rgb[-1:]) if borrows else None
            latent += count

    def _encoded(
        self,
        runner: TiledRunner,
        batch: FrameBatch,
        numbers: range,
        worthless: float | None,
        borrowing: Borrowing | None,
        light: np.ndarray | None,
        *,
        keeps_means: bool,
        keeps_frames: bool,
    ) -> LatentChunk:
        """The frames of a chunk as latent frames of those numbers: see `encode_stream`."""
        geometry = self.spec.geometry
        start = geometry.frames_of(numbers).start
        frames, count = range(start, start + len(batch)), len(numbers)
        group = self._group(*geometry.latent_size(batch.rgb.shape[2], batch.rgb.shape[1]))
        step = geometry.frames * group
        repeats = geometry.frames - 1 if numbers.start == 0 else 0
        rgb = pad_frames(batch.rgb, repeats, step * -(-count // group), geometry.pixels)
        if light is not None:
            every = np.pad(light, [(repeats, len(rgb) - repeats - len(light)), (0, 0)], mode="edge")
            standing = stand_ins(every)
        parts, fields, means, spreads = [], [], [], []
        shown = mirror.shown(frames)
        for at in range(0, len(rgb), step):
            if light is None:
                x = self.pixels_to_network(rgb[at : at + step])
            else:
                these = standing[at : at + step]
                x = evened(self.pixels_to_network(rgb[these]), every[these])
            if borrowing is not None:
                x = borrowing(x, self._frame(rgb[at + step : at + step + 1]))
            if worthless is not None:
                x, found = align.align(x, worthless, is_filled=self.spec.fills_borders)
                if borrowing is not None:
                    borrowing.rest(x, found)
                fields.append(found)
            if keeps_means and shown:
                means.append(mirror.means(x, shown[:group]).cpu().numpy())
                spreads.append(mirror.spreads(x, shown[:group]).cpu().numpy())
                del shown[:group]
            parts.append(self._finite(runner, x, frames)[0].float().cpu())
        latents = torch.cat(parts, dim=1)[:, :count].numpy()
        moved = np.concatenate(fields)[:count] if fields else None
        if moved is not None and frames.stop > 1:
            last = geometry.frames_of(numbers[-1:])
            moved[-1] = align.end_after(frames.stop - last.start, moved[-1])
        seen, apart = (np.concatenate(each) if each else None for each in (means, spreads))
        kept = batch.rgb if keeps_frames else None
        taken = {} if borrowing is None else borrowing.found
        return LatentChunk(latents, frames, batch.pts, moved, taken, light, seen, apart, rgb=kept)

    def _frame(self, rgb: np.ndarray) -> Tensor | None:
        """The first of frames (T, H, W, 3) as the network sees them, (3, H, W), if there is one."""
        if not len(rgb):
            return None
        padded = pad_frames(rgb[:1], 0, 1, self.spec.geometry.pixels)
        return self.pixels_to_network(padded)[0, :, 0]

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

        With `frames`, only what reaches into them is computed. Their pixels are those of the whole video
        if the chunks start at or before the latent frame that `reaching` says. They are uint16
        at full scale if `depth` is above 8 bits, else uint8.
        """
        wanted = EVERYTHING if frames is None else frames
        corrections: dict[int, Correction] = {}

        def noticed() -> Iterator[LatentChunk]:
            for chunk in chunks:
                corrections.update(chunk.corrections or {})
                yield chunk

        for shown in self._joined(noticed(), wanted, (height, width)):
            part = shown.part(wanted)
            if part.frames:
                video = corrected(part, corrections)
                yield FrameBatch(network_to_pixels(video[..., :height, :width], depth), part.pts)
            for frame in shown.frames:
                corrections.pop(frame, None)

    def _joined(self, chunks: Iterable[LatentChunk], wanted: range, size: Size) -> Iterator[Shown]:
        """Frames, piece by piece; with a joiner, those where groups meet have learnt from each other."""
        decoding: Decoding | None = None
        for chunk in chunks:
            if decoding is None:
                require_memory_for_chunk(self, DECODING, chunk.latents.shape[1], size)
                decoding = self.decoding(chunk, size)
            pictures = self.pictures(decoding, chunk, self.shown_latents(wanted))
            yield from self.joined(decoding, self.restored(decoding, chunk, pictures), wanted)
        if decoding is not None and decoding.joints is not None:
            yield from decoding.joints.end()

    def unjoined(self, chunks: Iterable[LatentChunk], size: Size) -> Iterator[Shown]:
        """Frames of consecutive chunks before they are joined, piece by piece."""
        decoding: Decoding | None = None
        for chunk in chunks:
            decoding = decoding or self.decoding(chunk, size)
            yield from self.restored(decoding, chunk, self.pictures(decoding, chunk, EVERYTHING))

    def decoding(self, chunk: LatentChunk, size: Size | None = None) -> Decoding:
        """The beginning of a decode of chunks like one.

        `size`: rows and columns of the true picture; needed for what comes after `pictures`.
        """
        rows, columns = chunk.latents.shape[-2:]
        pixels, halo = self.spec.geometry.pixels, self.spec.decode_halo
        refiner: Refiner | None = self.network.refiner
        joiner: Refiner | None = self.network.joiner

        def tiles(part: Refiner) -> list[Tile]:
            return self._tiles(rows, columns, -(-part.halo // pixels))

        return Decoding(
            self._runner(self._decode, rows, columns, 1, pixels, halo),
            None if refiner is None else Refining(tiles(refiner)),
            self._borders(size) if self.spec.fills_borders and size is not None else None,
            None if joiner is None else Joints(tiles(joiner)),
        )

    def _borders(self, size: Size) -> Borders:
        return Borders(size, self.spec.period if self.spec.keeps_opaque else None)

    def pictures(
        self, decoding: Decoding, chunk: LatentChunk, wanted: range, *, refines: bool = True
    ) -> Iterator[tuple[int, Tensor]]:
        """Of the wanted latent frames of a chunk: (1, 3, 4n, H, W) as they are decoded, piece by piece, and
        where in the chunk each begins. With `refines=False`, as the network gives them."""
        first = self.spec.geometry.latent_of(chunk.frames.start)
        decoded = self._decoded(decoding.runner, chunk, wanted)
        if decoding.borders is not None:
            decoded = decoding.borders.noticing(chunk, first, decoded)
        if decoding.refining is None:
            return decoded
        if not refines:
            return decoding.refining.passing(chunk, decoded)
        of_chunk = range(wanted.start - first, wanted.stop - first)
        return decoding.refining(self.network.refiner, chunk, decoded, of_chunk)

    def restored(
        self, decoding: Decoding, chunk: LatentChunk, pictures: Iterable[tuple[int, Tensor]]
    ) -> Iterator[Shown]:
        """The frames that pictures of a chunk stand for, with its detail, where they were."""
        geometry, borders = self.spec.geometry, decoding.borders
        first = geometry.latent_of(chunk.frames.start)
        for at, video in pictures:
            count = video.shape[2] // geometry.frames
            if chunk.detail is not None:
                video = mirror.added(video, chunk.detail, slice(at, at + count))
            opaque = None
            if borders is not None:
                borders.paint(chunk, first)
                video = borders.restored(first + at, video)
                opaque = borders.opaque(first + at, video)
            elif chunk.fields is not None:
                video = align.restore(video, chunk.fields[at : at + count])
            of_piece = geometry.frames_of(range(first + at, first + at + count))
            begin = of_piece.stop - geometry.frames * count  # below 0 in the first piece of a video
            frames = range(of_piece.start, min(chunk.frames.stop, of_piece.stop))
            pts = chunk.pts[frames.start - chunk.frames.start : frames.stop - chunk.frames.start]
            shown = slice(frames.start - begin, frames.stop - begin)
            seen = video[:, :, shown]
            if chunk.light is not None:
                at_frame = frames.start - chunk.frames.start
                seen = dimmed(seen, chunk.light[at_frame : at_frame + len(frames)])
            borrowed = {
                begin + geometry.frames * (latent - at) + OTHERS[part]: vectors
                for (latent, part), vectors in chunk.borrowed.items()
                if at <= latent < at + count
            }
            kept = None if opaque is None else opaque[:, :, shown]
            yield Shown(frames, seen, pts, chunk.level, borrowed, kept)
        if borders is not None:  # for the chunk after
            borders.paint(chunk, first)

    def joined(self, decoding: Decoding, groups: Iterable[Shown], wanted: range) -> Iterator[Shown]:
        """Restored frames, the last of each group after those at the ends of groups that meet were joined."""
        for group in groups:
            if decoding.joints is None:
                yield group
            else:
                yield from decoding.joints(self.network.joiner, group, wanted)

    def _decoded(
        self, runner: TiledRunner, chunk: LatentChunk, wanted: range
    ) -> Iterator[tuple[int, Tensor]]:
        """What the network makes of a chunk, group by group, (1, 3, T, H, W), and where in it each begins.

        What does not reach the wanted latent frames, or those beside them, is skipped.
        """
        geometry = self.spec.geometry
        size = chunk.latents.shape[-2:]
        group = self._group(*size)
        first = geometry.latent_of(chunk.frames.start)
        start = self._seen_from(wanted.start)
        start -= start % group  # of the group to decode first
        reaching = self.reaching(wanted.start, *size)
        for at in range(0, chunk.latents.shape[1], group):
            of_group = geometry.frames_of(range(first + at, first + at + group))
            to_go = start - first - at
            if first + at >= self.needed_until(wanted.stop) or first + at < reaching:
                continue
            x = self._latents_to_network(chunk.latents[:, at : at + group], group)
            if to_go > 0:
                self._prime(runner, x, to_go, of_group)
                continue
            count = len(chunk.latents[0, at : at + group])
            yield at, self._finite(runner, x, of_group)[:, :, : geometry.frames * count]

    def reaching(self, latent: int, rows: int, columns: int) -> int:
        group = self._group(rows, columns)
        latent = self._seen_from(latent)
        return max(0, latent - latent % group - -(-self.spec.decode_context // group) * group)

    def needed_until(self, latent: int) -> int:
        return latent + (self.network.refiner is not None and latent % self.spec.chunk_latents > 0)

    def shown_latents(self, frames: range) -> range:
        """With a joiner also those that end where these begin, or begin where these end.

        What is borrowed may be of the same, or, of the second frame of a group, of the group before.
        """
        latents = super().shown_latents(frames)
        if self.network.joiner is None:
            return latents
        whole = self.spec.geometry.frames_of(latents)
        reaches_back = latents.start > 0 and frames.start <= whole.start + SECOND * self.spec.borrows
        return range(latents.start - reaches_back, latents.stop + (frames.stop == whole.stop))

    def _seen_from(self, latent: int) -> int:
        """The first latent frame whose pictures reach into those of one."""
        refiner: Refiner | None = self.network.refiner
        is_refined = refiner is not None and (refiner.across or latent % self.spec.chunk_latents > 0)
        return max(0, latent - (self.spec.fills_borders or is_refined))

    def _group(self, rows: int, columns: int) -> int:
        """Latent frames that the network sees at a time."""
        chunk = self.spec.chunk_latents
        if self.placement.device.type != "cpu":
            return chunk
        return group_latents(rows * columns, chunk, BUSY_POSITIONS)

    def _latents_to_network(self, latents: np.ndarray, group: int) -> Tensor:
        """float32 (C, t, h, w) → (1, C, group, h, w) on the device, the last repeated."""
        x = to_device(latents, self.placement.device)[None]
        missing = group - x.shape[2]
        if missing:  # causal: what is repeated after the end changes nothing before it
            x = torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
        return x.contiguous(memory_format=torch.channels_last_3d)

    def _runner(
        self,
        run: Callable[[Tensor, Memory], Tensor],
        height: int,
        width: int,
        scale_in: int,
        scale_out: int,
        halo: int,
    ) -> TiledRunner:
        return TiledRunner(run, self._tiles(height, width, halo), scale_in, scale_out)

    def _tiles(self, height: int, width: int, halo: int) -> list[Tile]:
        tile = tile_latents(self.options, height, width, self.spec.geometry.pixels)
        return plan_tiles(height, width, tile, halo)

    def _encode(self, x: Tensor, memory: Memory) -> Tensor:
        return self.network.encode_groups(x, memory)

    def _decode(self, x: Tensor, memory: Memory) -> Tensor:
        return self.network.decode_groups(x, memory)

    def _prime(self, runner: TiledRunner, x: Tensor, to_go: int, frames: range) -> None:
        """Bring the memory of a decoder up to the end of a group whose frames nobody wants."""

        def prime(latents: Tensor, memory: Memory) -> Tensor:
            return self.network.prime_decode(latents, memory, to_go)

        self._finite(runner, x, frames, lambda x: runner.prime(x, prime))

    def _finite(
        self, runner: TiledRunner, x: Tensor, frames: range, run: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Run a group; if it is not finite, go on in fp32; raise NonFiniteError if that does not help."""
        run = run or runner
        before = runner.snapshot()
        y = run(x)
        if is_finite(y):
            return y
        if self.dtype != torch.float32:
            old = self.network
            self.network = self.place(torch.float32)
            self.fell_back = True
            logger.warning("frames from %d on are computed in fp32: NaN or infinity before", frames.start)
            runner.memories = [carry_over(memory, old, self.network) for memory in before]
            y = run(x)
            if is_finite(y):
                return y
        raise NonFiniteError(
            f"the network gave NaN or infinity in frames {frames.start} to {frames.stop - 1}, in fp32 too",
            hint="check the source there, and the weights",
        )


def tile_latents(options: EngineOptions, height: int, width: int, pixels: int) -> int | None:
    """Largest side of a tile in latent positions; None: the whole picture at once."""
    if options.tile_pixels == WHOLE_PICTURE:
        return None
    if options.tile_pixels is not None:
        return max(1, options.tile_pixels // pixels)
    is_small = height * width * pixels**2 <= LARGEST_WHOLE_PICTURE
    return None if is_small else DEFAULT_TILE_PIXELS // pixels


def carry_over(memory: Memory, old: StreamingAutoencoder, new: StreamingAutoencoder) -> Memory:
    """The memory of one copy of a network for another copy, which computes in fp32."""
    twins = dict(zip(old.modules(), new.modules(), strict=True))
    return {twins[module]: state.float() for module, state in memory.items()}
