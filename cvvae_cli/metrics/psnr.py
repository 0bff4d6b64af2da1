"""Peak signal-to-noise ratio of 8-bit frames."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.metrics.metric import Metric, Pair


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


def decibel(mse: Tensor) -> Tensor:
    return 10 * torch.log10(255.0**2 / mse.double())


class Psnr(Metric):
    """Mean over frames of the PSNR of each, over R, G and B together; dB."""

    def of_frames(self, pair: Pair) -> Tensor:
        return decibel(pair.error.square().mean(dim=(1, 2, 3)))


class PooledPsnr(Psnr):
    """PSNR of the mean squared error of all frames; dB. Never above the mean over frames (Jensen)."""

    def value(self) -> float | None:
        values = self.per_frame()
        return float(psnr_of(np.asarray(np.mean(255.0**2 / 10 ** (values / 10))))) if len(values) else None


class LumaPsnr(Metric):
    """Mean over frames of the PSNR of BT.709 luma, full range, not rounded; dB."""

    def of_frames(self, pair: Pair) -> Tensor:
        return decibel(pair.luma_error.square().mean(dim=(1, 2)))
