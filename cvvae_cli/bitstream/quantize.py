"""Floats to integers: symbols = round(latent x gain), one gain per channel."""

from __future__ import annotations

import numpy as np

MAX_SYMBOL = 32_767


class Quantizer:
    """Rounds latents (C, t, h, w) of one quality level to symbols (t, C, h, w)."""

    def __init__(self, gain: np.ndarray, step: np.ndarray | None = None) -> None:
        """float32 (C,): symbols per unit of a latent, and units per symbol, by default one over it.

        A step of its own lets reconstruction lie nearer to zero than the middle of a quantiser's cell.
        """
        self.gain = gain.astype(np.float32)[None, :, None, None]
        self.step = None if step is None else step.astype(np.float32)[None, :, None, None]

    def quantize(self, latents: np.ndarray) -> np.ndarray:
        """float32 (C, t, h, w) → int32 (t, C, h, w), clamped to ±MAX_SYMBOL."""
        scaled = np.rint(latents.transpose(1, 0, 2, 3) * self.gain)
        return np.clip(scaled, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)

    def dequantize(self, symbols: np.ndarray) -> np.ndarray:
        """int32 (t, C, h, w) → float32 (C, t, h, w)."""
        values = symbols.astype(np.float32)
        latents = values / self.gain if self.step is None else values * self.step
        return np.ascontiguousarray(latents.transpose(1, 0, 2, 3))
