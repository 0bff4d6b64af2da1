"""The light of the frames of a chunk as bytes (FORMAT.md, "prior-13"; cvvae_cli/flow/light.py)."""

from __future__ import annotations

import zlib

import numpy as np

from cvvae_cli.errors import CorruptFileError
from cvvae_cli.flow.light import LEAST, MOST

RAW_DEFLATE = -zlib.MAX_WBITS
MOST_BYTES = 1 << 16


def encode_light(light: np.ndarray) -> bytes:
    """int16 (T, 2), of at most 60 frames → fewer than 256 bytes: shares, then offsets, less those before."""
    numbers = np.diff(light.T.astype(np.int32), axis=1, prepend=0).astype("<i2")
    packer = zlib.compressobj(9, wbits=RAW_DEFLATE)
    return packer.compress(numbers.tobytes()) + packer.flush()


def decode_light(data: bytes) -> np.ndarray:
    """What `encode_light` was given. Raises CorruptFileError."""
    unpacker = zlib.decompressobj(RAW_DEFLATE)
    try:
        numbers = np.frombuffer(unpacker.decompress(data, MOST_BYTES), "<i2")
    except (zlib.error, ValueError):
        raise CorruptFileError("the light of a chunk is damaged") from None
    if not unpacker.eof or len(numbers) % 2 or not len(numbers):
        raise CorruptFileError("the light of a chunk is damaged")
    light = np.cumsum(numbers.reshape(2, -1), axis=1, dtype=np.int32).T
    if (light < LEAST).any() or (light > MOST).any():
        raise CorruptFileError("the light of a chunk is out of range")
    return light.astype(np.int16)
