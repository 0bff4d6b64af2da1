"""Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(reference: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """SSIM of each frame: uint8 RGB (T, H, W, 3) twice → float64 (T,), 1 where frames match.

    Gaussian window of 11x11 with deviation 1.5, population covariance, mean over channels and over the
    positions where the window fits; frames must be at least 11x11.
    """
    x, y = as_planes(reference), as_planes(decoded)
    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    values = (luminance * structure).mean(dim=(1, 2, 3), dtype=torch.float64)
    return values.numpy()


def as_planes(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).to(torch.float32).contiguous()


def blur(x: Tensor) -> Tensor:
    """Gaussian mean where the window fits: (T, 3, H, W) → (T, 3, H - 10, W - 10)."""
    position = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    kernel = torch.exp(-(position**2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).to(torch.float32)
    planes = x.reshape(-1, 1, *x.shape[2:])
    planes = functional.conv2d(planes, kernel.view(1, 1, -1, 1))
    planes = functional.conv2d(planes, kernel.view(1, 1, 1, -1))
    return planes.reshape(*x.shape[:2], *planes.shape[2:])
