"""Read a .cvl file: header, index, chunks and side streams. Every byte is untrusted."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from cvvae_cli.container.header import Header, parse_header
from cvvae_cli.container.layout import (
    CUT_HINT,
    FOOT,
    FOOTER,
    FOOTER_RECORD_BYTES,
    HEAD,
    INDEX,
    LATENTS,
    MAGIC,
    RECORD_OVERHEAD,
    SIDE,
    SIDE_ENTRY,
    Chunk,
    Record,
    SideEntry,
    read_record,
    unpack_chunk,
    unpack_header,
    unpack_index,
    unpack_side,
)
from cvvae_cli.errors import CorruptFileError, SourceNotFoundError, UnreadableSourceError


class CvlReader:
    """A .cvl file in a seekable binary file. Raises CorruptFileError wherever it breaks FORMAT.md.

    With `allow_partial` a file that was cut is read up to its last whole record, and `is_cut` says so.
    """

    def __init__(self, file: BinaryIO, *, allow_partial: bool = False) -> None:
        self.file = file
        self.size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC:
            raise CorruptFileError("this is not a .cvl file", hint="`cvvae encode` makes one from a video")
        head = read_record(file, len(MAGIC), self.size_bytes)
        if head.tag != HEAD:
            raise CorruptFileError("the first record is not the header")
        self.header: Header = parse_header(unpack_header(head.payload))
        self._first_record = file.tell()
        self._end = self.size_bytes  # of what is read
        self.is_cut = False
        try:
            index_offset, self.num_frames, self.num_latents = self._read_footer()
            self.index, self.side = self._read_index(index_offset)
        except CorruptFileError:
            if not allow_partial:
                raise
            self._scan()

    def __enter__(self) -> CvlReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _read_footer(self) -> tuple[int, int, int]:
        start = self.size_bytes - FOOTER_RECORD_BYTES
        if start < self._first_record:
            raise CorruptFileError("the file has no footer", hint=CUT_HINT)
        self.file.seek(start)
        try:
            record = read_record(self.file, start, self.size_bytes)
        except CorruptFileError:
            raise CorruptFileError("the file has no sound footer", hint=CUT_HINT) from None
        if record.tag != FOOT or len(record.payload) != FOOTER.size:
            raise CorruptFileError("the file has no footer", hint=CUT_HINT)
        index_offset, num_frames, num_latents, size = FOOTER.unpack(record.payload)
        if size != self.size_bytes:
            raise CorruptFileError(f"the file has {self.size_bytes} bytes, its footer says {size}")
        if not self._first_record <= index_offset < start:
            raise CorruptFileError("the footer points outside the file")
        if num_frames < 1 or self.header.geometry.num_latents(num_frames) != num_latents:
            raise CorruptFileError(f"{num_latents} latents cannot hold {num_frames} frames")
        return index_offset, num_frames, num_latents

    def _read_index(self, offset: int) -> tuple[tuple[int, ...], tuple[SideEntry, ...]]:
        record = self._record_at(offset)
        if record.tag != INDEX:
            raise CorruptFileError("the footer does not point at an index")
        if self.file.tell() != self.size_bytes - FOOTER_RECORD_BYTES:
            raise CorruptFileError("there is something between index and footer")
        offsets, sides = unpack_index(record.payload)
        if len(offsets) != -(-self.num_latents // self.header.chunk):
            raise CorruptFileError("the index does not match the footer")
        for places in (offsets, tuple(side.offset for side in sides)):
            bounds = (self._first_record - 1, *places, record.offset)
            if any(a >= b for a, b in pairwise(bounds)):
                raise CorruptFileError("the index points outside the file, or backwards")
        if any(s.offset + s.size + RECORD_OVERHEAD > record.offset for s in sides):
            raise CorruptFileError("the index names a side record that ends beyond it")
        return offsets, sides

    def _scan(self) -> None:
        """Find the whole chunks of a cut file."""
        self.is_cut, self.num_frames, self.num_latents = True, 0, 0
        offsets: list[int] = []
        sides: list[SideEntry] = []
        end = self._first_record
        try:
            for record in self.records():
                if record.tag == LATENTS:
                    chunk = unpack_chunk(record)
                    if chunk.latents.start != self.num_latents or self.num_latents % self.header.chunk:
                        break
                    offsets.append(record.offset)
                    self.num_latents = chunk.latents.stop
                    self.num_frames += len(chunk.pts)
                elif record.tag == SIDE:
                    sides.append(SideEntry(record.offset, len(record.payload), unpack_side(record)[0]))
                elif record.tag in (INDEX, FOOT):
                    break
                end = self.file.tell()
        except CorruptFileError:
            pass  # the cut
        if not offsets or self.header.geometry.num_latents(self.num_frames) != self.num_latents:
            raise CorruptFileError("the file holds no whole chunk", hint=CUT_HINT)
        self.index, self.side, self._end = tuple(offsets), tuple(sides), end

    def latents_of(self, number: int) -> range:
        """The latent frames of a chunk."""
        start = number * self.header.chunk
        return range(start, min(start + self.header.chunk, self.num_latents))

    def frames_of(self, number: int) -> range:
        """The frames of a chunk."""
        frames = self.header.geometry.frames_of(self.latents_of(number))
        return range(frames.start, min(frames.stop, self.num_frames))

    def _record_at(self, offset: int) -> Record:
        self.file.seek(offset)
        return read_record(self.file, offset, self.size_bytes)

    def end_of_chunk(self, number: int) -> int:
        """Where the record after a chunk begins."""
        self.read_chunk(number)
        return self.file.tell()

    def read_chunk(self, number: int) -> Chunk:
        """Chunk `number` of the index; its symbols are still coded."""
        record = self._record_at(self.index[number])
        if record.tag != LATENTS:
            raise CorruptFileError(f"the index points at {record.tag!r}, not at a chunk")
        return self._checked_chunk(record, number)

    def _checked_chunk(self, record: Record, number: int) -> Chunk:
        chunk = unpack_chunk(record)
        if chunk.latents != self.latents_of(number):
            raise CorruptFileError(f"chunk {number} holds other latents than the grid says")
        if len(chunk.pts) != len(self.frames_of(number)):
            raise CorruptFileError(f"chunk {number} holds {len(chunk.pts)} frames")
        return chunk

    def chunk_at(self, frame: int) -> int:
        """Number of the chunk that holds a frame."""
        if not 0 <= frame < self.num_frames:
            raise IndexError(f"frame {frame} of {self.num_frames}")
        return self.header.geometry.latent_of(frame) // self.header.chunk

    def frame_at(self, ticks: int) -> int:
        """The first frame shown at `ticks` of the time base or later; `num_frames` if there is none."""
        chunk = bisect_left(range(len(self.index)), ticks, key=lambda i: self.read_chunk(i).pts[-1])
        if chunk == len(self.index):
            return self.num_frames
        return self.frames_of(chunk).start + bisect_left(self.read_chunk(chunk).pts, ticks)

    def records(self) -> Iterator[Record]:
        """Every record after the header, in order; checks that they tile the file."""
        offset = self._first_record
        while offset < self._end:
            record = self._record_at(offset)
            offset = self.file.tell()
            yield record

    def side_data(self, from_ms: int | None = None) -> Iterator[bytes]:
        """The Matroska bytes of the side streams, in parts.

        With `from_ms` the head of the stream, then what begins at the last cluster that is not later.
        """
        clusters = [i for i, side in enumerate(self.side) if side.time is not None]
        head = clusters[0] if clusters else len(self.side)
        begin = head
        if from_ms is not None:
            begin = max((i for i in clusters if (self.side[i].time or 0) <= from_ms), default=head)
        for entry in (*self.side[:head], *self.side[begin:]):
            record = self._record_at(entry.offset)
            if record.tag != SIDE or len(record.payload) != entry.size:
                raise CorruptFileError(f"the index points at {record.tag!r}, not at side streams")
            time, data = unpack_side(record)
            if time != entry.time:
                raise CorruptFileError(f"the side record at byte {entry.offset} has another time")
            yield data

    def side_bytes(self) -> int:
        """What the side streams take of the file, with the overhead of their records and of the index."""
        return sum(side.size + RECORD_OVERHEAD + SIDE_ENTRY.size for side in self.side)

    def symbol_bytes(self) -> int:
        """What the coded symbols take, without any overhead."""
        return sum(len(self.read_chunk(number).symbols) for number in range(len(self.index)))

    def verify(self) -> None:
        """Read and check every byte. Raises CorruptFileError."""
        number, last = 0, -(2**64)
        sides: list[SideEntry] = []
        for record in self.records():
            if record.tag == LATENTS:
                if number >= len(self.index) or self.index[number] != record.offset:
                    raise CorruptFileError(f"the chunk at byte {record.offset} is not in the index")
                chunk = self._checked_chunk(record, number)
                if chunk.pts[0] <= last:
                    raise CorruptFileError(f"the timestamps of chunk {number} go back")
                last = chunk.pts[-1]
                number += 1
            elif record.tag == SIDE:
                sides.append(SideEntry(record.offset, len(record.payload), unpack_side(record)[0]))
            elif record.tag == HEAD:
                raise CorruptFileError(f"a second header at byte {record.offset}")
        if number != len(self.index):
            raise CorruptFileError(f"{number} chunks, the index has {len(self.index)}")
        if tuple(sides) != self.side:
            raise CorruptFileError("the side records are not those of the index")


def open_cvl(source: Path, *, allow_partial: bool = False) -> CvlReader:
    """Open a .cvl file; use the reader as a context."""
    if not source.exists():
        part = source.with_name(source.name + ".part")
        hint = f"an encode was interrupted: {part} holds what it wrote; `cvvae encode --resume` goes on"
        raise SourceNotFoundError(f"{source} does not exist", hint=hint if part.exists() else None)
    if source.is_dir():
        raise UnreadableSourceError(f"{source} is a folder, not a .cvl file")
    try:
        file = source.open("rb")
    except PermissionError:
        raise UnreadableSourceError(f"{source} may not be read", hint="check its permissions") from None
    try:
        return CvlReader(file, allow_partial=allow_partial)
    except BaseException:
        file.close()
        raise
