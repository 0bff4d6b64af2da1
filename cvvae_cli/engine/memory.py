"""What a model needs, and whether it is there, before the first computation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cvvae_cli.errors import ConfigError

if TYPE_CHECKING:
    from cvvae_cli.engine.base import BaseEngine
    from cvvae_cli.engine.windows import WindowEngine

LAYERS_ON_CPU = 4.0  # full-resolution layers of the first width held at once (`make benchmark-paper`)
LAYERS_ELSEWHERE = 5.0  # where results do not take the place of inputs; not measured
SHARE = 0.85  # of what is free, if no limit is given
SMALLEST_TILE = 8  # latent positions
# Bytes for every pixel of a large picture, and more for every latent frame of a chunk, of streaming models on
# CPUs (measured at 1920x1080 and 3840x2160, bf16, a camera or a page that moves): to encode, so with
# detail, so with corrections as well, to decode
ENCODING, MIRRORED, CORRECTED, DECODING = (70, 120), (300, 230), (250, 340), (290, 210)


def bytes_of_tile(
    channels: int, bytes_per_value: int, frames: int, rows: int, columns: int, layers: float = LAYERS_ON_CPU
) -> int:
    """About the most that one tile needs: a few layers at the size of the picture."""
    return int(layers * channels * bytes_per_value * frames * rows * columns * 64)


def require_memory(engine: WindowEngine, frames: int, rows: int, columns: int) -> None:
    """Raise ConfigError if a tile will not fit, with the tile that would. Sizes in latent positions."""
    limit = limit_of(engine)
    if limit is None:
        return
    tile, width = engine.windows.tile, engine.spec.width
    value = torch.finfo(engine.dtype).bits // 8
    layers = LAYERS_ON_CPU if engine.placement.device.type == "cpu" else LAYERS_ELSEWHERE
    needed = bytes_of_tile(width, value, frames, min(rows, tile), min(columns, tile), layers)
    if needed <= limit:
        return
    fitting = tile
    while fitting > SMALLEST_TILE and bytes_of_tile(width, value, frames, fitting, fitting, layers) > limit:
        fitting -= 1
    hint = (
        f"pass --tile {fitting * engine.spec.geometry.pixels}; it is part of the result, and kept in the file"
    )
    size = f"{min(columns, tile) * 8}x{min(rows, tile) * 8}"
    raise too_large(f"a tile of {size} pixels needs", needed, limit, hint)


def require_memory_for_chunk(
    engine: BaseEngine, each: tuple[int, int], latents: int, size: tuple[int, int]
) -> None:
    """Raise ConfigError if a chunk of so many latent frames will not fit.

    `each`: bytes of a pixel, and of one in each latent frame; `size`: rows and columns of a picture.
    """
    if engine.placement.device.type != "cpu":
        return  # not measured
    limit = limit_of(engine)
    needed = (each[0] + latents * each[1]) * size[0] * size[1]
    if limit is not None and needed > limit:
        way_out = " pass --no-detail, which needs a third to half," if each in (MIRRORED, CORRECTED) else ""
        hint = f"scale it down,{way_out} or try all the same with --max-memory {-(-needed // 10**9)}GB"
        what = f"{latents} latent frames of {size[1]}x{size[0]} pixels need"
        raise too_large(what, needed, limit, hint)


def too_large(what: str, needed: int, limit: int, hint: str) -> ConfigError:
    """The error that says what needs how many bytes, and how many there are."""
    return ConfigError(f"{what} about {needed / 1e9:.1f} GB, {limit / 1e9:.1f} GB are there", hint=hint)


def limit_of(engine: BaseEngine) -> int | None:
    """Bytes that a model may take: as many as the options say, else most of what is left."""
    return engine.options.max_memory_bytes or free_bytes(engine.placement.device)


def free_bytes(device: torch.device) -> int | None:
    """Most of what the device has left; None where it does not say."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(SHARE * 1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):
        return None
