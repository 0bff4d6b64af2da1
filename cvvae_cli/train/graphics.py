"""Scenes that no camera took: text, flat shapes and gradients in any colour; they rest, scroll or flash.

Photos and films hold little of that, and a network that never met it draws letters as grey noise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

GLYPH = (7, 5)  # rows and columns of a letter
CELL = (9, 6)  # with the space around it
ALPHABET = 48
STROKES = ((0, 0), (0, 2), (0, 4), (3, 0), (3, 2), (3, 4), (6, 0), (6, 2), (6, 4))  # where strokes may end
LETTER_SCALES = (1.0, 1.0, 1.5, 2.0, 2.0, 3.0, 5.0)
MOST_SHAPES = 8
SPEEDS = (0, 0, 0, 1, 2, 3, 5, 8)  # pixels a frame, either way
STILL_SHARE = 0.4  # of the scenes


@dataclass(frozen=True)
class Layer:
    """A picture (3, h, w) in [0, 1] and the share (h, w) it covers; there from frame `first` on, it moves."""

    picture: Tensor
    cover: Tensor
    corner: tuple[int, int]  # row and column in frame `first`
    speed: tuple[int, int]  # pixels a frame
    first: int = 0


def graphics(rng: random.Random, frames: int, size: int) -> Tensor:
    """One scene, float (T, 3, S, S) in [0, 1]."""
    ground = gradient(rng, size, size) if rng.random() < 0.4 else flat(color(rng), size, size)
    scroll = rng.choice(SPEEDS) * rng.choice((-1, 1)), rng.choice((0, 0, 0, 1, -2))
    layers = [shape(rng, frames, size, scroll) for _ in range(rng.randrange(MOST_SHAPES + 1))]
    layers += [text(rng, frames, size, scroll) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    if rng.random() < STILL_SHARE:
        layers = [replace(layer, speed=(0, 0), first=0) for layer in layers]
    scene = torch.stack([composed(ground, layers, number) for number in range(frames)])
    return scene * brightness(rng, frames).view(-1, 1, 1, 1)


def composed(ground: Tensor, layers: list[Layer], frame: int) -> Tensor:
    """The layers over the ground (3, S, S) as they lie in one frame."""
    canvas = ground.clone()
    height, width = canvas.shape[1:]
    for layer in layers:
        if frame < layer.first:
            continue
        top, left = (c + s * (frame - layer.first) for c, s in zip(layer.corner, layer.speed, strict=True))
        rows, columns = (
            range(max(at, 0), min(at + extent, end))
            for at, extent, end in zip((top, left), layer.cover.shape, (height, width), strict=True)
        )
        if rows and columns:
            part = canvas[:, rows.start : rows.stop, columns.start : columns.stop]
            inside = (
                slice(rows.start - top, rows.stop - top),
                slice(columns.start - left, columns.stop - left),
            )
            part.lerp_(layer.picture[:, *inside], layer.cover[inside])
    return canvas


def color(rng: random.Random) -> tuple[float, ...]:
    """A grey, a corner of the cube of colours, or anything."""
    kind = rng.random()
    if kind < 0.35:
        return (rng.choice((0.0, 1.0, 1.0, rng.random())),) * 3
    if kind < 0.65:
        return tuple(float(rng.random() < 0.5) for _ in range(3))
    return tuple(rng.random() for _ in range(3))


def flat(value: tuple[float, ...], height: int, width: int) -> Tensor:
    return torch.tensor(value).view(3, 1, 1).expand(3, height, width).contiguous()


def gradient(rng: random.Random, height: int, width: int) -> Tensor:
    """From one colour to another, across, down or both."""
    across, down = torch.linspace(0, 1, width)[None], torch.linspace(0, 1, height)[:, None]
    share = rng.random()
    way = share * across + (1 - share) * down
    return torch.lerp(flat(color(rng), height, width), flat(color(rng), height, width), way)


def shape(rng: random.Random, frames: int, size: int, scroll: tuple[int, int]) -> Layer:
    """A filled rectangle, ellipse, row of stripes or thin line."""

    def extent() -> int:
        return max(2, int(size * rng.choice((0.05, 0.2, 0.5, 1.0)) * rng.uniform(0.5, 1.0)))

    height, width = extent(), extent()
    kind = rng.choice(("rectangle", "rectangle", "ellipse", "stripes", "line"))
    if kind == "line":
        height, width = rng.choice(((rng.randrange(1, 4), width), (height, rng.randrange(1, 4))))
    cover = torch.ones(height, width)
    if kind == "ellipse":
        y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
        cover = ((1 - (y**2 + x**2).sqrt()) * min(height, width) / 2 + 0.5).clamp(0, 1)
    elif kind == "stripes":
        cover = (torch.arange(width) // rng.randrange(1, 17) % 2).float().expand(height, width)
    picture = gradient(rng, height, width) if rng.random() < 0.2 else flat(color(rng), height, width)
    return placed(rng, picture, cover, frames, size, scroll)


def text(rng: random.Random, frames: int, size: int, scroll: tuple[int, int]) -> Layer:
    """A block of letters of one size, of an alphabet that nobody reads."""
    scale = rng.choice(LETTER_SCALES)
    rows, columns = (max(1, int(size * rng.uniform(0.2, 1.3) / (scale * n))) for n in CELL)
    cells = torch.zeros(ALPHABET + 1, *CELL)
    for cell in cells[1:]:
        cell[1 : 1 + GLYPH[0], : GLYPH[1]] = glyph(rng)
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    written = torch.randint(1, ALPHABET + 1, (rows, columns), generator=generator)
    written[torch.rand(rows, columns, generator=generator) < 0.18] = 0  # spaces
    cover = cells[written].permute(0, 2, 1, 3).reshape(1, 1, rows * CELL[0], columns * CELL[1])
    if scale > 1:
        cover = functional.interpolate(cover, scale_factor=scale, mode="bilinear", align_corners=False)
        sharpness = rng.choice((1.0, 2.0, 4.0))
        cover = ((cover - 0.5) * sharpness + 0.5).clamp(0, 1)
    cover = cover[0, 0]
    return placed(rng, flat(color(rng), *cover.shape), cover, frames, size, scroll)


def glyph(rng: random.Random) -> Tensor:
    """Some strokes between the points of a grid, (7, 5)."""
    picture = torch.zeros(GLYPH)
    for _ in range(rng.randrange(2, 5)):
        (y0, x0), (y1, x1) = rng.sample(STROKES, 2)
        way = torch.linspace(0, 1, max(abs(y1 - y0), abs(x1 - x0)) + 1)
        picture[(y0 + way * (y1 - y0)).round().long(), (x0 + way * (x1 - x0)).round().long()] = 1
    return picture


def placed(
    rng: random.Random, picture: Tensor, cover: Tensor, frames: int, size: int, scroll: tuple[int, int]
) -> Layer:
    """Somewhere, moving with the page or on its own, there from the start or not."""
    height, width = cover.shape
    corner = rng.randint(-height // 2, size - height // 2), rng.randint(-width // 2, size - width // 2)
    speed = scroll
    if rng.random() < 0.2:
        speed = rng.choice(SPEEDS) * rng.choice((-1, 1)), rng.choice(SPEEDS) * rng.choice((-1, 1))
    first = rng.randrange(frames) if rng.random() < 0.1 else 0
    return Layer(picture, cover, corner, speed, first)


def brightness(rng: random.Random, frames: int) -> Tensor:
    """Of each frame, in [0, 1]: mostly one; now and then a fade from or to black, or flashes."""
    kind = rng.random()
    if kind < 0.05:
        fade = torch.linspace(0, 1, frames)
        return fade.flip(0) if rng.random() < 0.5 else fade
    if kind < 0.08:
        return torch.where(torch.arange(frames) % rng.randrange(2, 8) == 0, 1.0, rng.uniform(0.2, 0.8))
    return torch.ones(frames)
