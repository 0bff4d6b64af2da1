"""Read a video, a picture, or a folder of frames as batches of upright RGB frames."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from cvvae_cli.errors import ConfigError, SourceNotFoundError, UnreadableSourceError
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.color import ToRgb, color_of
from cvvae_cli.video.complete import missing_bytes

BATCH_FRAMES = 8
MIN_SIDE = 16
DEFAULT_FOLDER_RATE = Fraction(24)
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}

Packet = Any  # av.Packet of an audio stream
logger = logging.getLogger("cvvae")  # what a user should know; the command shows it on stderr
OnPacket = Callable[[Packet], None]


def natural_key(path: Path) -> list[int | str]:
    """Sort key that puts frame 10 after frame 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a frame folder, in order."""
    files = [e for e in folder.iterdir() if e.suffix.lower() in PICTURE_SUFFIXES and e.is_file()]
    return sorted(files, key=natural_key)


def upright(rgb: np.ndarray, rotation: int) -> np.ndarray:
    """Turn a picture `rotation` degrees clockwise; 0, 90, 180 or 270."""
    return np.ascontiguousarray(np.rot90(rgb, -(rotation // 90))) if rotation else rgb


def clockwise(frame: av.VideoFrame) -> int:
    """Degrees clockwise that bring a frame upright; FFmpeg's angle counts the other way."""
    return -round(frame.rotation / 90) * 90 % 360


def open_source(source: Path, frame_rate: Fraction | None = None) -> VideoReader | FolderReader:
    """A reader of a file, a frame folder, or "-" for standard input."""
    if source.is_dir():
        return FolderReader(source, frame_rate or DEFAULT_FOLDER_RATE)
    if frame_rate is not None:
        raise ConfigError("--fps is for folders of frames", hint=f"{source} has times of its own")
    if str(source) == "-":
        return VideoReader(source)
    if not source.exists():
        raise SourceNotFoundError(f"{source} does not exist")
    reader = VideoReader(source)
    missing = missing_bytes(source)
    if missing:
        raise UnreadableSourceError(f"{source} was cut: {missing} bytes are missing", hint="copy it again")
    return reader


def require_size(source: Path, width: int, height: int) -> None:
    if width < MIN_SIDE or height < MIN_SIDE:
        raise UnreadableSourceError(
            f"{source} is {width}x{height} pixels, the smallest size is {MIN_SIDE}x{MIN_SIDE}",
            hint="scale it up first",
        )


