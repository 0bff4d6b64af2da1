"""The hall: video → frames → latents → symbols → file, and back. The only module that knows all rooms."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from cvvae_cli import output as outputs
from cvvae_cli.bitstream.chunk import ChunkCoder
from cvvae_cli.bitstream.coders import ENTROPY_CODERS, ContextTables
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.container.fingerprint import fingerprint, hash_file
from cvvae_cli.container.header import Header
from cvvae_cli.container.reader import CvlReader, open_cvl
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.engine.device import Placement, choose_placement
from cvvae_cli.engine.stream import Engine, EngineOptions
from cvvae_cli.errors import (
    ConfigError,
    CorruptFileError,
    UnsupportedFormatError,
    WeightsError,
)
from cvvae_cli.models.registry import ModelSpec, Weights, find_model
from cvvae_cli.options import DecodeOptions, DecodeReport, EncodeOptions, EncodeReport
from cvvae_cli.types import (
    ColorInfo,
    FrameBatch,
    LatentChunk,
    OnProgress,
    Progress,
    VideoInfo,
    ignore_progress,
)
from cvvae_cli.video.reader import FolderReader, VideoReader, open_source
from cvvae_cli.video.sidestreams import SideReader, SideWriter
from cvvae_cli.video.writer import (
    PICTURES,
    VideoWriter,
    require_known_output,
    write_picture,
)

logger = logging.getLogger("cvvae")


def encode_file(
    source: Path,
    output: Path,
    options: EncodeOptions | None = None,
    *,
    on_progress: OnProgress = ignore_progress,
) -> EncodeReport:
    """Compress a video, a picture or a frame folder into a .cvl file.

    Nothing appears under `output` unless all of it succeeds. Raises a CvvaeError.
    """
    options = options or EncodeOptions()
    began = time.monotonic()
    outputs.require_writable(output, (source,), force=options.force)
    spec = find_model(options.model)
    placement = choose_placement(options.device, options.dtype)
    with open_source(source, options.frame_rate) as video:
        weights = Weights(spec)
        header = header_for(video, source, spec, weights, options)
        engine = Engine(spec, weights.build, placement, EngineOptions(options.tile_pixels))
        with (
            outputs.replace_on_success(output, force=options.force) as part,
            part.open("wb") as file,
            CvlWriter(file, header) as cvl,
        ):
            write_latents(cvl, video, engine, weights, options, on_progress)
    seconds = time.monotonic() - began
    return encode_report(source, header, cvl, engine, seconds)


def write_latents(
    cvl: CvlWriter,
    video: VideoReader | FolderReader,
    engine: Engine,
    weights: Weights,
    options: EncodeOptions,
    on_progress: OnProgress,
) -> None:
    """The main loop of encoding: every chunk of latents, and the audio met on the way."""
    quantizer, coder = Quantizer(weights.gain()), chunk_coder(cvl.header, weights)
    side = None
    if options.audio and isinstance(video, VideoReader) and video.audio is not None:
        side = SideWriter(video.audio)
        video.listen(side.add)
    for chunk in engine.encode_stream(video):
        symbols = quantizer.quantize(chunk.latents)
        cvl.write_chunk(len(symbols), chunk.pts.tolist(), coder.encode(cvl.num_latents, symbols))
        if side:
            cvl.write_side(side.take())
        rate = bits_per_pixel(cvl.bytes_written - cvl.side_bytes, cvl.num_frames, cvl.header.size)
        on_progress(Progress(cvl.num_frames, video.info.num_frames, rate))
    if side:
        cvl.write_side(side.finish())


def chunk_coder(header: Header, weights: Weights) -> ChunkCoder:
    """The entropy coder that a header names, with the tables of the model."""
    kind = ENTROPY_CODERS.get(header.coder)
    if kind is None:
        raise UnsupportedFormatError(
            f"the file uses the coder {header.coder!r}, which this program does not know",
            hint="install a newer cvvae",
        )
    return ChunkCoder(kind(ContextTables.from_tensors(weights.arrays)), header.period)


def header_for(
    video: VideoReader | FolderReader, source: Path, spec: ModelSpec, weights: Weights, options: EncodeOptions
) -> Header:
    info, geometry = video.info, spec.geometry
    depends_on = {
        "model": spec.name,
        "audio": options.audio,
        "rate": str(options.frame_rate) if options.frame_rate else None,
    }
    full = info.color.is_full_range
    return Header(
        model=spec.name,
        weights=weights.sha256,
        size=(info.width, info.height),
        latent=(geometry.channels, geometry.frames, geometry.pixels),
        chunk=spec.chunk_latents,
        context=(spec.encode_context, spec.decode_context),
        coder=spec.coder,
        period=spec.period,
        level=None,
        time_base=info.time_base.as_integer_ratio(),
        rate=info.frame_rate.as_integer_ratio(),
        color=(
            info.color.primaries,
            info.color.transfer,
            info.color.matrix,
            None if full is None else int(full),
        ),
        rotation=info.rotation,
        source=None if str(source) == "-" else fingerprint(hash_file(source), weights.sha256, depends_on),
    )


def encode_report(
    source: Path, header: Header, cvl: CvlWriter, engine: Engine, seconds: float
) -> EncodeReport:
    width, height = header.size
    video_bytes = cvl.bytes_written - cvl.side_bytes
    return EncodeReport(
        frames=cvl.num_frames,
        width=width,
        height=height,
        input_bytes=source_bytes(source),
        output_bytes=cvl.bytes_written,
        video_bytes=video_bytes,
        side_bytes=cvl.side_bytes,
        bits_per_pixel=bits_per_pixel(video_bytes, cvl.num_frames, header.size),
        seconds=seconds,
        encode_fps=cvl.num_frames / seconds,
        peak_memory_bytes=peak_memory_bytes(engine.placement),
        model=header.model,
        weights_sha256=header.weights,
        quality=header.level,
        device=str(engine.placement.device),
        dtype=engine.placement.dtype_name,
    )


def bits_per_pixel(video_bytes: int, frames: int, size: tuple[int, int]) -> float:
    """Bits per pixel of the true picture; padding is not counted."""
    return video_bytes * 8 / (frames * size[0] * size[1])


def source_bytes(source: Path) -> int | None:
    if str(source) == "-":
        return None
    if source.is_dir():
        return sum(p.stat().st_size for p in source.iterdir() if p.is_file())
    return source.stat().st_size


def peak_memory_bytes(placement: Placement) -> int:
    """Most memory this process has held: of the GPU where it runs there, else of the machine."""
    if placement.device.type == "cuda":
        return torch.cuda.max_memory_allocated(placement.device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def decode_file(
    source: Path,
    output: Path,
    options: DecodeOptions | None = None,
    *,
    on_progress: OnProgress = ignore_progress,
) -> DecodeReport:
    """Turn a .cvl file back into a video, or into a picture if it holds one frame. Raises a CvvaeError."""
    options = options or DecodeOptions()
    began = time.monotonic()
    outputs.require_writable(output, (source,), force=options.force)
    with open_cvl(source, allow_partial=options.allow_partial) as cvl:
        if cvl.is_cut:
            logger.warning("%s was cut; its first %d frames are decoded", source, cvl.num_frames)
        frames = choose_frames(cvl, options)
        require_known_output(output, len(frames))
        spec, weights = model_of(cvl.header)
        placement = choose_placement(options.device, options.dtype)
        engine = Engine(spec, weights.build, placement, EngineOptions(options.tile_pixels))
        batches = watched(decode_frames(cvl, weights, engine, frames), len(frames), on_progress)
        info = info_of(cvl)
        with outputs.replace_on_success(output, force=options.force) as part:
            if output.suffix.lower() in PICTURES:
                write_picture(part, output, info, batches)
            else:
                start, stop = time_span(cvl, frames)
                end = None if stop is None else stop * info.time_base
                side = open_side(cvl, source, start * info.time_base, end) if options.audio else None
                with VideoWriter(part, output, info, options.output, side) as video:
                    for batch in batches:
                        video.write(FrameBatch(batch.rgb, batch.pts - start))
            output_bytes = part.stat().st_size
    seconds = time.monotonic() - began
    return DecodeReport(
        frames=len(frames),
        width=info.width,
        height=info.height,
        output_bytes=output_bytes,
        seconds=seconds,
        decode_fps=len(frames) / seconds,
        peak_memory_bytes=peak_memory_bytes(placement),
        device=str(placement.device),
        dtype=placement.dtype_name,
    )


def model_of(header: Header) -> tuple[ModelSpec, Weights]:
    """The model and the very weights that a file was encoded with, run on the file's own chunk grid."""
    spec = find_model(header.model)
    if header.weights != spec.weights_sha256:
        raise WeightsError(
            f"the file was encoded with other weights of {spec.name} ({header.weights[:12]}…, "
            f"these are {spec.weights_sha256[:12]}…)",
            hint="decode it with the version of cvvae that made it",
        )
    if header.geometry != spec.geometry:
        raise CorruptFileError(f"the header's geometry is not that of {spec.name}")
    return replace(spec, chunk_latents=header.chunk), Weights(spec)


