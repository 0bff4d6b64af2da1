"""Random access to a .cvl file: the latents of any chunk, the frames of any range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from cvvae_cli.bitstream.chunk import ChunkCoder, LatentCoder, QuantizedCoder
from cvvae_cli.bitstream.coders import ENTROPY_CODERS, ContextTables
from cvvae_cli.bitstream.exact import EXACT_TYPES, ExactCoder
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.container.header import Header
from cvvae_cli.container.reader import CvlReader, open_cvl
from cvvae_cli.engine.stream import Engine
from cvvae_cli.errors import ConfigError, CorruptFileError, UnsupportedFormatError, WeightsError
from cvvae_cli.models.registry import ModelSpec, Weights, find_model
from cvvae_cli.options import DecodeOptions, side_kinds
from cvvae_cli.types import ColorInfo, FrameBatch, LatentChunk, VideoInfo
from cvvae_cli.video.sidestreams import ENTRY_MARGIN_MS, SideReader


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
    """The dequantised latents of consecutive chunks, by default of all."""
    chunks = range(len(cvl.index)) if chunks is None else chunks
    yield from decoded_chunks(cvl, latent_coder(cvl.header, weights), chunks)


def decoded_chunks(cvl: CvlReader, coder: LatentCoder, chunks: range) -> Iterator[LatentChunk]:
    """The same with a coder of one's own, which starts at the last point before them where it is fresh."""
    header = cvl.header
    fresh = chunks.start - chunks.start % (header.period // header.chunk)
    rows, columns = header.geometry.latent_size(*header.size)
    for number in range(fresh, chunks.stop):
        chunk = cvl.read_chunk(number)
        shape = (header.geometry.channels, len(chunk.latents), rows, columns)
        latents = coder.decode(chunk.latents.start, chunk.symbols, shape)
        if number in chunks:
            yield LatentChunk(latents, cvl.frames_of(number), np.array(chunk.pts, np.int64))


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
    yield from engine.decode_stream(chunks, *cvl.header.size, frames, depth=cvl.header.depth)


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


def latent_coder(header: Header, weights: Weights) -> LatentCoder:
    """The coder that a header names, with the tables of the model."""
    if header.coder in EXACT_TYPES:
        return ExactCoder(EXACT_TYPES[header.coder])
    kind = ENTROPY_CODERS.get(header.coder)
    if kind is None:
        raise UnsupportedFormatError(
            f"the file uses the coder {header.coder!r}, which this program does not know",
            hint="install a newer cvvae",
        )
    tables = ContextTables.from_tensors(weights.arrays)
    return QuantizedCoder(Quantizer(weights.gain()), ChunkCoder(kind(tables), header.period))


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
        pixel_aspect=Fraction(*header.aspect),
        depth=header.depth,
    )


def open_side(
    cvl: CvlReader, source: Path, options: DecodeOptions, start: Fraction, stop: Fraction | None
) -> SideReader | None:
    """The side streams from `start` to `stop` seconds, read beside the chunks; None if there are none."""
    if not cvl.side:
        return None

    def parts() -> Iterator[bytes]:
        from_ms = math.floor(start * 1000) - ENTRY_MARGIN_MS if start else None
        with open_cvl(source, allow_partial=cvl.is_cut) as beside:
            yield from beside.side_data(from_ms)

    kinds = side_kinds(options)
    return SideReader(parts(), len(cvl.header.side), kinds, start, stop, may_be_cut=cvl.is_cut)
