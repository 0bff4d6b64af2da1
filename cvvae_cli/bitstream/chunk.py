"""The latents of a file, chunk by chunk: exactly, or as symbols of an entropy coder that knows the past.

The coder starts fresh at every latent frame whose number divides by the period, so that a reader can
begin there.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cvvae_cli.bitstream.flow import FlowCoder
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.bitstream.residuals import Aligned, Past, Plan, shift
from cvvae_cli.bitstream.vectors import CELL
from cvvae_cli.errors import CorruptFileError
from cvvae_cli.flow.field import OTHERS, field_size

SIZE_BYTES = 3
Shape = tuple[int, int, int, int]
Fields = np.ndarray | None  # int16 (t, 3, 2, rows, columns), where frames may be aligned: flow/field.py


class LatentCoder(Protocol):
    """Codes the chunks of a file in order; `first_latent` says where each stands."""

    takes_fields: bool  # whether groups of frames may be aligned before they are encoded (cvvae_cli/flow)

    def encode(self, first_latent: int, latents: np.ndarray, fields: Fields = None) -> bytes:
        """float32 (C, t, h, w), and fields int16 (t, 3, 2, rows, columns) or None → bytes."""
        ...

    def decode(self, first_latent: int, data: bytes, shape: Shape, fields: Fields = None) -> np.ndarray:
        """Bytes → float32 of `shape` (C, t, h, w); with what `decode_fields` gave, if that is at hand."""
        ...

    def decode_fields(self, data: bytes, shape: Shape) -> np.ndarray | None:
        """Bytes → the fields of latents of that shape."""
        ...


class SymbolCoder(Protocol):
    """What ENTROPY_CODERS holds."""

    def choose(self, scaled: np.ndarray, past: Past, aligned: Aligned = None) -> Plan: ...

    def pack(self, plan: Plan) -> bytes: ...

    def bits_by_channel(self, plan: Plan) -> np.ndarray: ...

    def unpack(self, data: bytes, shape: Shape, past: Past, aligned: Aligned = None) -> Plan: ...

    def decode(self, data: bytes, shape: Shape, past: Past, aligned: Aligned = None) -> np.ndarray: ...


class QuantizedCoder:
    """Turns latents into symbols and codes those: a LatentCoder."""

    takes_fields = False

    def __init__(self, quantizer: Quantizer, chunks: ChunkCoder) -> None:
        self.quantizer = quantizer
        self.chunks = chunks

    def encode(self, first_latent: int, latents: np.ndarray, fields: Fields = None) -> bytes:
        return self.chunks.encode(first_latent, self.quantizer.scale(latents))

    def decode(self, first_latent: int, data: bytes, shape: Shape, fields: Fields = None) -> np.ndarray:
        return self.quantizer.dequantize(self.chunks.decode(first_latent, data, in_time(shape)))

    def decode_fields(self, data: bytes, shape: Shape) -> np.ndarray | None:
        return None

    def measure(self, first_latent: int, data: bytes, shape: Shape) -> np.ndarray:
        """float64 (C,): the bits of what `decode` reads, by channel; all share what lies beside symbols."""
        return self.chunks.measure(first_latent, data, in_time(shape))


class CoderWithFields(QuantizedCoder):
    """Codes fields before the symbols: how many bytes they take, then those, if any group is aligned."""

    takes_fields = True

    def __init__(self, quantizer: Quantizer, chunks: ChunkCoder, flow: FlowCoder) -> None:
        super().__init__(quantizer, chunks)
        self.flow = flow

    def encode(self, first_latent: int, latents: np.ndarray, fields: Fields = None) -> bytes:
        assert fields is not None
        moved = self.flow.encode_fields(fields) if fields.any() else b""
        symbols = self.chunks.encode(first_latent, self.quantizer.scale(latents), which_aligned(fields))
        return len(moved).to_bytes(SIZE_BYTES, "little") + moved + symbols

    def decode(self, first_latent: int, data: bytes, shape: Shape, fields: Fields = None) -> np.ndarray:
        aligned = which_aligned(self.decode_fields(data, shape) if fields is None else fields)
        symbols = self.chunks.decode(first_latent, cut(data)[1], in_time(shape), aligned)
        return self.quantizer.dequantize(symbols)

    def decode_fields(self, data: bytes, shape: Shape) -> np.ndarray:
        moved, _ = cut(data)
        places = (shape[1], *field_size(*(CELL * n for n in shape[2:])))
        if not moved:
            return np.zeros((places[0], len(OTHERS), 2, *places[1:]), np.int16)
        return self.flow.decode_fields(moved, places)

    def measure(self, first_latent: int, data: bytes, shape: Shape) -> np.ndarray:
        moved, symbols = cut(data)
        aligned = which_aligned(self.decode_fields(data, shape))
        bits = self.chunks.measure(first_latent, symbols, in_time(shape), aligned)
        return bits + 8 * (SIZE_BYTES + len(moved)) / shape[0]


def in_time(shape: Shape) -> Shape:
    """(C, t, h, w) → (t, C, h, w)."""
    return (shape[1], shape[0], *shape[2:])


def which_aligned(fields: np.ndarray) -> np.ndarray:
    """Fields (t, 3, 2, rows, columns) → of each latent frame, whether its frames were moved: bool (t,)."""
    return np.logical_or.reduce(fields, axis=(1, 2, 3, 4))


def cut(data: bytes) -> tuple[bytes, bytes]:
    """What is coded of the fields of a chunk, and of its symbols. Raises CorruptFileError."""
    end = SIZE_BYTES + int.from_bytes(data[:SIZE_BYTES], "little")
    if not SIZE_BYTES <= end < len(data):
        raise CorruptFileError("the motion of a chunk is cut")
    return data[SIZE_BYTES:end], data[end:]


class ChunkCoder:
    """Codes the symbols of chunks in order; `first_latent` says where each stands."""

    def __init__(self, coder: SymbolCoder, period: int) -> None:
        self.coder = coder
        self.period = period
        self._past: Past = ()

    def encode(self, first_latent: int, scaled: np.ndarray, aligned: Aligned = None) -> bytes:
        """Latents in cells of the quantiser, float32 (t, C, h, w) → bytes."""
        return self.coder.pack(self.choose(first_latent, scaled, aligned))

    def choose(self, first_latent: int, scaled: np.ndarray, aligned: Aligned = None) -> Plan:
        """The symbols that stand for latents in cells of the quantiser, float32 (t, C, h, w)."""
        plan = self.coder.choose(scaled, self._past_of(first_latent), aligned)
        self._remember(plan.symbols)
        return plan

    def measure(self, first_latent: int, data: bytes, shape: Shape, aligned: Aligned = None) -> np.ndarray:
        """float64 (C,): the bits of bytes that `decode` would read, by channel."""
        plan = self.coder.unpack(data, shape, self._past_of(first_latent), aligned)
        self._remember(plan.symbols)
        return self.coder.bits_by_channel(plan)

    def decode(self, first_latent: int, data: bytes, shape: Shape, aligned: Aligned = None) -> np.ndarray:
        """Bytes → int32 of `shape` (t, C, h, w)."""
        symbols = self.coder.decode(data, shape, self._past_of(first_latent), aligned)
        self._remember(symbols)
        return symbols

    def _past_of(self, first_latent: int) -> Past:
        if first_latent % self.period == 0:
            self._past = ()
        return self._past

    def _remember(self, symbols: np.ndarray) -> None:
        for frame in symbols:
            self._past = shift(self._past, frame)
