"""The outline of Matroska bytes (RFC 8794, RFC 9559): elements, their sizes, clusters and their times."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT, CLUSTER, TIMESTAMP = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xE7
LONGEST_HEAD = 12  # bytes of an element's number and size
EMPTY_CLUSTER = bytes.fromhex("1F43B675 83 E78100")  # of time 0; FFmpeg opens no stream without any cluster


def missing_bytes(path: Path) -> int:
    """Bytes that a Matroska file lacks of the size in its head; 0 for whole files and other kinds.

    FFmpeg reports cut MP4 and AVI files; a cut Matroska or WebM file it reads as a shorter one.
    """
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
    """Number and size of the EBML element at the current place; size None: not known."""
    place = file.tell()
    element = element_at(file.read(LONGEST_HEAD), 0)
    if element is None:
        return None
    number, size, length = element
    file.seek(place + length)
    return number, size


def element_at(data: bytes | bytearray, position: int) -> tuple[int, int | None, int] | None:
    """Number, size (None: not known) and length of the head of the element at `position`; None: too short."""
    number = number_at(data, position, keep_marker=True)
    if number is None:
        return None
    size = number_at(data, position + number[1], keep_marker=False)
    if size is None:
        return None
    value, length = size
    return number[0], None if value == 2 ** (7 * length) - 1 else value, number[1] + length


def number_at(data: bytes | bytearray, position: int, *, keep_marker: bool) -> tuple[int, int] | None:
    """A number of one to eight bytes, and how many; the first byte's leading zeros say it."""
    if position >= len(data) or not data[position]:
        return None
    length = 9 - data[position].bit_length()
    if position + length > len(data):
        return None
    first = data[position] if keep_marker else data[position] & (0xFF >> length)
    return int.from_bytes(bytes([first]) + data[position + 1 : position + length], "big"), length


class ElementSplitter:
    """Cuts a growing Matroska stream where its clusters begin. `take` gives whole elements only."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        """Take the next bytes of the stream: what PyAV asks of a file."""
        self._data += bytes(data)
        return len(data)

    def take(self) -> list[tuple[int | None, bytes]]:
        """The pieces since the last call: (time in ms, a cluster), or (None, other elements)."""
        pieces: list[tuple[int | None, bytes]] = []
        begin = position = 0
        while (element := element_at(self._data, position)) is not None:
            number, size, length = element
            end = position + length if number == SEGMENT or size is None else position + length + size
            if end > len(self._data):
                break
            if number == CLUSTER:
                if position > begin:
                    pieces.append((None, bytes(self._data[begin:position])))
                pieces.append((cluster_time(self._data, position + length), bytes(self._data[position:end])))
                begin = end
            position = end
        if position > begin:
            pieces.append((None, bytes(self._data[begin:position])))
        del self._data[:position]
        return pieces


def cluster_time(data: bytearray, position: int) -> int:
    """The timestamp of the cluster whose first child lies at `position`; a checksum may come before it."""
    while (element := element_at(data, position)) is not None:
        number, size, length = element
        position += length
        if size is None:
            break
        if number == TIMESTAMP:
            return int.from_bytes(data[position : position + size], "big")
        position += size
    return 0
