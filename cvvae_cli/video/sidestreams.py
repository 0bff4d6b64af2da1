"""What lies beside the video: audio, subtitles, attachments, chapters and tags, carried as Matroska bytes.

Packets are copied as they are. Only mov_text, which Matroska cannot hold, becomes SRT.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import av

from cvvae_cli.errors import CorruptFileError, UnreadableSourceError
from cvvae_cli.types import SideStream
from cvvae_cli.video.matroska import EMPTY_CLUSTER, ElementSplitter
from cvvae_cli.video.subtitles import MOV_TEXT, SRT, SRT_NAMES, srt_of_mov_text

logger = logging.getLogger("cvvae")
AUDIO, SUBTITLE, ATTACHMENT = "audio", "subtitle", "attachment"
KEPT_STREAM_TAGS = ("language", "title", "handler_name", "comment")
OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}  # of a container
MUXING = {
    "fflags": "+bitexact",  # no random identifiers
    "avoid_negative_ts": "disabled",  # the priming of AAC stays, or sound would come late
    "max_interleave_delta": "1000000",  # in microseconds: wait no longer for a sparse stream
}
ENTRY_MARGIN_MS = 1000  # packets may lie in a cluster that begins later than they do


@dataclass(frozen=True)
class Attachment:
    """A file inside a container: a font or a cover."""

    name: str
    mimetype: str
    data: bytes

    @property
    def is_picture(self) -> bool:
        return self.mimetype in PICTURE_CODECS


PICTURE_CODECS = {"image/jpeg": "mjpeg", "image/png": "png"}


@dataclass(frozen=True)
class SideSource:
    """What a source has beside the video, and what of it is kept."""

    streams: tuple[Any, ...]  # av streams of audio and subtitles
    attachments: tuple[Attachment, ...]
    chapters: tuple[Any, ...]
    tags: dict[str, str]

    def __bool__(self) -> bool:
        return bool(self.streams or self.attachments or self.chapters or self.tags)

    def describe(self) -> tuple[SideStream, ...]:
        """The streams, as the header of a file lists them."""
        streams = [
            SideStream(s.type, carried_codec(s), s.metadata.get("language"), s.metadata.get("title"))
            for s in self.streams
        ]
        return (*streams, *(SideStream(ATTACHMENT, a.mimetype, None, a.name) for a in self.attachments))


MAX_LISTED, MAX_LABEL = 64, 200  # what a header takes


def listed(streams: tuple[SideStream, ...]) -> tuple[SideStream, ...]:
    """The streams with labels no longer than a header takes. Raises UnreadableSourceError for too many."""
    if len(streams) > MAX_LISTED:
        raise UnreadableSourceError(
            f"the source has {len(streams)} side streams, a .cvl file holds {MAX_LISTED}",
            hint="pass --no-subtitles or --no-attachments",
        )

    def cut(text: str | None) -> str | None:
        return text if text is None else text[:MAX_LABEL]

    return tuple(SideStream(s.kind, s.codec[:MAX_LABEL], cut(s.language), cut(s.title)) for s in streams)


def carried_codec(stream: Any) -> str:
    name: str = stream.codec_context.name
    return SRT if name in SRT_NAMES | {MOV_TEXT} else name


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key.lower() not in OWN_TAGS}


class SideWriter:
    """Collects packets as Matroska bytes."""

    def __init__(self, source: SideSource) -> None:
        self._bytes = ElementSplitter()
        self.container = av.open(self._bytes, "w", format="matroska", options=MUXING)
        self._streams = {stream.index: self._add(stream) for stream in source.streams}
        for attachment in source.attachments:
            self.container.add_attachment(attachment.name, attachment.mimetype, attachment.data)
        stub = None if source.streams else self.container.add_mux_stream(SRT)
        self.container.set_chapters(list(source.chapters))
        self.container.metadata.update(source.tags)
        try:
            self.container.start_encoding()
        except (av.FFmpegError, ValueError):
            raise UnreadableSourceError(
                "the side streams of the source cannot be carried along",
                hint="pass --no-audio or --no-subtitles",
            ) from None
        if stub:  # Matroska asks for a stream with something in it; the header does not list this one
            packet: Any = av.Packet(b" ")
            packet.stream, packet.pts, packet.dts, packet.time_base = stub, 0, 0, Fraction(1, 1000)
            self.container.mux(packet)

    def _add(self, stream: Any) -> Any:
        try:
            if carried_codec(stream) == SRT:
                added = self.container.add_mux_stream(SRT)
            else:
                added = self.container.add_stream_from_template(stream)
        except (av.FFmpegError, ValueError):
            option = "--no-audio" if stream.type == AUDIO else "--no-subtitles"
            raise UnreadableSourceError(
                f"the {stream.type} of the source ({stream.codec_context.name}) cannot be carried along",
                hint=f"pass {option}",
            ) from None
        copy_labels(stream, added)
        return added

    def add(self, packet: Any) -> None:
        """Take a packet of one of the source's streams; others are ignored."""
        stream = self._streams.get(packet.stream.index)
        if stream is None:
            return
        if packet.stream.codec_context.name == MOV_TEXT:
            text = srt_of_mov_text(bytes(packet))
            if not text:
                return
            packet = with_payload(packet, text)
        packet.stream = stream
        self.container.mux(packet)

    def take(self) -> list[tuple[int | None, bytes]]:
        """The pieces since the last call: clusters with their times in ms, and what else there is."""
        return self._bytes.take()

    def finish(self) -> list[tuple[int | None, bytes]]:
        """The last pieces."""
        self.container.close()
        return self.take()


