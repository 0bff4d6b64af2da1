"""Write a .cvl file record by record; only ever appends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO

from cvvae_cli.container.header import Header
from cvvae_cli.container.layout import (
    FOOT,
    FOOTER,
    FOOTER_RECORD_BYTES,
    HEAD,
    INDEX,
    LATENTS,
    MAGIC,
    MAX_SIDE_BYTES,
    NO_TIME,
    RECORD_OVERHEAD,
    SIDE,
    SIDE_ENTRY,
    SIDE_HEAD,
    SideEntry,
    pack_chunk,
    pack_header,
    pack_index,
    pack_record,
    unpack_chunk,
    unpack_side,
)

if TYPE_CHECKING:
    from cvvae_cli.container.reader import CvlReader


SYNC_SECONDS = 5.0  # at most this much work is lost when the machine loses power; a kill loses one record


class CvlWriter:
    """Use as a context: leaving it without an error writes index and footer."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._set_up(file, header)
        self._append(MAGIC + pack_record(HEAD, pack_header(header.to_json())))

    def _set_up(self, file: BinaryIO, header: Header) -> None:
        self.file = file
        self.header = header
        self.bytes_written = 0
        self.num_frames = 0
        self.num_latents = 0
        self._index: list[int] = []  # offsets of the chunks
        self._sides: list[SideEntry] = []
        self._synced = time.monotonic()

    @classmethod
    def resume(cls, file: BinaryIO, cut: CvlReader, chunks: int) -> CvlWriter:
        """Go on after the first `chunks` chunks of a cut file, open for reading and writing.

        What comes after them is dropped. `kept_side_bytes` says how much of the side streams is kept.
        """
        writer = cls.__new__(cls)
        writer._set_up(file, cut.header)
        writer._index = list(cut.index[:chunks])
        writer.bytes_written = cut.end_of_chunk(chunks - 1)
        writer.num_latents = cut.latents_of(chunks - 1).stop
        writer.num_frames = cut.frames_of(chunks - 1).stop
        writer._sides = [side for side in cut.side if side.offset < writer.bytes_written]
        file.truncate(writer.bytes_written)
        file.seek(writer.bytes_written)
        return writer

    @property
    def side_bytes(self) -> int:
        """What the side streams take, with the overhead of their records and of the index."""
        return sum(side.size + RECORD_OVERHEAD + SIDE_ENTRY.size for side in self._sides)

    @property
    def side_data_bytes(self) -> int:
        """Bytes of the side streams themselves."""
        return sum(side.size - SIDE_HEAD.size for side in self._sides)

    def __enter__(self) -> CvlWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.finish()

    def write_chunk(self, num_latents: int, pts: Sequence[int], symbols: bytes) -> None:
        """Append the next chunk: its latent frames, the pts of its frames, its coded symbols."""
        self._index.append(self.bytes_written)
        payload = pack_chunk(self.num_latents, num_latents, pts, symbols)
        self._append(pack_record(LATENTS, payload))
        self.num_latents += num_latents
        self.num_frames += len(pts)

    def write_side(self, pieces: Iterable[tuple[int | None, bytes]]) -> None:
        """Append pieces of the side streams, each in as many records as it needs.

        A piece is the time of the cluster that it begins with, or None, and its bytes.
        """
        for at, data in pieces:
            for start in range(0, len(data), MAX_SIDE_BYTES):
                time = None if start else at
                payload = SIDE_HEAD.pack(NO_TIME if time is None else time)
                payload += data[start : start + MAX_SIDE_BYTES]
                self._sides.append(SideEntry(self.bytes_written, len(payload), time))
                self._append(pack_record(SIDE, payload))

    def sync(self) -> None:
        """Hand what was written to the system, and now and then to the disk."""
        self.file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self.file.fileno())
            self._synced = time.monotonic()

    def copy(self, source: CvlReader) -> None:
        """Append the chunks and side streams of another file of the same header."""
        for record in source.records():
            if record.tag == LATENTS:
                chunk = unpack_chunk(record)
                self.write_chunk(len(chunk.latents), chunk.pts, chunk.symbols)
            elif record.tag == SIDE:
                self.write_side([unpack_side(record)])

    def finish(self) -> None:
        """Append index and footer."""
        index_offset = self.bytes_written
        self._append(pack_record(INDEX, pack_index(self._index, self._sides)))
        size = self.bytes_written + FOOTER_RECORD_BYTES
        footer = FOOTER.pack(index_offset, self.num_frames, self.num_latents, size)
        self._append(pack_record(FOOT, footer))

    def _append(self, data: bytes) -> None:
        self.file.write(data)
        self.bytes_written += len(data)
