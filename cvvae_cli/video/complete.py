"""Whether a file has all the bytes that it promises itself.

FFmpeg reports cut MP4 and AVI files; a cut Matroska or WebM file it reads as a shorter one.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = 0x1A45DFA3, 0x18538067


def missing_bytes(path: Path) -> int:
    """Bytes that a Matroska file lacks of the size in its head; 0 for whole files and other kinds."""
    with path.open("rb") as file:
        head = read_element(file)
        if head is None or head[0] != EBML or head[1] is None:
            return 0
        file.seek(head[1], 1)
        segment = read_element(file)
        if segment is None or segment[0] != SEGMENT or segment[1] is None:  # None: a live stream
            return 0
        return max(0, file.tell() + segment[1] - path.stat().st_size)


def read_element(file: BinaryIO) -> tuple[int, int | None] | None:
    """Number and size of the EBML element at the current place (RFC 8794); size None: not known."""
    number, size = read_number(file, keep_marker=True), read_number(file, keep_marker=False)
    if number is None or size is None:
        return None
    value, length = size
    return number[0], None if value == 2 ** (7 * length) - 1 else value


def read_number(file: BinaryIO, *, keep_marker: bool) -> tuple[int, int] | None:
    """A number of one to eight bytes, and how many; the first byte's leading zeros say it."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = first[0] if keep_marker else first[0] & (0xFF >> length)
    return int.from_bytes(bytes([value]) + file.read(length - 1), "big"), length
