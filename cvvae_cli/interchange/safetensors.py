"""safetensors files whose tensors are written and read piece by piece, through memory maps.

A tensor is kept as the bits of its number type: numpy has no bf16. Format: 8 bytes length of the JSON head,
the head, the tensors (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cvvae_cli.errors import CorruptFileError

MAX_HEAD = 100_000_000  # bytes, as the library has it
WORDS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<u4"),
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
}
LABELS = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
DTYPES = {label: dtype for dtype, label in LABELS.items()}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: its label (F32, BF16, ...) and its bits, mapped."""

    label: str
    words: np.ndarray


def create(
    path: Path, shapes: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> dict[str, Any]:
    """Lay out a file of tensors (label, shape); returns their memory maps, to be filled."""
    head: dict[str, Any] = {"__metadata__": metadata}
    place = 0
    for name, (label, shape) in shapes.items():
        size = math.prod(shape) * WORDS[label].itemsize
        head[name] = {"dtype": label, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
    return {
        name: np.memmap(path, WORDS[label], "r+", 8 + len(text) + head[name]["data_offsets"][0], shape)
        for name, (label, shape) in shapes.items()
    }


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the number types above, mapped for reading, and the metadata of a file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEAD, size - 8):
            raise damaged(path)
        try:
            head = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise damaged(path) from None
    if not isinstance(head, dict):
        raise damaged(path)
    metadata = head.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise damaged(path)
    tensors = {}
    for name, entry in head.items():
        label, shape, start = checked(path, entry, size - 8 - length)
        if label in WORDS and 0 not in shape:
            words = np.memmap(path, WORDS[label], "r", 8 + length + start, shape)
            tensors[name] = Tensor(label, words)
    return tensors, {str(key): str(value) for key, value in metadata.items()}


def checked(path: Path, entry: Any, limit: int) -> tuple[str, tuple[int, ...], int]:
    """Label, shape and offset of a tensor that lies within the file."""
    try:
        label, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [start, stop, *shape]
        is_sound = all(type(n) is int and n >= 0 for n in numbers) and start <= stop <= limit
    except (KeyError, TypeError, ValueError):
        raise damaged(path) from None
    if not is_sound or (label in WORDS and stop - start != math.prod(shape) * WORDS[label].itemsize):
        raise damaged(path)
    return str(label), tuple(map(int, shape)), start


def damaged(path: Path) -> CorruptFileError:
    return CorruptFileError(f"{path} is no sound safetensors file")
