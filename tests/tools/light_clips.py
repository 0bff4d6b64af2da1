"""Clips whose light changes: fades, a strobe, a lamp, flashes, over photographs that scikit-image ships.

Lossless files of 640x360 and 49 frames, for `cvvae bench` (`make lights`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage.data

sys.path.insert(0, str(Path(__file__).parent.parent))

from make_clip import camera_move
from tiny import write_lossless

WIDTH, HEIGHT, FRAMES = 640, 360, 49
STROBE = np.resize([1, 1, 1, 1, 0.4, 0.4], FRAMES)
FADE = np.linspace(1, 0, FRAMES)
LAMP = 1 - 0.15 * np.abs(np.random.default_rng(0).normal(size=FRAMES))
FLASHES = np.isin(np.arange(FRAMES), [7, 8, 23, 24, 25, 40])
LIGHTS = {  # of a photograph, at rest or not: the share of its brightness, and what is added
    "strobe-rest": ("coffee", True, STROBE, 0),
    "strobe": ("chelsea", False, STROBE, 0),
    "fade-out": ("coffee", False, FADE, 0),
    "fade-in": ("chelsea", False, FADE[::-1], 0),
    "fade-to-white": ("coffee", False, FADE, 255 * (1 - FADE)),
    "lamp": ("chelsea", False, LAMP, 0),
    "flashes": ("coffee", False, np.ones(FRAMES), 90 * FLASHES),
    "steady": ("coffee", False, np.ones(FRAMES), 0),
}


def lit(name: str, rests: bool, shares: np.ndarray, levels: np.ndarray | int) -> np.ndarray:
    """uint8 (FRAMES, HEIGHT, WIDTH, 3)."""
    photograph = getattr(skimage.data, name)()[..., :3]
    moves = camera_move(photograph, FRAMES, WIDTH, HEIGHT)
    frames = np.stack([next(moves)] * FRAMES if rests else list(moves))
    shares, levels = (np.broadcast_to(each, FRAMES)[:, None, None, None] for each in (shares, levels))
    seen: np.ndarray = np.rint(frames * shares + levels).clip(0, 255).astype(np.uint8)
    return seen


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for clip, how in LIGHTS.items():
        write_lossless(folder / f"{clip}.mkv", lit(*how))
