"""Latents bit for bit, losslessly packed (FORMAT.md, "exact-fp32, exact-bf16, exact-fp16").

The sign moves behind the mantissa, so that the exponent fills the highest byte; then every byte of the words
is a plane of its own, and each is deflated if that makes it smaller: exponents shrink to a third, the lower
bytes of the mantissa are noise.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from cvvae_cli.errors import ConfigError, CorruptFileError

if TYPE_CHECKING:
    from cvvae_cli.bitstream.chunk import Mirrored
    from cvvae_cli.types import Borrowed

PLANE_HEAD = struct.Struct("<BI")  # kind, bytes
RAW, DEFLATED = 0, 1


def to_words(latents: np.ndarray, dtype: str) -> np.ndarray:
    """float32 → the bits of the number type `dtype`, rounded to nearest even.

    Raises ConfigError for a value beyond the type's range.
    """
    if dtype == "fp32":
        return np.ascontiguousarray(latents, np.float32).view(np.uint32)
    if dtype == "fp16":
        with np.errstate(over="ignore"):
            words = latents.astype(np.float16)
        if not np.isfinite(words[np.isfinite(latents)]).all():
            raise ConfigError("a latent is beyond the range of fp16", hint="use --exact bf16 or fp32")
        return words.view(np.uint16)
    bits = np.ascontiguousarray(latents, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(latents), bits >> 16 | 0x40, rounded).astype(np.uint16)


def from_words(words: np.ndarray, dtype: str) -> np.ndarray:
    """The inverse, as float32."""
    if dtype == "fp32":
        return words.view(np.float32)
    if dtype == "fp16":
        return words.view(np.float16).astype(np.float32)
    return (words.astype(np.uint32) << 16).view(np.float32)


EXACT_TYPES = {"exact-fp32": "fp32", "exact-bf16": "bf16", "exact-fp16": "fp16"}  # coder → number type
WORD_TYPES: dict[str, np.dtype[np.unsignedinteger]] = {
    "fp32": np.dtype("<u4"),
    "bf16": np.dtype("<u2"),
    "fp16": np.dtype("<u2"),
}


class ExactCoder:
    """Keeps latents (C, t, h, w) in a number type; chunks are independent."""

    takes_fields = False
    takes_detail = False
    takes_corrections = False
    borrows = False
    lights = False
    light: np.ndarray | None = None

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.borrowed: Borrowed = {}

    def encode(
        self,
        first_latent: int,
        latents: np.ndarray,
        fields: np.ndarray | None = None,
        mirrored: Mirrored | None = None,
        borrowed: Borrowed | None = None,
        light: np.ndarray | None = None,
    ) -> bytes:
        """float32 (C, t, h, w) → bytes."""
        return pack_words(to_words(latents, self.dtype))

    def decode(
        self, first_latent: int, data: bytes, shape: tuple[int, ...], fields: np.ndarray | None = None
    ) -> np.ndarray:
        """Bytes → float32 of `shape` (C, t, h, w)."""
        return from_words(unpack_words(data, WORD_TYPES[self.dtype], shape), self.dtype)

    def decode_fields(self, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray | None:
        return None

    def decode_detail(self, first_latent: int, data: bytes, shape: tuple[int, int, int, int]) -> None:
        return None

    def decode_corrections(self, data: bytes, shape: tuple[int, int, int, int], frames: range) -> None:
        return None

    def is_fresh(self, first_latent: int, data: bytes) -> bool:
        return True


def pack_words(words: np.ndarray) -> bytes:
    bits = words.dtype.itemsize * 8
    turned = (words << 1 | words >> (bits - 1)).astype(words.dtype.newbyteorder(">"))
    planes = turned.reshape(-1, 1).view(np.uint8).T  # the highest byte first
    return b"".join(map(pack_plane, planes))


def pack_plane(plane: np.ndarray) -> bytes:
    raw = plane.tobytes()
    huffman = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)  # floats hardly ever repeat
    deflated = huffman.compress(raw) + huffman.flush()
    kind, data = (DEFLATED, deflated) if len(deflated) < len(raw) else (RAW, raw)
    return PLANE_HEAD.pack(kind, len(data)) + data


def unpack_words(data: bytes, dtype: np.dtype[np.unsignedinteger], shape: tuple[int, ...]) -> np.ndarray:
    """Words of `shape`. Raises CorruptFileError; never allocates more than they need."""
    count = int(np.prod(shape))
    planes = np.empty((dtype.itemsize, count), np.uint8)
    position = 0
    for plane in planes:
        raw, position = unpack_plane(data, position, count)
        plane[:] = np.frombuffer(raw, np.uint8)
    if position != len(data):
        raise CorruptFileError("a chunk of exact latents holds more than its planes")
    turned = np.ascontiguousarray(planes.T).view(dtype.newbyteorder(">")).astype(dtype)
    bits = dtype.itemsize * 8
    return (turned >> 1 | turned << (bits - 1)).astype(dtype).reshape(shape)


def unpack_plane(data: bytes, position: int, count: int) -> tuple[bytes, int]:
    """The `count` bytes of the plane at `position`, and where it ends."""
    if len(data) < position + PLANE_HEAD.size:
        raise CorruptFileError("a chunk of exact latents is cut")
    kind, size = PLANE_HEAD.unpack_from(data, position)
    position += PLANE_HEAD.size
    packed = data[position : position + size]
    raw = packed if kind == RAW else inflate(packed, count)
    if kind > DEFLATED or len(packed) != size or len(raw) != count:
        raise CorruptFileError("a plane of exact latents is damaged")
    return raw, position + size


def inflate(packed: bytes, count: int) -> bytes:
    """At most `count` bytes: a bomb does not go off."""
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(packed, count)
    except zlib.error:
        raise CorruptFileError("a plane of exact latents is damaged") from None
    if not stream.eof or stream.unused_data:
        raise CorruptFileError("a plane of exact latents has another size than it should")
    return raw
