"""The latents of a file, chunk by chunk: exactly, or as symbols of an entropy coder that knows the past.

The coder starts fresh at every latent frame whose number divides by the period, so that a reader can
begin there.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.bitstream.residuals import Past, Plan, shift


class LatentCoder(Protocol):
    """Codes the chunks of a file in order; `first_latent` says where each stands."""

    def encode(self, first_latent: int, latents: np.ndarray) -> bytes:
        """float32 (C, t, h, w) → bytes."""
        ...

    def decode(self, first_latent: int, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
        """Bytes → float32 of `shape` (C, t, h, w)."""
        ...


class SymbolCoder(Protocol):
    """What ENTROPY_CODERS holds."""

    def choose(self, scaled: np.ndarray, past: Past) -> Plan: ...

    def pack(self, plan: Plan) -> bytes: ...

    def decode(self, data: bytes, shape: tuple[int, int, int, int], past: Past) -> np.ndarray: ...

    def unpack(self, data: bytes, shape: tuple[int, int, int, int], past: Past) -> Plan: ...

    def bits_by_channel(self, plan: Plan) -> np.ndarray: ...


class QuantizedCoder:
    """Turns latents into symbols and codes those: a LatentCoder."""

    def __init__(self, quantizer: Quantizer, chunks: ChunkCoder) -> None:
        self.quantizer = quantizer
        self.chunks = chunks

    def encode(self, first_latent: int, latents: np.ndarray) -> bytes:
        return self.chunks.encode(first_latent, self.quantizer.scale(latents))

    def decode(self, first_latent: int, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
        channels, t, h, w = shape
        return self.quantizer.dequantize(self.chunks.decode(first_latent, data, (t, channels, h, w)))


class ChunkCoder:
    """Codes the symbols of chunks in order; `first_latent` says where each stands."""

    def __init__(self, coder: SymbolCoder, period: int) -> None:
        self.coder = coder
        self.period = period
        self._past: Past = ()

    def encode(self, first_latent: int, scaled: np.ndarray) -> bytes:
        """Latents in cells of the quantiser, float32 (t, C, h, w) → bytes."""
        return self.coder.pack(self.choose(first_latent, scaled))

    def choose(self, first_latent: int, scaled: np.ndarray) -> Plan:
        """The symbols that stand for latents in cells of the quantiser, float32 (t, C, h, w)."""
        plan = self.coder.choose(scaled, self._past_of(first_latent))
        self._remember(plan.symbols)
        return plan

    def measure(self, first_latent: int, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
        """float64 (C,): the bits of bytes that `decode` would read, by channel."""
        plan = self.coder.unpack(data, shape, self._past_of(first_latent))
        self._remember(plan.symbols)
        return self.coder.bits_by_channel(plan)

    def decode(self, first_latent: int, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
        """Bytes → int32 of `shape` (t, C, h, w)."""
        symbols = self.coder.decode(data, shape, self._past_of(first_latent))
        self._remember(symbols)
        return symbols

    def _past_of(self, first_latent: int) -> Past:
        if first_latent % self.period == 0:
            self._past = ()
        return self._past

    def _remember(self, symbols: np.ndarray) -> None:
        for frame in symbols:
            self._past = shift(self._past, frame)