class VideoReader:
    """One file. Iterating gives its frames once; audio packets met on the way go to `on_packet`."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.on_packet: OnPacket | None = None
        self._early: list[Packet] = []  # met before anybody listened
        self.container = self._open()
        pictures = [s for s in self.container.streams.video if not is_cover(s)]
        if not pictures:
            raise UnreadableSourceError(f"{source} holds no video", hint="its streams are audio or data")
        self.stream = pictures[0]
        self.stream.thread_type = "AUTO"
        self.audio = next(iter(self.container.streams.audio), None)
        self._to_rgb = ToRgb()
        self._frames = self._decode()
        try:
            self._first: av.VideoFrame | None = next(self._frames)
        except StopIteration:
            raise UnreadableSourceError(f"{source} holds no frame that can be decoded") from None
        self.info = self._describe(self._first)
        require_size(source, self.info.width, self.info.height)
        note_losses(source, self._first)

    def _open(self) -> Any:
        file = sys.stdin.buffer if str(self.source) == "-" else str(self.source)
        try:
            return av.open(file)
        except PermissionError:
            raise UnreadableSourceError(
                f"{self.source} may not be read", hint="check its permissions"
            ) from None
        except (av.FFmpegError, OSError, ValueError):
            raise UnreadableSourceError(
                f"{self.source} is not a video or picture that can be read",
                hint="it is empty, cut short, or of another kind",
            ) from None

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Frames in order of presentation; audio packets are passed on as they come."""
        streams = [self.stream] + ([self.audio] if self.audio else [])
        count = 0
        try:
            for packet in self.container.demux(streams):
                if packet.stream is self.audio:
                    self._pass_on(packet)
                    continue
                if packet.is_corrupt:
                    raise self._damaged(count)
                for frame in packet.decode():
                    count += 1
                    yield frame
        except av.FFmpegError:
            raise self._damaged(count) from None

    def _pass_on(self, packet: Packet) -> None:
        if not packet.size or packet.dts is None:
            return
        if self.on_packet is None:
            self._early.append(packet)
        else:
            self.on_packet(packet)

    def _damaged(self, count: int) -> UnreadableSourceError:
        return UnreadableSourceError(
            f"{self.source} is damaged or cut after frame {count}",
            hint="repair or copy it again; nothing was written",
        )

    def _describe(self, first: av.VideoFrame) -> VideoInfo:
        stream, rotation = self.stream, clockwise(first)
        turned = rotation in (90, 270)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return VideoInfo(
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            frame_rate=Fraction(rate),
            time_base=Fraction(first.time_base or stream.time_base or 1 / rate),
            num_frames=stream.frames or None,
            color=color_of(first),
            rotation=rotation,
        )

    def __iter__(self) -> Iterator[FrameBatch]:
        if self.on_packet is None:
            self.listen(lambda packet: None)
        rgb, pts = [], []
        last: int | None = None
        for frame in self._all_frames():
            picture = upright(self._to_rgb(frame), self.info.rotation)
            if picture.shape[:2] != (self.info.height, self.info.width):
                raise UnreadableSourceError(
                    f"{self.source} changes its size in the middle", hint="split it where the size changes"
                )
            last = self._strictly_after(last, frame.pts)
            rgb.append(picture)
            pts.append(last)
            if len(rgb) == BATCH_FRAMES:
                yield FrameBatch(np.stack(rgb), np.array(pts, np.int64))
                rgb, pts = [], []
        if rgb:
            yield FrameBatch(np.stack(rgb), np.array(pts, np.int64))

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        assert self._first is not None, "a reader gives its frames once"
        first, self._first = self._first, None
        yield first
        yield from self._frames

    def _strictly_after(self, last: int | None, pts: int | None) -> int:
        """The pts of a frame; where it is missing or not after the last, one frame later."""
        step = max(1, round(1 / (self.info.frame_rate * self.info.time_base)))
        if last is None:
            return pts if pts is not None else 0
        if pts is None:
            return last + step
        return pts if pts > last else last + 1

    def listen(self, on_packet: OnPacket) -> None:
        """Send audio packets to `on_packet`, the ones already met first."""
        self.on_packet = on_packet
        for packet in self._early:
            on_packet(packet)
        self._early.clear()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.container.close()


class FolderReader:
    """A folder of pictures, one a frame, in natural order of their names."""

    audio = None

    def __init__(self, source: Path, frame_rate: Fraction) -> None:
        self.source = source
        self.files = frame_files(source)
        if not self.files:
            raise UnreadableSourceError(
                f"the folder {source} holds no frames", hint="it should hold pictures such as 00001.png"
            )
        first = self._read(self.files[0])
        self.info = VideoInfo(
            width=first[0].shape[1],
            height=first[0].shape[0],
            frame_rate=frame_rate,
            time_base=1 / frame_rate,
            num_frames=len(self.files),
            color=first[1],
        )
        require_size(source, self.info.width, self.info.height)

    def _read(self, file: Path) -> tuple[np.ndarray, Any]:
        with VideoReader(file) as picture:
            batch = next(iter(picture))
            return batch.rgb[0], picture.info.color

    def __iter__(self) -> Iterator[FrameBatch]:
        for start in range(0, len(self.files), BATCH_FRAMES):
            files = self.files[start : start + BATCH_FRAMES]
            pictures = [self._read(file)[0] for file in files]
            for file, picture in zip(files, pictures, strict=True):
                if picture.shape[:2] != (self.info.height, self.info.width):
                    raise UnreadableSourceError(f"{file} has another size than the frames before it")
            yield FrameBatch(np.stack(pictures), np.arange(start, start + len(files), dtype=np.int64))

    def __enter__(self) -> FolderReader:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def note_losses(source: Path, frame: Any) -> None:
    """Say what of a source this version cannot keep."""
    depth = max(component.bits for component in frame.format.components)
    if depth > 8:
        logger.warning("%s has %d bits per sample; it is read at 8", source, depth)
    if frame.interlaced_frame:
        logger.warning("%s is interlaced; its frames are kept as they are, both fields in one", source)


def is_cover(stream: Any) -> bool:
    """Whether a video stream is the cover picture of a sound file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
