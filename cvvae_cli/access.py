"""Random access to the frames of a .cvl file, and what lies beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from cvvae_cli.container.reader import CvlReader, open_cvl
from cvvae_cli.engine.ahead import ahead
from cvvae_cli.engine.base import BaseEngine
from cvvae_cli.errors import ConfigError
from cvvae_cli.latents import read_latents
from cvvae_cli.models.registry import Weights
from cvvae_cli.options import DecodeOptions, side_kinds
from cvvae_cli.types import ColorInfo, FrameBatch, VideoInfo
from cvvae_cli.video.sidestreams import ENTRY_MARGIN_MS, SideReader


def decode_frames(
    cvl: CvlReader, weights: Weights, engine: BaseEngine, frames: range | None = None
) -> Iterator[FrameBatch]:
    """Frames of a range, by default all; equal to those of a whole decode.

    Only the chunks of the range, and those that reach into them, go through the network.
    """
    frames = range(cvl.num_frames) if frames is None else frames
    header = cvl.header
    needed = engine.needed(frames, *header.geometry.latent_size(*header.size))
    stop = min(cvl.num_latents, needed.stop)
    chunks = range(needed.start // header.chunk, -(-stop // header.chunk))
    device = engine.placement.device
    latents = ahead(read_latents(cvl, weights, chunks, stop, device=str(device)), device)
    decoded = engine.decode_stream(latents, *header.size, frames, depth=header.depth)
    yield from ahead(decoded, device)


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
