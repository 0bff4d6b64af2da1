"""Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004) and its multi-scale form (2003)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.metrics.metric import Metric, MetricOptions, Pair

WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003, section 3.2


def ssim(reference: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """SSIM of each frame: uint8 RGB (T, H, W, 3) twice → float64 (T,), 1 where frames match."""
    return Ssim(MetricOptions()).of_frames(Pair(reference, decoded)).numpy()


class Ssim(Metric):
    """Mean over frames of SSIM.

    Gaussian window of 11x11 with deviation 1.5, population covariance, mean over R, G, B and over the
    positions where the window fits. Frames must be at least 11x11: none, where they are smaller.
    """

    def of_frames(self, pair: Pair) -> Tensor:
        if min(pair.reference.shape[1:3]) < WINDOW:
            return torch.full((len(pair),), torch.nan)
        values = []
        for x, y in zip(*pair.planes, strict=True):  # a frame at a time: its maps stay in the cache
            luminance, structure = similarity(x[None], y[None])
            values.append((luminance * structure).mean(dtype=torch.float64))
        return torch.stack(values)


class MultiScaleSsim(Metric):
    """Mean over frames of MS-SSIM: five scales halved by 2x2 means, over R, G and B together.

    Needs frames of at least 176x176, so that the window fits the smallest scale; else none.
    """

    def of_frames(self, pair: Pair) -> Tensor:
        if min(pair.reference.shape[1:3]) < WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1):
            return torch.full((len(pair),), torch.nan)
        return torch.stack([multi_scale(x[None], y[None]) for x, y in zip(*pair.planes, strict=True)])


def multi_scale(x: Tensor, y: Tensor) -> Tensor:
    """Two frames, (1, 3, H, W) each → their MS-SSIM."""
    result = torch.ones((), dtype=torch.float64, device=x.device)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        luminance, structure = similarity(x, y)
        is_last = scale == len(SCALE_WEIGHTS) - 1
        maps = luminance * structure if is_last else structure
        result = result * maps.mean(dtype=torch.float64).clamp(min=0) ** weight
        x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
    return result


def similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance and the contrast-structure maps of frames (N, 3, H, W) in [0, 255]."""
    mean_x, mean_y, square_x, square_y, product = blur(torch.cat([x, y, x * x, y * y, x * y], dim=1)).chunk(
        5, dim=1
    )
    both = mean_x * mean_y
    squares = mean_x.square().add_(mean_y.square())
    luminance = (2 * both + C1) / (squares + C1)
    structure = (2 * (product - both) + C2) / (square_x + square_y - squares + C2)
    return luminance, structure


def blur(x: Tensor) -> Tensor:
    """Gaussian mean where the window fits: (N, C, H, W) → (N, C, H - 10, W - 10)."""
    position = torch.arange(WINDOW, dtype=torch.float64, device=x.device) - WINDOW // 2
    kernel = torch.exp(-(position**2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).to(x.dtype)
    channels = x.shape[1]
    x = x.contiguous(memory_format=torch.channels_last)  # many times faster, depth-wise
    x = functional.conv2d(x, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
    return functional.conv2d(x, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
