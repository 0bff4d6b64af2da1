"""The hall: video → frames → latents → symbols → file, and back. The only module that knows all rooms."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from cvvae_cli import output as outputs
from cvvae_cli.access import (
    choose_frames,
    decode_frames,
    info_of,
    open_side,
    time_span,
)
from cvvae_cli.bitstream.chunk import LatentCoder
from cvvae_cli.bitstream.correction_choice import is_corrected
from cvvae_cli.bitstream.exact import EXACT_TYPES
from cvvae_cli.bitstream.flow import worthless
from cvvae_cli.container.fingerprint import fingerprint, hash_file
from cvvae_cli.container.header import Header
from cvvae_cli.container.reader import CvlReader, open_cvl
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.engine.ahead import ahead
from cvvae_cli.engine.base import BaseEngine, EngineOptions
from cvvae_cli.engine.device import Placement, choose_placement
from cvvae_cli.engine.load import make_engine, with_geometry
from cvvae_cli.engine.mirror import Mirror
from cvvae_cli.engine.stream import Engine
from cvvae_cli.errors import (
    ConfigError,
)
from cvvae_cli.latents import decoded_chunks, latent_coder, model_of
from cvvae_cli.models.registry import ModelSpec, Weights, find_model
from cvvae_cli.options import (
    DecodeOptions,
    DecodeReport,
    EncodeOptions,
    EncodeReport,
    side_kinds,
)
from cvvae_cli.resume import START, START_OVER, Pieces, ResumePoint, SideReplay, writer_of
from cvvae_cli.targets import find_level
from cvvae_cli.types import (
    FrameBatch,
    LatentChunk,
    OnProgress,
    Progress,
    ignore_progress,
)
from cvvae_cli.video.reader import FrameSource, VideoReader, open_source
from cvvae_cli.video.sidestreams import SideSource, SideWriter, listed
from cvvae_cli.video.writer import (
    PICTURES,
    VideoWriter,
    require_known_output,
    write_picture,
)

logger = logging.getLogger("cvvae")
LEVELS_PER_QUALITY = 10  # headers count levels in tenths
CHOICE = 18  # counts changes of which symbols encoding chooses: what was measured with others is stale


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
    run = EngineOptions(
        options.tile_pixels, options.temporal_overlap, options.max_memory_bytes, options.is_compiled
    )
    with open_source(source, options.frame_rate, deinterlace=options.deinterlace) as video:
        side = video.side_source(side_kinds(options))
        weights = Weights(spec)
        engine = make_engine(with_geometry(spec, run), weights.build, placement, run)
        if options.target is not None:
            options = replace(options, quality=choose_quality(source, engine, weights, options))
        header = header_for(video, source, side, engine, weights, options)
        with outputs.replace_on_success(output, force=options.force, resume=options.resume) as part:
            cvl, point = writer_of(part.path, header, resume=options.resume)
            steps = write_cvl(
                cvl, video, side, engine, weights, point, aligns=options.align, details=options.detail
            )
            with closing(steps):
                for progress in steps:
                    part.is_resumable = header.source is not None
                    on_progress(progress)
    seconds = time.monotonic() - began
    return encode_report(source, header, cvl, engine, seconds)


def write_cvl(
    cvl: CvlWriter,
    video: FrameSource,
    side: SideSource,
    engine: BaseEngine,
    weights: Weights,
    point: ResumePoint | None = None,
    *,
    aligns: bool = True,
    details: bool = True,
) -> Generator[Progress, None, None]:
    """Encode all frames of a reader, and what lies beside them, into a file just begun; close the file.

    `aligns` and `details`: frames are aligned and detail is coded, where the coder does such.
    """
    with cvl.file, cvl:
        coder = latent_coder(cvl.header, weights, str(engine.placement.device))
        level = cvl.header.level
        error = worthless(level) if aligns and coder.takes_fields and level is not None else None
        mirror = None
        if details and coder.takes_detail and isinstance(engine, Engine):
            width, height = cvl.header.size
            size = (height, width) if is_corrected(coder, level) else None
            mirror = Mirror(engine, level, size, video.info.num_frames)
        yield from EncodeJob(cvl, video, side, engine, coder, point or START, error, mirror).run()


def choose_quality(source: Path, engine: BaseEngine, weights: Weights, options: EncodeOptions) -> float:
    """The quality that reaches the target, by samples of the clip; says what they give."""
    assert options.target is not None
    if str(source) == "-":
        raise ConfigError(
            "a target needs the source twice, and standard input can be read once", hint="pass --quality"
        )
    if options.quality is not None or options.exact is not None:
        raise ConfigError("a target chooses the quality", hint="pass no --quality and no --exact beside it")
    logger.warning("samples of the clip are coded, to find the quality")
    with open_source(source, options.frame_rate, deinterlace=options.deinterlace) as video:
        side = video.side_source(side_kinds(options))
        choice = find_level(
            options.target, video, side, engine, weights, aligns=options.align, details=options.detail
        )
    quality = choice.level / LEVELS_PER_QUALITY
    logger.warning(
        "quality %g: samples give %.2f dB at %.4f bits per pixel",
        quality,
        choice.psnr_db,
        choice.bits_per_pixel,
    )
    return quality


@dataclass
class EncodeJob:
    """The main loop of encoding: every chunk of latents, and the side streams met on the way."""

    cvl: CvlWriter
    video: FrameSource
    side: SideSource
    engine: BaseEngine
    coder: LatentCoder
    point: ResumePoint
    worthless: float | None  # the error for which no vector is coded; None: frames are not aligned
    mirror: Mirror | None  # says what detail lacks; None: none is coded

    def run(self) -> Iterator[Progress]:
        """Write the chunks from the resume point on, and tell after each how far it is."""
        cvl = self.cvl
        replay = SideReplay(self.point.side_data_bytes)
        side = self._side_writer()
        cvl.write_side(replay.rest(side.take()) if side else [])
        number = self._start()
        with closing(ahead(self._computed(number, side), self.engine.placement.device)) as computed:
            for chunk, packets in computed:
                if number >= self.point.chunks:
                    self._write(chunk)
                elif number == self.point.chunks - 1:
                    self._meet(chunk)
                del chunk  # of large pictures it is a good part of the memory there is
                number += 1
                cvl.write_side(replay.rest(packets))
                cvl.sync()
                yield Progress(cvl.num_frames, self.video.info.num_frames, rate_of(cvl))
        if side:
            cvl.write_side(replay.rest(side.finish()))

    def _write(self, chunk: LatentChunk) -> None:
        mirrored = self.mirror.of(chunk) if self.mirror else None
        number = self.cvl.num_latents
        beside = chunk.fields, mirrored, chunk.borrowed, chunk.light
        data = self.coder.encode(number, chunk.latents, *beside)
        self.cvl.write_chunk(chunk.latents.shape[1], chunk.pts.tolist(), data)

    def _meet(self, chunk: LatentChunk) -> None:
        """The last chunk that was written before an interruption, computed again."""
        if tuple(chunk.pts.tolist()) != self.point.pts:
            raise ConfigError("the source reads differently from before", hint=START_OVER)
        if self.mirror:
            self.mirror.skip(chunk)

    def _computed(self, number: int, side: SideWriter | None) -> Iterator[tuple[LatentChunk, Pieces]]:
        """The chunks from a number on, each with the side streams met while its frames were read."""
        first = number * self.cvl.header.chunk
        chunks = self.engine.encode_stream(
            self.video,
            first,
            worthless=self.worthless,
            borrows=self.coder.borrows,
            lights=self.coder.lights,
            keeps_means=self.mirror is not None,
            keeps_frames=self.mirror is not None and self.mirror.size is not None,
        )
        with suppress(StopIteration):
            while True:  # no name holds on to a chunk while the next one is made
                yield next(chunks), side.take() if side else []

    def _side_writer(self) -> SideWriter | None:
        if not self.side or not isinstance(self.video, VideoReader):
            return None
        writer = SideWriter(self.side)
        self.video.listen(writer.add)
        return writer

    def _start(self) -> int:
        """The chunk to begin with: far enough before the resume point for the network to catch up."""
        header, chunks = self.cvl.header, self.point.chunks
        if chunks == 0:
            return 0
        needed = header.context[0] + self.coder.borrows  # of the latent frame before
        context = max(1, -(-needed // header.chunk))
        first = max(0, chunks - context)
        self.video.start_at(
            header.geometry.frames_of(range(first * header.chunk, chunks * header.chunk)).start
        )
        self._learn_the_past(chunks)
        return first

    def _learn_the_past(self, chunks: int) -> None:
        """Decode what coder and mirror need of the chunks that are written."""
        header = self.cvl.header
        size = header.geometry.latent_size(*header.size)
        first = chunks - 1
        if self.mirror:
            first = min(first, self.mirror.reaching(chunks * header.chunk, *size) // header.chunk)
        with open_cvl(Path(self.cvl.file.name), allow_partial=True) as written:
            for chunk in decoded_chunks(written, self.coder, range(first, chunks)):
                if self.mirror:
                    self.mirror.learn(chunk)


def rate_of(cvl: CvlWriter) -> float:
    """Bits per pixel so far."""
    return bits_per_pixel(cvl.bytes_written - cvl.side_bytes, cvl.num_frames, cvl.header.size)


def header_for(
    video: FrameSource,
    source: Path | None,
    side: SideSource,
    engine: BaseEngine,
    weights: Weights,
    options: EncodeOptions,
) -> Header:
    """The header of an encode; without `source`, a file or folder that can be read again, no resume."""
    info, spec = video.info, engine.spec
    exact = None if options.exact is None else f"exact-{options.exact}"
    if exact not in (None, *EXACT_TYPES):
        raise ConfigError(f"latents cannot be kept as {options.exact!r}", hint="use fp32, bf16 or fp16")
    level = None if exact else level_of(spec, options.quality)
    coder = exact or spec.coder
    depends_on = {
        "model": spec.name,
        "level": level,
        "exact": options.exact,
        "align": options.align,
        "detail": options.detail,
        "side": sorted(side_kinds(options)),
        "deinterlace": options.deinterlace,
        "rate": str(options.frame_rate) if options.frame_rate else None,
    }
    full = info.color.is_full_range
    return Header(
        model=spec.name,
        weights=weights.sha256,
        size=(info.width, info.height),
        latent=(spec.geometry.channels, spec.geometry.frames, spec.geometry.pixels),
        chunk=spec.chunk_latents,
        context=(spec.encode_context, spec.decode_context),
        coder=coder,
        period=spec.chunk_latents if coder in EXACT_TYPES else spec.period,
        level=level,
        time_base=info.time_base.as_integer_ratio(),
        rate=info.frame_rate.as_integer_ratio(),
        color=(
            info.color.primaries,
            info.color.transfer,
            info.color.matrix,
            None if full is None else int(full),
        ),
        rotation=info.rotation,
        depth=info.depth,
        aspect=info.pixel_aspect.as_integer_ratio(),
        side=listed(side.describe()),
        chapters=len(side.chapters),
        computed=engine.describe(),
        window=None if spec.windows is None else astuple(spec.windows),
        source=None
        if source is None or str(source) == "-"
        else fingerprint(hash_file(source), weights.sha256, depends_on),
    )


def level_of(spec: ModelSpec, quality: float | None) -> int | None:
    """The number of a quality level. Raises ConfigError for one that the model does not have."""
    if quality is None:
        return spec.default_level
    if spec.levels is None:
        raise ConfigError(f"{spec.name} has one quality level only", hint="leave --quality out")
    first, last = (number / LEVELS_PER_QUALITY for number in spec.levels)
    if not first <= quality <= last:
        raise ConfigError(f"there is no quality {quality:g}", hint=f"it goes from {first:g} to {last:g}")
    return round(quality * LEVELS_PER_QUALITY)


def encode_report(
    source: Path, header: Header, cvl: CvlWriter, engine: BaseEngine, seconds: float
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
        quality=None if header.level is None else header.level / LEVELS_PER_QUALITY,
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
        tile = options.tile_pixels if spec.windows is None else None  # a windowed file names its own
        run = EngineOptions(tile, max_memory_bytes=options.max_memory_bytes, is_compiled=options.is_compiled)
        engine = make_engine(spec, weights.build, placement, run)
        batches = watched(decode_frames(cvl, weights, engine, frames), len(frames), on_progress)
        info = info_of(cvl)
        with outputs.replace_on_success(output, force=options.force) as part:
            if output.suffix.lower() in PICTURES:
                write_picture(part.path, output, info, batches)
            else:
                start, stop = time_span(cvl, frames)
                end = None if stop is None else stop * info.time_base
                side = open_side(cvl, source, options, start * info.time_base, end)
                with VideoWriter(part.path, output, info, options.output, side) as video:
                    for batch in batches:
                        video.write(FrameBatch(batch.rgb, batch.pts - start))
            output_bytes = part.path.stat().st_size
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


def decode_all(
    cvl: CvlReader, source: Path, device: str, dtype: str, *, on_progress: OnProgress = ignore_progress
) -> None:
    """Decode every frame and every packet of a file, and keep nothing. Raises a CvvaeError."""
    spec, weights = model_of(cvl.header)
    engine = make_engine(spec, weights.build, choose_placement(device, dtype))
    for _ in watched(decode_frames(cvl, weights, engine), cvl.num_frames, on_progress):
        pass
    side = open_side(cvl, source, DecodeOptions(), Fraction(0), None)
    for _ in side.until(None) if side else ():
        pass


def watched(batches: Iterator[FrameBatch], total: int, on_progress: OnProgress) -> Iterator[FrameBatch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        on_progress(Progress(done, total))
