"""Going on where an encode was interrupted, so that the result is that of an uninterrupted one, byte by byte.

The whole chunks of the part file are kept. The source is read from its start again, because the side streams
are one Matroska stream: its bytes are made anew, and those that the part file has are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cvvae_cli.container.header import Header
from cvvae_cli.container.reader import CvlReader, open_cvl
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.errors import ConfigError, CorruptFileError

Pieces = list[tuple[int | None, bytes]]  # of side streams: time of the cluster in ms, bytes


@dataclass(frozen=True)
class ResumePoint:
    """What a part file holds of an encode."""

    chunks: int  # whole ones, kept
    side_data_bytes: int  # of the side streams before the end of them
    pts: tuple[int, ...]  # of the last chunk kept


START = ResumePoint(0, 0, ())


def writer_of(part: Path, header: Header, *, resume: bool) -> tuple[CvlWriter, ResumePoint]:
    """A writer of the part file, and where it goes on."""
    if resume and part.stat().st_size:
        cut = open_part(part)
        if cut is not None:
            with cut:
                return resume_writer(part, cut, header)
    return CvlWriter(part.open("wb"), header), START


def open_part(part: Path) -> CvlReader | None:
    """The whole records of a part file; None if there is not even a chunk."""
    try:
        return open_cvl(part, allow_partial=True)
    except CorruptFileError:
        return None


def resume_writer(part: Path, cut: CvlReader, header: Header) -> tuple[CvlWriter, ResumePoint]:
    require_same(cut.header, header, part)
    whole = cut.num_latents // header.chunk  # the last chunk of a video may be shorter: it is made again
    if whole == 0:
        return CvlWriter(part.open("wb"), header), START
    pts = cut.read_chunk(whole - 1).pts
    writer = CvlWriter.resume(part.open("r+b"), cut, whole)
    return writer, ResumePoint(whole, writer.side_data_bytes, pts)


def require_same(found: Header, wanted: Header, part: Path) -> None:
    """Refuse a part file of another job. Raises ConfigError that says what differs."""
    different = [key for key, value in vars(wanted).items() if getattr(found, key) != value]
    if wanted.source is None:
        raise ConfigError("standard input cannot be read again, so nothing can be resumed", hint=START_OVER)
    if different:
        names = {"source": "source or options", "weights": "weights", "computed": "device, dtype or tile"}
        what = names.get(different[0], different[0])
        raise ConfigError(f"{part} was begun with another {what}", hint=START_OVER)


START_OVER = "pass --force to start over"


class SideReplay:
    """Leaves out the bytes of the side streams that a part file holds already."""

    def __init__(self, bytes_known: int) -> None:
        self._known = bytes_known

    def rest(self, pieces: Iterable[tuple[int | None, bytes]]) -> Pieces:
        """The pieces that are new. Raises ConfigError if the source reads differently from before."""
        new: Pieces = []
        for time, data in pieces:
            if self._known >= len(data):
                self._known -= len(data)
            elif self._known:
                raise ConfigError("the source reads differently from before", hint=START_OVER)
            else:
                new.append((time, data))
        return new
