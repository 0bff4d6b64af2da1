"""Records of a .cvl file: tags, limits and packing, as FORMAT.md says. Knows nothing of video or models."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

from cvvae_cli.errors import CorruptFileError, UnsupportedFormatError

MAGIC = b"\x89CVL\r\n\x1a\n"
VERSION = (1, 0)

RECORD_HEAD = struct.Struct("<4sI")  # tag, payload bytes
CRC = struct.Struct("<I")
CHUNK_HEAD = struct.Struct("<IHH")  # first latent, latents, frames
SIDE_HEAD = struct.Struct("<q")  # time of the cluster it begins with
INDEX_COUNTS = struct.Struct("<II")  # chunks, side records
INDEX_ENTRY = struct.Struct("<Q")  # offset of a chunk
SIDE_ENTRY = struct.Struct("<QIq")  # offset, payload bytes, time
FOOTER = struct.Struct("<QQQQ")  # index offset, frames, latents, file bytes
FOOTER_RECORD_BYTES = RECORD_HEAD.size + FOOTER.size + CRC.size
RECORD_OVERHEAD = RECORD_HEAD.size + CRC.size

HEAD, LATENTS, SIDE, INDEX, FOOT = b"HEAD", b"LATS", b"SIDE", b"INDX", b"FOOT"
MAX_PAYLOAD = {HEAD: 2**16, LATENTS: 2**30, SIDE: 2**22, INDEX: 2**28, FOOT: FOOTER.size}
MAX_UNKNOWN_PAYLOAD = 2**28
MAX_SIDE_BYTES = MAX_PAYLOAD[SIDE] - SIDE_HEAD.size
NO_TIME = -(2**63)  # of side bytes that do not begin with a cluster
MAX_FRAMES_PER_CHUNK = 2**16 - 1


@dataclass(frozen=True)
class Record:
    """One record whose checksum held."""

    offset: int
    tag: bytes
    payload: bytes


@dataclass(frozen=True)
class Chunk:
    """A LATS record, taken apart; `symbols` is still coded."""

    latents: range
    pts: tuple[int, ...]
    symbols: bytes


def pack_record(tag: bytes, payload: bytes) -> bytes:
    """Frame a payload. Raises ValueError above the limit of its tag: a mistake of ours."""
    if len(payload) > MAX_PAYLOAD[tag]:
        raise ValueError(f"{tag!r} of {len(payload)} bytes, the limit is {MAX_PAYLOAD[tag]}")
    body = RECORD_HEAD.pack(tag, len(payload)) + payload
    return body + CRC.pack(zlib.crc32(body))


@dataclass(frozen=True)
class SideEntry:
    """A SIDE record in the index; `time` is that of its cluster in ms, or None."""

    offset: int
    size: int  # of the payload
    time: int | None


def read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise CorruptFileError(f"the file ends {size - len(data)} bytes too early", hint=CUT_HINT)
    return data


CUT_HINT = "the file was cut short: copy it again, or save what is there with `cvvae repair`"


def read_record(file: BinaryIO, offset: int, end: int) -> Record:
    """Read the record at `offset`, the current position; its size is checked before anything is allocated."""
    head = read_exactly(file, RECORD_HEAD.size)
    tag, size = RECORD_HEAD.unpack(head)
    limit = MAX_PAYLOAD.get(tag, MAX_UNKNOWN_PAYLOAD)
    if size > limit:
        raise CorruptFileError(f"a record at byte {offset} claims {size} bytes, the limit is {limit}")
    if size > end - offset - RECORD_OVERHEAD:
        raise CorruptFileError(f"the record at byte {offset} ends beyond the file", hint=CUT_HINT)
    payload = read_exactly(file, size)
    (crc,) = CRC.unpack(read_exactly(file, CRC.size))
    if crc != zlib.crc32(payload, zlib.crc32(head)):
        raise CorruptFileError(f"the record at byte {offset} fails its checksum")
    return Record(offset, tag, payload)


def pack_header(header: dict[str, Any]) -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return bytes(VERSION) + text.encode()


def unpack_header(payload: bytes) -> dict[str, Any]:
    """The JSON object of a HEAD record. Refuses a newer major version."""
    if len(payload) < 2:
        raise CorruptFileError("the header is empty")
    major, minor = payload[0], payload[1]
    if major > VERSION[0]:
        raise UnsupportedFormatError(
            f"the file has format {major}.{minor}, this program knows {VERSION[0]}.{VERSION[1]}",
            hint="install a newer cvvae",
        )
    if major < 1:
        raise UnsupportedFormatError(
            f"the file has format {major}.{minor}, from before the format was settled",
            hint="decode it with the version of cvvae that made it, and encode it again",
        )
    try:
        header = json.loads(payload[2:])
    except (ValueError, RecursionError):
        raise CorruptFileError("the header is not JSON") from None
    if not isinstance(header, dict):
        raise CorruptFileError("the header is not a JSON object")
    return header


def pack_chunk(first_latent: int, num_latents: int, pts: Sequence[int], symbols: bytes) -> bytes:
    return CHUNK_HEAD.pack(first_latent, num_latents, len(pts)) + pack_times(pts) + symbols


def unpack_chunk(record: Record) -> Chunk:
    """Take a LATS payload apart."""
    payload = record.payload
    if len(payload) < CHUNK_HEAD.size:
        raise CorruptFileError(f"the chunk at byte {record.offset} is too short")
    first, num_latents, num_frames = CHUNK_HEAD.unpack_from(payload)
    if not 1 <= num_latents <= 256 or num_frames < 1:
        raise CorruptFileError(f"the chunk at byte {record.offset} holds {num_latents} latents")
    pts, end = unpack_times(payload, CHUNK_HEAD.size, num_frames)
    return Chunk(range(first, first + num_latents), pts, payload[end:])


def pack_times(pts: Sequence[int]) -> bytes:
    """First pts, then run-length coded differences.

    >>> pack_times([0, 512, 1024]).hex()
    '0001800402'
    """
    runs: list[list[int]] = []
    for before, after in pairwise(pts):
        delta = after - before
        if runs and runs[-1][0] == delta:
            runs[-1][1] += 1
        else:
            runs.append([delta, 1])
    first = int(pts[0])
    numbers = [first * 2 if first >= 0 else -first * 2 - 1, len(runs), *(n for run in runs for n in run)]
    return b"".join(map(pack_varint, numbers))


def unpack_times(data: bytes, position: int, num_frames: int) -> tuple[tuple[int, ...], int]:
    """The pts of `num_frames` frames, and where they end."""
    zigzag, position = unpack_varint(data, position)
    runs, position = unpack_varint(data, position)
    pts = [zigzag >> 1 if zigzag % 2 == 0 else -(zigzag >> 1) - 1]
    if runs >= num_frames:
        raise CorruptFileError("a chunk has more runs of timestamps than frames")
    for _ in range(runs):
        delta, position = unpack_varint(data, position)
        repeats, position = unpack_varint(data, position)
        if delta < 1 or not 1 <= repeats <= num_frames - len(pts):
            raise CorruptFileError("the timestamps of a chunk do not fit its frames")
        last = pts[-1]
        pts.extend(last + delta * (i + 1) for i in range(repeats))
    if len(pts) != num_frames:
        raise CorruptFileError(f"a chunk has {len(pts)} timestamps for {num_frames} frames")
    return tuple(pts), position


def pack_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack_index(chunks: Sequence[int], sides: Sequence[SideEntry]) -> bytes:
    """The offsets of all chunks, then what is to know of each side record."""
    entries = [INDEX_COUNTS.pack(len(chunks), len(sides)), *map(INDEX_ENTRY.pack, chunks)]
    entries += [SIDE_ENTRY.pack(s.offset, s.size, NO_TIME if s.time is None else s.time) for s in sides]
    return b"".join(entries)


def unpack_index(payload: bytes) -> tuple[tuple[int, ...], tuple[SideEntry, ...]]:
    """The inverse of `pack_index`."""
    if len(payload) < INDEX_COUNTS.size:
        raise CorruptFileError("the index is too short")
    chunks, sides = INDEX_COUNTS.unpack_from(payload)
    middle = INDEX_COUNTS.size + chunks * INDEX_ENTRY.size
    if len(payload) != middle + sides * SIDE_ENTRY.size:
        raise CorruptFileError("the index has another size than it says")
    offsets = tuple(offset for (offset,) in INDEX_ENTRY.iter_unpack(payload[INDEX_COUNTS.size : middle]))
    entries = SIDE_ENTRY.iter_unpack(payload[middle:])
    return offsets, tuple(SideEntry(o, s, None if t == NO_TIME else t) for o, s, t in entries)


def unpack_side(record: Record) -> tuple[int | None, bytes]:
    """Time and bytes of a SIDE record."""
    if len(record.payload) < SIDE_HEAD.size:
        raise CorruptFileError(f"the side record at byte {record.offset} is too short")
    (time,) = SIDE_HEAD.unpack_from(record.payload)
    return None if time == NO_TIME else time, record.payload[SIDE_HEAD.size :]


def unpack_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise CorruptFileError("a number in a chunk is cut")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    else:
        raise CorruptFileError("a number in a chunk is too long")
    if value >= 2**63:
        raise CorruptFileError("a number in a chunk is too large")
    return value, position