def with_payload(packet: Any, payload: bytes) -> Any:
    """A packet of the same times with other bytes."""
    copy: Any = av.Packet(payload)
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base = packet.time_base
    return copy


def copy_labels(source: Any, target: Any) -> None:
    """Language, title and what the stream is for."""
    target.metadata.update({k: v for k, v in source.metadata.items() if k in KEPT_STREAM_TAGS})
    target.disposition = source.disposition


class ChainedBytes(io.RawIOBase):
    """A readable file of consecutive parts."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._rest = part
        data = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(data) :]
        return data


class SideReader:
    """The packets of the side streams in order of time, up to where the video has come."""

    def __init__(
        self,
        parts: Iterator[bytes],
        count: int,
        kinds: frozenset[str],
        start: Fraction = Fraction(0),
        stop: Fraction | None = None,
        *,
        may_be_cut: bool = False,
    ) -> None:
        """Of `count` streams those of `kinds`, from `start` to `stop` seconds; times count from `start`."""
        try:
            whole = chain(parts, [EMPTY_CLUSTER])  # of a file that was cut early there may be no other
            self.container = av.open(ChainedBytes(whole), "r", format="matroska")
        except (av.FFmpegError, ValueError):
            raise CorruptFileError("the side streams are damaged") from None
        listed = list(self.container.streams)[:count]
        if len(listed) < count:
            raise CorruptFileError("the side streams are damaged")
        self.streams = [s for s in listed if s.type in kinds and s.type != ATTACHMENT and not is_cover(s)]
        self.attachments = list(self._attachments(listed)) if ATTACHMENT in kinds else []
        self.tags = kept_tags(dict(self.container.metadata))
        self.chapters = [c for c in map(Shift(start, stop), self.container.chapters()) if c]
        self._may_be_cut = may_be_cut
        self._packets = self._cut(start, stop)
        self._next = next(self._packets, None) if self.streams else None

    def _attachments(self, listed: list[Any]) -> Iterator[Attachment]:
        covers = [s for s in listed if is_cover(s)]
        pictures: dict[int, bytes] = {}
        for packet in self._demux(covers) if covers else ():
            pictures.setdefault(packet.stream.index, bytes(packet))
            if len(pictures) == len(covers):
                break
        for s in listed:
            name, mimetype = (s.metadata.get(key, "") for key in ("filename", "mimetype"))
            if is_cover(s):
                yield Attachment(name, mimetype, pictures.get(s.index, b""))
            elif s.type == ATTACHMENT:
                yield Attachment(name, mimetype, bytes(s.data))

    def _cut(self, start: Fraction, stop: Fraction | None) -> Iterator[Any]:
        for packet in self._demux(self.streams):
            if not packet.size or packet.pts is None:
                continue
            shift = round(start / packet.time_base)
            if start and packet.pts < shift:
                continue
            if stop is not None and packet.pts * packet.time_base >= stop:
                continue
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            yield packet

    def _demux(self, streams: list[Any]) -> Iterator[Any]:
        try:
            yield from self.container.demux(streams)
        except av.FFmpegError:
            if not self._may_be_cut:
                raise CorruptFileError("the side streams are damaged") from None

    def until(self, seconds: Fraction | None) -> Iterator[Any]:
        """Packets that start before `seconds`; all that are left for None."""
        while self._next is not None:
            packet = self._next
            if seconds is not None and (packet.pts or 0) * packet.time_base >= seconds:
                return
            self._next = next(self._packets, None)
            yield packet


@dataclass(frozen=True)
class Shift:
    """Moves a chapter into a part of the video; None if nothing of it is left."""

    start: Fraction
    stop: Fraction | None

    def __call__(self, chapter: Any) -> Any:
        begin, end = (chapter[key] * chapter["time_base"] for key in ("start", "end"))
        if end <= self.start or (self.stop is not None and begin >= self.stop):
            return None
        begin, end = max(begin, self.start), end if self.stop is None else min(end, self.stop)
        times = {"start": round((begin - self.start) * 1000), "end": round((end - self.start) * 1000)}
        return {**chapter, **times, "time_base": Fraction(1, 1000)}


def is_cover(stream: Any) -> bool:
    """Whether a video stream is a picture that belongs to the file, not a video."""
    return stream.type == "video" and bool(stream.disposition & av.stream.Disposition.attached_pic)
