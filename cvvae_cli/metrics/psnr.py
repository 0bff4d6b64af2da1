"""Peak signal-to-noise ratio."""

from __future__ import annotations

import numpy as np


def mean_squared_error(reference: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Of each frame: uint8 RGB (T, H, W, 3) twice → float64 (T,)."""
    error = reference.astype(np.float32) - decoded.astype(np.float32)
    return np.asarray(np.mean(error**2, axis=(1, 2, 3), dtype=np.float64))


def psnr(reference: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """PSNR of each frame in dB: uint8 RGB (T, H, W, 3) twice → float64 (T,), inf where frames match."""
    return psnr_of(mean_squared_error(reference, decoded))


def psnr_of(mse: np.ndarray) -> np.ndarray:
    """Mean squared errors of 8-bit values → dB."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / mse)
