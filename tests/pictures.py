"""Pictures for tests of motion, as tensors."""

import torch
from torch.nn import functional


def texture(height, width, seed=0, grain=4):
    """Smooth random colours in [-1, 1], (3, H, W); `grain` pixels from one to the next."""
    size = height // grain + 3, width // grain + 3
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    smooth = functional.interpolate(noise, scale_factor=grain, mode="bicubic")[0, :, :height, :width]
    return smooth / smooth.abs().max()


def panning(steps, height=96, width=128):
    """A group (1, 3, 4, H, W) that shows a large picture farther right by `steps` pixels in each frame."""
    whole = texture(height, width + 4 * max(steps))
    return torch.stack([whole[:, :, s : s + width] for s in steps], 1)[None]


def psnr(a, b):
    return float(10 * torch.log10(4 / (a - b).square().mean()))
