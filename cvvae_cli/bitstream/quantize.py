"""Floats to integers and back: a gain and a step per channel."""

from __future__ import annotations

import numpy as np

MAX_SYMBOL = 32_767


def rounded(scaled: np.ndarray) -> np.ndarray:
    """The nearest symbols, int64, clamped to ±MAX_SYMBOL."""
    return np.clip(np.rint(scaled), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int64)


class Quantizer:
    """Between latents (C, t, h, w) of one quality level and symbols (t, C, h, w)."""

    def __init__(self, gain: np.ndarray, step: np.ndarray | None = None, symbol_bits: int = 0) -> None:
        """float32 (C,): cells per unit of a latent, and units per cell, by default one over it.

        A step of its own lets reconstruction lie nearer to zero than the middle of a quantiser's cell.
        Symbols that are dequantised have `symbol_bits` after their point.
        """
        self.symbol_bits = symbol_bits
        self.gain = gain.astype(np.float32)[None, :, None, None]
        self.step = None if step is None else step.astype(np.float32)[None, :, None, None]

    def scale(self, latents: np.ndarray) -> np.ndarray:
        """float32 (C, t, h, w) → (t, C, h, w), in cells of the quantiser."""
        scaled: np.ndarray = latents.transpose(1, 0, 2, 3) * self.gain
        return scaled

    def quantize(self, latents: np.ndarray) -> np.ndarray:
        """float32 (C, t, h, w) → int32 (t, C, h, w), the nearest symbols."""
        return rounded(self.scale(latents)).astype(np.int32)

    def dequantize(self, symbols: np.ndarray) -> np.ndarray:
        """int32 (t, C, h, w) → float32 (C, t, h, w)."""
        values = symbols.astype(np.float32) * np.float32(0.5**self.symbol_bits)
        latents = values / self.gain if self.step is None else values * self.step
        return np.ascontiguousarray(latents.transpose(1, 0, 2, 3))
