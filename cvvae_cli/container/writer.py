"""Write a .cvl file record by record; only ever appends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from cvvae_cli.container.header import Header
from cvvae_cli.container.layout import (
    FOOT,
    FOOTER,
    FOOTER_RECORD_BYTES,
    HEAD,
    INDEX,
    INDEX_ENTRY,
    LATENTS,
    MAGIC,
    MAX_SIDE_BYTES,
    RECORD_OVERHEAD,
    SIDE,
    pack_chunk,
    pack_header,
    pack_record,
    unpack_chunk,
)

if TYPE_CHECKING:
    from cvvae_cli.container.reader import CvlReader


class CvlWriter:
    """Use as a context: leaving it without an error writes index and footer."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self.file = file
        self.header = header
        self.bytes_written = 0
        self.side_bytes = 0  # with their records' overhead
        self.num_frames = 0
        self.num_latents = 0
        self._index: list[int] = []  # offsets of the chunks
        self._append(MAGIC + pack_record(HEAD, pack_header(header.to_json())))

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

    def write_side(self, data: bytes) -> None:
        """Append bytes of the side streams, cut into records."""
        for start in range(0, len(data), MAX_SIDE_BYTES):
            part = data[start : start + MAX_SIDE_BYTES]
            self._append(pack_record(SIDE, part))
            self.side_bytes += len(part) + RECORD_OVERHEAD

    def copy(self, source: CvlReader) -> None:
        """Append the chunks and side streams of another file of the same header."""
        for record in source.records():
            if record.tag == LATENTS:
                chunk = unpack_chunk(record)
                self.write_chunk(len(chunk.latents), chunk.pts, chunk.symbols)
            elif record.tag == SIDE:
                self.write_side(record.payload)

    def finish(self) -> None:
        """Append index and footer."""
        index_offset = self.bytes_written
        self._append(pack_record(INDEX, b"".join(map(INDEX_ENTRY.pack, self._index))))
        size = self.bytes_written + FOOTER_RECORD_BYTES
        footer = FOOTER.pack(index_offset, self.num_frames, self.num_latents, size)
        self._append(pack_record(FOOT, footer))

    def _append(self, data: bytes) -> None:
        self.file.write(data)
        self.bytes_written += len(data)
