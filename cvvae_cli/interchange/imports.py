"""Import: a tensor of latents (C, t, h, w) from another file as exact latents of a .cvl file."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from cvvae_cli.bitstream.exact import ExactCoder, from_words
from cvvae_cli.container.header import Header, parse_header
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.errors import (
    ConfigError,
    SourceNotFoundError,
    UnknownModelError,
    UnreadableSourceError,
)
from cvvae_cli.interchange import safetensors
from cvvae_cli.interchange.clip import LatentClip, parsed, without_batch
from cvvae_cli.interchange.npz import read_npz
from cvvae_cli.models.registry import find_model
from cvvae_cli.output import replace_on_success, require_writable
from cvvae_cli.types import LatentGeometry

MUSUBI_KEY = re.compile(r"latents_(\d+)x(\d+)x(\d+)_(\w+)")
DEFAULT_RATE = Fraction(24)
DEFAULT_CHUNK = 4
UNKNOWN_WEIGHTS = "unknown"
SIZES = {"width", "height", "frame_count"}


def import_file(
    source: Path,
    output: Path,
    *,
    model: str | None = None,
    frame_rate: Fraction | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    scaled: bool = False,
    force: bool = False,
) -> int:
    """Write the latents of a foreign file as exact latents of a .cvl file; returns the number of frames.

    `model` says what made them where the file does not; a model that is not known here may be named too, but
    then nothing can be decoded. `size` and `frames` are of the video. Raises a CvvaeError.
    """
    require_writable(output, (source,), force=force)
    clip = read_clip(source)
    header, num_frames = describe(clip, model, frame_rate, size, frames)
    pts = np.arange(num_frames, dtype=np.int64) if clip.pts is None else np.asarray(clip.pts, np.int64)
    if len(pts) != num_frames or (np.diff(pts) < 1).any():
        raise UnreadableSourceError(f"the timestamps of {source} do not fit its {num_frames} frames")
    with (
        replace_on_success(output, force=force) as part,
        part.path.open("wb") as file,
        CvlWriter(file, header) as cvl,
    ):
        coder = ExactCoder(clip.dtype)
        for first in range(0, clip.words.shape[1], header.chunk):
            words = np.ascontiguousarray(clip.words[:, first : first + header.chunk])
            latents = from_words(words, clip.dtype)
            if scaled or clip.scaled:
                spec = find_model(header.model)
                latents = latents / spec.scaling_factor + spec.shift_factor
            covered = header.geometry.frames_of(range(first, first + words.shape[1]))
            times = pts[covered.start : min(covered.stop, num_frames)].tolist()
            cvl.write_chunk(words.shape[1], times, coder.encode(first, latents.astype(np.float32)))
    return num_frames


def describe(
    clip: LatentClip,
    model: str | None,
    frame_rate: Fraction | None,
    size: tuple[int, int] | None,
    frames: int | None,
) -> tuple[Header, int]:
    """The header of the .cvl file, and how many frames it stands for."""
    channels, latents, rows, columns = clip.words.shape
    if clip.header is not None and clip.pts is not None:
        header = replace(clip.header, side=(), chapters=0)  # side streams stay behind
        header = replace(header, coder=f"exact-{clip.dtype}", period=header.chunk, level=None)
        num_frames = len(clip.pts)
    else:
        header, num_frames = guessed(clip, model, frame_rate or DEFAULT_RATE, size, frames)
    geometry = header.geometry
    fits = geometry.num_latents(num_frames) == latents if num_frames > 0 else False
    if geometry.channels != channels or geometry.latent_size(*header.size) != (rows, columns) or not fits:
        raise ConfigError(
            f"latents {channels}x{latents}x{rows}x{columns} do not fit {num_frames} frames of "
            f"{header.size[0]}x{header.size[1]} of {header.model}",
            hint="pass --model, --size and --frames of the video that they were made from",
        )
    return header, num_frames


def guessed(
    clip: LatentClip,
    model: str | None,
    frame_rate: Fraction,
    size: tuple[int, int] | None,
    frames: int | None,
) -> tuple[Header, int]:
    """A header from what the file and the caller say."""
    _, latents, rows, columns = clip.words.shape
    name = model or clip.said.get("architecture")
    if name is None:
        raise ConfigError("the file does not say which model made its latents", hint="pass --model NAME")
    told = {
        key: int(clip.said[key])
        for key in ("width", "height", "frame_count")
        if clip.said.get(key, "").isdigit()
    }
    try:
        spec = find_model(name)
        name, weights = spec.name, spec.weights_sha256
        geometry, chunk = spec.geometry, spec.chunk_latents
        context = (spec.encode_context, spec.decode_context)
    except UnknownModelError:
        weights, chunk, context = UNKNOWN_WEIGHTS, DEFAULT_CHUNK, (0, 0)
        geometry = geometry_of(clip, told, size, frames)
    width, height = size or (
        told.get("width", columns * geometry.pixels),
        told.get("height", rows * geometry.pixels),
    )
    num_frames = frames or told.get("frame_count") or (latents - 1) * geometry.frames + 1
    header = Header(
        model=name,
        weights=weights,
        size=(width, height),
        latent=(geometry.channels, geometry.frames, geometry.pixels),
        chunk=chunk,
        context=context,
        coder=f"exact-{clip.dtype}",
        period=chunk,
        level=None,
        time_base=(frame_rate.denominator, frame_rate.numerator),
        rate=(frame_rate.numerator, frame_rate.denominator),
        color=(2, 2, 2, None),
        rotation=0,
        depth=8,
        aspect=(1, 1),
        side=(),
        chapters=0,
        computed="imported",
        source=None,
    )
    return parse_header(header.to_json()), num_frames


def geometry_of(
    clip: LatentClip, told: dict[str, int], size: tuple[int, int] | None, frames: int | None
) -> LatentGeometry:
    """The geometry of a model that is not known here, from the sizes of video and latents."""
    channels, latents, _, columns = clip.words.shape
    width = size[0] if size else told.get("width")
    num_frames = frames or told.get("frame_count") or (1 if latents == 1 else None)
    if width is None or num_frames is None:
        raise ConfigError(
            "the size of the video cannot be told from its latents", hint="pass --size and --frames"
        )
    stride = round((num_frames - 1) / (latents - 1)) if latents > 1 else 1
    return LatentGeometry(channels, max(1, stride), max(1, round(width / columns)))


def read_clip(source: Path) -> LatentClip:
    """Read a .safetensors or .npz file with one latent tensor. Raises a CvvaeError."""
    if not source.is_file():
        raise SourceNotFoundError(f"{source} does not exist")
    if source.suffix.lower() == ".npz":
        return read_npz(source)
    tensors, metadata = safetensors.read(source)
    names = [n for n, t in tensors.items() if t.label in safetensors.DTYPES and t.words.ndim in (4, 5)]
    wanted = [n for n in names if n == "latents" or MUSUBI_KEY.fullmatch(n)] or names
    if len(wanted) != 1:
        raise UnreadableSourceError(
            f"{source} holds {len(wanted)} tensors that may be latents, it should be one (C, t, h, w)"
        )
    tensor = tensors[wanted[0]]
    pts = tensors["pts"].words if "pts" in tensors else None
    header = parsed(source, metadata.get("cvvae_header", ""))
    scaled = metadata.get("scaled") == "true"
    dtype = safetensors.DTYPES[tensor.label]
    return LatentClip(without_batch(source, tensor.words), dtype, pts, header, scaled, metadata)
