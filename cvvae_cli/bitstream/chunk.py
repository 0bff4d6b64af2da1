"""The symbols of a file, chunk by chunk: an entropy coder with its memory of the past.

The coder starts fresh at every latent frame whose number divides by the period, so that a reader can
begin there.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cvvae_cli.bitstream.coders import shift
from cvvae_cli.bitstream.context import Past


class SymbolCoder(Protocol):
    """What ENTROPY_CODERS holds."""

    def encode(self, symbols: np.ndarray, past: Past) -> bytes: ...

    def decode(self, data: bytes, shape: tuple[int, int, int, int], past: Past) -> np.ndarray: ...


class ChunkCoder:
    """Codes chunks in order; `first_latent` says where each stands."""

    def __init__(self, coder: SymbolCoder, period: int) -> None:
        self.coder = coder
        self.period = period
        self._past: Past = ()

    def encode(self, first_latent: int, symbols: np.ndarray) -> bytes:
        """int32 (t, C, h, w) → bytes."""
        data = self.coder.encode(symbols, self._past_of(first_latent))
        self._remember(symbols)
        return data

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
        for frame in symbols[-2:]:
            self._past = shift(self._past, frame)
