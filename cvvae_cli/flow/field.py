"""Fields of motion inside a group of four frames, and pictures that follow them.

A group is described as its third frame shows it, the *reference*; a field says for each of the others where
in the reference its content lies. The encoder sees frames moved onto the reference, all four nearly alike;
the decoder moves what it decoded back. Fields are int16 (..., 3, 2, rows, columns): frames 1, 2 and 4 of the
group; down, right; one vector for `SPACING` pixels each way, in halves of a pixel, linear in between.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

GROUP = 4  # frames
REFERENCE = 2  # of those, counted from 0
OTHERS = (0, 1, 3)
FIRST, SECOND, LAST = range(len(OTHERS))  # their parts of fields
SPACING = 16  # pixels between vectors
UNIT = 2  # steps of a vector in a pixel
LARGEST = 127 * UNIT
ROUNDS = 8  # until an inverse field rests
COARSE = 4  # pixels of a value of an inverse field, before it is enlarged


def field_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of vectors for a picture."""
    return -(-height // SPACING), -(-width // SPACING)


def dense(vectors: Tensor, height: int, width: int, scale: int = 1) -> Tensor:
    """Vectors (N, 2, rows, columns) → one for every `scale` pixels of a picture, linear in between."""
    size = [SPACING // scale * n for n in vectors.shape[2:]]
    spread = functional.interpolate(vectors, size=size, mode="bilinear", align_corners=False)
    return spread[:, :, : -(-height // scale), : -(-width // scale)]


def moved(pictures: Tensor, flow: Tensor, mode: str = "bicubic", stride: int = 1) -> Tensor:
    """Pictures (N, K, H, W) at the places that flow points to, in pixels; edges go on.

    Flow (N, 2, h, w), and what comes back, (N, K, h, w), are of every `stride`-th pixel in both directions.
    """
    return at_places(pictures, *led_to(flow, stride), mode)


def flow_of(vectors: np.ndarray, like: Tensor) -> Tensor:
    """Of one part of a group's fields, int16 (2, rows, columns): in pixels of pictures, (1, 2, H, W)."""
    field = torch.from_numpy(vectors[None]).to(like.device, torch.float32)
    return dense(field / UNIT, *like.shape[-2:])


def moved_by(frame: Tensor, vectors: np.ndarray) -> Tensor:
    """A frame (1, K, H, W) as such vectors move it."""
    return moved(frame, flow_of(vectors, frame)) if vectors.any() else frame


def at_places(pictures: Tensor, rows: Tensor, columns: Tensor, mode: str = "bicubic") -> Tensor:
    """Pictures (N, K, H, W) at places (N, h, w) in pixels, (N, K, h, w); edges go on."""
    grid = torch.stack([columns, rows], 3)
    grid[..., 0].mul_(2 / max(1, pictures.shape[3] - 1)).sub_(1)
    grid[..., 1].mul_(2 / max(1, pictures.shape[2] - 1)).sub_(1)
    return functional.grid_sample(pictures, grid, mode=mode, padding_mode="border", align_corners=True)


def places(h: int, w: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (h, 1) and columns (w,) as numbers."""
    rows, columns = (torch.arange(n, device=like.device, dtype=like.dtype) for n in (h, w))
    return rows[:, None], columns


def led_to(flow: Tensor, stride: int = 1) -> tuple[Tensor, Tensor]:
    """The rows and columns, (N, h, w), to which a flow (N, 2, h, w) of every `stride`-th pixel leads."""
    h, w = flow.shape[2:]
    down, right = (stride * each for each in places(h, w, flow))
    return flow[:, 0] + down, flow[:, 1] + right


def outside(rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """How far places lie outside of a picture of so many rows and columns, in pixels; inside, 0."""
    both = ((rows, size[0]), (columns, size[1]))
    return torch.maximum(*(place.clamp(0, length - 1).sub_(place).abs_() for place, length in both))


def inverse(vectors: Tensor, height: int, width: int) -> Tensor:
    """Of fields in pixels (N, 2, rows, columns), what undoes them, at every pixel: (N, 2, H, W)."""
    return undone(dense(vectors, height, width, COARSE), COARSE, ROUNDS)[:, :, :height, :width]


def undone(flow: Tensor, spacing: int, rounds: int) -> Tensor:
    """What undoes a flow that is given for every `spacing` pixels each way, in pixels, at every pixel."""
    back = -flow
    for _ in range(rounds):
        back = -moved(flow, back / spacing, "bilinear")
    size = [spacing * n for n in back.shape[2:]]
    return functional.interpolate(back, size=size, mode="bilinear", align_corners=False)