def read_latents(cvl: CvlReader, weights: Weights, chunks: range | None = None) -> Iterator[LatentChunk]:
    """The dequantised latents of consecutive chunks, by default of all.

    The entropy coder starts at the last point before them where it is fresh.
    """
    header = cvl.header
    chunks = range(len(cvl.index)) if chunks is None else chunks
    fresh = chunks.start - chunks.start % (header.period // header.chunk)
    quantizer, coder = Quantizer(weights.gain()), chunk_coder(header, weights)
    rows, columns = header.geometry.latent_size(*header.size)
    for number in range(fresh, chunks.stop):
        chunk = cvl.read_chunk(number)
        shape = (len(chunk.latents), header.geometry.channels, rows, columns)
        symbols = coder.decode(chunk.latents.start, chunk.symbols, shape)
        if number in chunks:
            pts = np.array(chunk.pts, np.int64)
            yield LatentChunk(quantizer.dequantize(symbols), cvl.frames_of(number), pts)


def decode_frames(
    cvl: CvlReader, weights: Weights, engine: Engine, frames: range | None = None
) -> Iterator[FrameBatch]:
    """Frames of a range, by default all; equal to those of a whole decode.

    Only the chunks of the range, and those that reach into them, go through the network.
    """
    frames = range(cvl.num_frames) if frames is None else frames
    context = -(-cvl.header.context[1] // cvl.header.chunk)
    first = max(0, cvl.chunk_at(frames.start) - context)
    chunks = read_latents(cvl, weights, range(first, cvl.chunk_at(frames.stop - 1) + 1))
    yield from engine.decode_stream(chunks, *cvl.header.size, frames)


def choose_frames(cvl: CvlReader, options: DecodeOptions) -> range:
    """The frames that the options ask for. Raises ConfigError if the file has none of them."""
    start, stop = options.start_frame, cvl.num_frames
    if options.start_seconds is not None or options.duration_seconds is not None:
        begin = cvl.read_chunk(0).pts[0] + ticks_of(options.start_seconds or Fraction(0), cvl)
        start = cvl.frame_at(begin)
        if options.duration_seconds is not None:
            stop = cvl.frame_at(begin + ticks_of(options.duration_seconds, cvl))
    if options.frames is not None:
        stop = min(stop, start + options.frames)
    if not 0 <= start < stop:
        raise ConfigError(
            "no frame lies in the range asked for", hint=f"the file holds frames 0 to {cvl.num_frames - 1}"
        )
    return range(start, stop)


def ticks_of(seconds: Fraction, cvl: CvlReader) -> int:
    return math.ceil(seconds / Fraction(*cvl.header.time_base))


def time_span(cvl: CvlReader, frames: range) -> tuple[int, int | None]:
    """First pts of a part, and the pts that ends it; (0, None) for the whole, which keeps its times."""
    if frames == range(cvl.num_frames):
        return 0, None

    def pts_of(frame: int) -> int:
        chunk = cvl.chunk_at(frame)
        return cvl.read_chunk(chunk).pts[frame - cvl.frames_of(chunk).start]

    return pts_of(frames.start), pts_of(frames.stop) if frames.stop < cvl.num_frames else None


def watched(batches: Iterator[FrameBatch], total: int, on_progress: OnProgress) -> Iterator[FrameBatch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        on_progress(Progress(done, total))


def info_of(cvl: CvlReader) -> VideoInfo:
    header = cvl.header
    primaries, transfer, matrix, full = header.color
    return VideoInfo(
        width=header.size[0],
        height=header.size[1],
        frame_rate=Fraction(*header.rate),
        time_base=Fraction(*header.time_base),
        num_frames=cvl.num_frames,
        color=ColorInfo(primaries, transfer, matrix, None if full is None else bool(full)),
        rotation=header.rotation,
    )


def open_side(cvl: CvlReader, source: Path, start: Fraction, stop: Fraction | None) -> SideReader | None:
    """The side streams from `start` to `stop` seconds, read beside the chunks; None if there are none."""

    def parts() -> Iterator[bytes]:
        with open_cvl(source, allow_partial=cvl.is_cut) as beside:
            yield from beside.side_data()

    if next(parts(), None) is None:
        return None
    return SideReader(parts(), start, stop, may_be_cut=cvl.is_cut)
