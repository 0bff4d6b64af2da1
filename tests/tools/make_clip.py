"""Make a clip of real texture without the network: camera moves over photographs that scikit-image ships."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import skimage.data
import torch
from torch.nn import functional

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")  # in the public domain or CC0, and not in the training set
RATE = 24
TONE_HERTZ, SAMPLE_RATE = 440, 48_000


def camera_move(photograph: np.ndarray, frames: int, width: int, height: int) -> Iterator[np.ndarray]:
    """A slow pan, zoom and turn: uint8 (H, W, 3) → frames of uint8 (height, width, 3)."""
    picture = torch.from_numpy(photograph).permute(2, 0, 1)[None].float()
    picture = fit(picture, width, height)
    for i in range(frames):
        t = i / max(1, frames - 1)
        angle, scale = 0.06 * math.sin(2 * math.pi * t), 0.86 - 0.12 * t
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        aspect = height / width
        theta = torch.tensor([[cos, -sin * aspect, 0.1 * (t - 0.5)], [sin / aspect, cos, 0.06 * (0.5 - t)]])
        grid = functional.affine_grid(theta[None], [1, 3, height, width], align_corners=False)
        moved = functional.grid_sample(picture, grid, "bicubic", "reflection", align_corners=False)
        yield moved[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def fit(picture: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Crop to the aspect of the clip and scale, with a little room for the camera."""
    h, w = picture.shape[-2:]
    crop_h, crop_w = min(h, w * height // width), min(w, h * width // height)
    top, left = (h - crop_h) // 2, (w - crop_w) // 2
    crop = picture[..., top : top + crop_h, left : left + crop_w]
    return functional.interpolate(crop, (height, width), mode="bicubic", antialias=True).clamp(0, 255)


def make_clip(path: Path, frames: int = 96, width: int = 640, height: int = 360) -> None:
    """Write an H.264 clip of camera moves with a tone as AAC sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": "8", "preset": "fast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.time_base = Fraction(1, 12_288)
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        per_photograph = -(-frames // len(PHOTOGRAPHS))
        number = 0
        for name in PHOTOGRAPHS:
            photograph = getattr(skimage.data, name)()[..., :3]
            for picture in camera_move(photograph, min(per_photograph, frames - number), width, height):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number * 512, Fraction(1, 12_288)
                container.mux(video.encode(frame))
                container.mux(audio.encode(tone(number)))
                number += 1
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def tone(frame: int) -> av.AudioFrame:
    """The sound of one video frame."""
    samples = SAMPLE_RATE // RATE
    time = (np.arange(samples) + frame * samples) / SAMPLE_RATE
    wave = 0.2 * np.sin(2 * math.pi * TONE_HERTZ * time).astype(np.float32)
    sound = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, frame * samples, Fraction(1, SAMPLE_RATE)
    return sound


if __name__ == "__main__":
    make_clip(Path(sys.argv[1]))
