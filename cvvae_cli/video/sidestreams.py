"""Audio beside the video: packets as they are, carried as one Matroska byte stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from cvvae_cli.errors import CorruptFileError, UnreadableSourceError


class AppendedBytes:
    """A file that can only be appended to; `take` empties it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self.size += len(self._parts[-1])
        return len(self._parts[-1])

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts, self.size = [], 0
        return data


class SideWriter:
    """Collects the packets of one audio stream as Matroska bytes."""

    def __init__(self, stream: av.AudioStream) -> None:
        self.bytes = AppendedBytes()
        # Not seekable, so nothing that was taken is ever changed; bitexact: no random identifiers;
        # negative times (the priming of AAC) stay, or sound would come late
        options = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
        self.container = av.open(self.bytes, "w", format="matroska", options=options)
        try:
            self.stream = self.container.add_stream_from_template(stream)
            self.container.start_encoding()
        except (av.FFmpegError, ValueError):
            raise UnreadableSourceError(
                f"the audio of the source ({stream.codec_context.name}) cannot be carried along",
                hint="pass --no-audio",
            ) from None

    def add(self, packet: Any) -> None:
        packet.stream = self.stream
        self.container.mux(packet)

    def take(self) -> bytes:
        """The bytes since the last call."""
        return self.bytes.take()

    def finish(self) -> bytes:
        """The last bytes."""
        self.container.close()
        return self.take()


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
        start: Fraction = Fraction(0),
        stop: Fraction | None = None,
        *,
        may_be_cut: bool = False,
    ) -> None:
        """Of the time from `start` to `stop` seconds; times are given from `start` on."""
        try:
            self.container = av.open(ChainedBytes(parts), "r", format="matroska")
            self.stream = self.container.streams.audio[0]
        except (av.FFmpegError, IndexError):
            raise CorruptFileError("the side streams are damaged") from None
        self._may_be_cut = may_be_cut
        self._packets = self._cut(start, stop)
        self._next = next(self._packets, None)

    def _cut(self, start: Fraction, stop: Fraction | None) -> Iterator[Any]:
        for packet in self._demux():
            if not packet.size or packet.pts is None or packet.dts is None:
                continue
            shift = round(start / packet.time_base)
            if start and packet.pts < shift:
                continue
            if stop is not None and packet.pts * packet.time_base >= stop:
                return
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            yield packet

    def _demux(self) -> Iterator[Any]:
        try:
            yield from self.container.demux(self.stream)
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
