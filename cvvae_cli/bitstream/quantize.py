"""Floats to integers: symbols = round(latent x gain), one gain per channel."""

from __future__ import annotations

import numpy as np

MAX_SYMBOL = 32_767


class Quantizer:
    """Rounds latents (C, t, h, w) of one quality level to symbols (t, C, h, w)."""

    def __init__(self, gain: np.ndarray) -> None:
        """`gain` is float32 (C,): one over the quantiser's step of each channel."""
        self.gain = gain.astype(np.float32)[None, :, None, None]

    def quantize(self, latents: np.ndarray) -> np.ndarray:
        """float32 (C, t, h, w) → int32 (t, C, h, w), clamped to ±MAX_SYMBOL."""
        scaled = np.rint(latents.transpose(1, 0, 2, 3) * self.gain)
        return np.clip(scaled, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)

    def dequantize(self, symbols: np.ndarray) -> np.ndarray:
        """int32 (t, C, h, w) → float32 (C, t, h, w)."""
        latents = symbols.astype(np.float32) / self.gain
        return np.ascontiguousarray(latents.transpose(1, 0, 2, 3))
