"""Draw clips that no camera took: pages in a real typeface, full colours, a gradient, a disc that moves.

Lossless files of 640x360 and 33 frames, for `cvvae bench` (`make graphics`).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parent.parent))

from tiny import write_lossless

WIDTH, HEIGHT, FRAMES = 640, 360, 33
SCROLL = 3  # pixels a frame
BARS = [(1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0)]
TEXT = (
    "the latents of a video are a few numbers for each block of pixels which a network turns into frames "
    "again so a file of them is small and whoever trains a model of videos reads them as they are"
)


def page(height: int, points: int) -> np.ndarray:
    """Lines of words, black on white, uint8 (height, WIDTH, 3)."""
    image = Image.new("RGB", (WIDTH, height), "white")
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), points)
    draw, rng = ImageDraw.Draw(image), random.Random(points)
    for top in range(8, height, points * 3 // 2):
        draw.text((12, top), " ".join(rng.choices(TEXT.split(), k=24)), fill="black", font=font)
    return np.asarray(image)


def resting(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture[None, :HEIGHT], FRAMES, axis=0)


def scrolling(picture: np.ndarray) -> np.ndarray:
    return np.stack([picture[SCROLL * n : SCROLL * n + HEIGHT] for n in range(FRAMES)])


def bars() -> np.ndarray:
    """Full colours side by side, uint8 (HEIGHT, WIDTH, 3)."""
    row = np.repeat(np.array(BARS, np.uint8) * 255, WIDTH // len(BARS), axis=0)
    return np.repeat(row[None], HEIGHT, axis=0)


def gradient() -> np.ndarray:
    """Red from left to right, green from top to bottom, uint8 (HEIGHT, WIDTH, 3)."""
    across, down = np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT)[:, None]
    planes = np.broadcast_arrays(across, down, (across + down) / 2)
    picture: np.ndarray = np.stack(planes, axis=-1).round().astype(np.uint8)
    return picture


def disc(number: int) -> np.ndarray:
    """A red disc on blue, which moves to the right from frame to frame."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), (40, 90, 160))
    left = 40 + 12 * number
    ImageDraw.Draw(picture).ellipse((left, 120, left + 90, 210), fill=(230, 60, 30))
    return np.asarray(picture)


CLIPS: dict[str, Callable[[], np.ndarray]] = {
    "bars": lambda: resting(bars()),
    "page-12": lambda: resting(page(HEIGHT, 12)),
    "page-20": lambda: resting(page(HEIGHT, 20)),
    "scroll-16": lambda: scrolling(page(HEIGHT + SCROLL * FRAMES, 16)),
    "gradient": lambda: resting(gradient()),
    "disc": lambda: np.stack([disc(number) for number in range(FRAMES)]),
}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in CLIPS.items():
        write_lossless(folder / f"{name}.mkv", draw())
