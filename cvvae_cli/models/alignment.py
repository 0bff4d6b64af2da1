"""One picture for each latent frame: what an image autoencoder sees of a video (the paper's psi)."""

from __future__ import annotations

import torch
from torch import Tensor

TIME_STRIDE = 4
MAPPINGS = ("random", "average", "slice", "first")


def matching_frames(video: Tensor, mapping: str, picks: Tensor | None = None) -> Tensor:
    """Video (B, 3, 1 + 4n, H, W) → (B, 3, 1 + n, H, W): frame 0, then one picture for every four frames.

    `slice` takes the last of four, `first` the first, `average` their mean, and `random` the one that
    `picks` (B, n) names, 0 to 3. Source: CV-VAE, section 3.2.
    """
    b, c, t, h, w = video.shape
    if t == 1:
        return video
    groups = video[:, :, 1:].reshape(b, c, t // TIME_STRIDE, TIME_STRIDE, h, w)
    match mapping:
        case "average":
            chosen = groups.mean(3)
        case "slice":
            chosen = groups[:, :, :, -1]
        case "first":
            chosen = groups[:, :, :, 0]
        case "random":
            assert picks is not None
            index = picks[:, None, :, None, None, None].expand(-1, c, -1, 1, h, w)
            chosen = groups.gather(3, index)[:, :, :, 0]
        case _:
            raise ValueError(f"no mapping is called {mapping!r}: {', '.join(MAPPINGS)}")
    return torch.cat([video[:, :, :1], chosen], dim=2)


def as_pictures(video: Tensor) -> Tensor:
    """(B, C, t, h, w) → (B*t, C, h, w)."""
    return video.transpose(1, 2).flatten(0, 1)


def as_clips(pictures: Tensor, batch: int) -> Tensor:
    """Undo `as_pictures`."""
    n, c, h, w = pictures.shape
    return pictures.reshape(batch, n // batch, c, h, w).transpose(1, 2)
