"""The hall: video → frames → latents → symbols → file, and back. The only module that knows all rooms."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
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
    CorruptFileError,
    UnsupportedFormatError,
    WeightsError,
)
from cvvae_cli.models.registry import ModelSpec, Weights, find_model
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
    OutputOptions,
    VideoWriter,
    require_known_output,
    write_picture,
)


@dataclass(frozen=True)
class EncodeOptions:
    """Choices of an encode; the first two change the file, the others where and how it is computed."""

    model: str = "compact"
    audio: bool = True
    frame_rate: Fraction | None = None  # of a frame folder
    device: str = "auto"
    dtype: str = "auto"
    tile_pixels: int | None = None
    force: bool = False


@dataclass(frozen=True)
class DecodeOptions:
    """Choices of a decode."""

    audio: bool = True
    device: str = "auto"
    dtype: str = "auto"
    tile_pixels: int | None = None
    output: OutputOptions = field(default_factory=OutputOptions)
    force: bool = False


@dataclass(frozen=True)
class EncodeReport:
    """What an encode did; the fields are the keys of `--json`."""

    frames: int
    width: int
    height: int
    input_bytes: int | None
    output_bytes: int
    video_bytes: int
    side_bytes: int
    bits_per_pixel: float
    seconds: float
    encode_fps: float
    peak_memory_bytes: int
    model: str
    weights_sha256: str
    quality: int | None
    device: str
    dtype: str


@dataclass(frozen=True)
class DecodeReport:
    """What a decode did; the fields are the keys of `--json`."""

    frames: int
    width: int
    height: int
    output_bytes: int
    seconds: float
    decode_fps: float
    peak_memory_bytes: int
    device: str
    dtype: str


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
    with open_cvl(source) as cvl:
        require_known_output(output, cvl.num_frames)
        spec, weights = model_of(cvl.header)
        placement = choose_placement(options.device, options.dtype)
        engine = Engine(spec, weights.build, placement, EngineOptions(options.tile_pixels))
        frames = watched(engine.decode_stream(read_latents(cvl, weights), *cvl.header.size), cvl, on_progress)
        info = info_of(cvl)
        with outputs.replace_on_success(output, force=options.force) as part:
            if output.suffix.lower() in PICTURES:
                write_picture(part, output, info, frames)
            else:
                side = open_side(source) if options.audio else None
                with VideoWriter(part, output, info, options.output, side) as video:
                    for batch in frames:
                        video.write(batch)
            output_bytes = part.stat().st_size
    seconds = time.monotonic() - began
    return DecodeReport(
        frames=cvl.num_frames,
        width=info.width,
        height=info.height,
        output_bytes=output_bytes,
        seconds=seconds,
        decode_fps=cvl.num_frames / seconds,
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


def read_latents(cvl: CvlReader, weights: Weights) -> Iterator[LatentChunk]:
    """The dequantised latents of a file, chunk by chunk."""
    header = cvl.header
    quantizer, coder = Quantizer(weights.gain()), chunk_coder(header, weights)
    rows, columns = header.geometry.latent_size(*header.size)
    for number in range(len(cvl.index)):
        chunk = cvl.read_chunk(number)
        shape = (len(chunk.latents), header.geometry.channels, rows, columns)
        symbols = coder.decode(chunk.latents.start, chunk.symbols, shape)
        pts = np.array(chunk.pts, np.int64)
        yield LatentChunk(quantizer.dequantize(symbols), cvl.frames_of(number), pts)


def watched(batches: Iterator[FrameBatch], cvl: CvlReader, on_progress: OnProgress) -> Iterator[FrameBatch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        on_progress(Progress(done, cvl.num_frames))


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


def open_side(source: Path) -> SideReader | None:
    """The side streams of a file, read beside its chunks; None if there are none."""

    def parts() -> Iterator[bytes]:
        with open_cvl(source) as cvl:
            yield from cvl.side_data()

    return SideReader(parts()) if next(parts(), None) is not None else None


def as_json(report: EncodeReport | DecodeReport) -> dict[str, object]:
    """The report with figures rounded to what they are good for."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in asdict(report).items()}
