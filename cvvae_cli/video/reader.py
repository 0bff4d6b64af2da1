"""Read a video, a picture, or a folder of frames as batches of upright RGB frames."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av
import numpy as np

from cvvae_cli.errors import ConfigError, SourceNotFoundError, UnreadableSourceError
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.color import ToRgb, color_of, depth_of
from cvvae_cli.video.matroska import missing_bytes
from cvvae_cli.video.sidestreams import (
    ATTACHMENT,
    AUDIO,
    SUBTITLE,
    Attachment,
    SideSource,
    is_cover,
    kept_tags,
)

BATCH_FRAMES = 8
MIN_SIDE = 16
DEFAULT_FOLDER_RATE = Fraction(24)
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}

DECODER_THREADS = 4  # the same everywhere: how far a decoder reads ahead must not depend on the machine
Packet = Any  # av.Packet of an audio or subtitle stream
logger = logging.getLogger("cvvae")  # what a user should know; the command shows it on stderr
OnPacket = Callable[[Packet], None]
CHAPTER_TRACK = "bin_data"  # how FFmpeg names the text track of MP4 chapters
ALL_KINDS = frozenset({AUDIO, SUBTITLE, ATTACHMENT})


class FrameSource(Protocol):
    """What frames come from. Iterating gives them once."""

    info: VideoInfo

    def __iter__(self) -> Iterator[FrameBatch]: ...

    def start_at(self, frame: int) -> None:
        """Give no frames before that of this number."""


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


def open_source(
    source: Path, frame_rate: Fraction | None = None, *, deinterlace: bool = False
) -> VideoReader | FolderReader:
    """A reader of a file, a frame folder, or "-" for standard input."""
    if source.is_dir():
        return FolderReader(source, frame_rate or DEFAULT_FOLDER_RATE)
    if frame_rate is not None:
        raise ConfigError("--fps is for folders of frames", hint=f"{source} has times of its own")
    if str(source) == "-":
        return VideoReader(source, deinterlace=deinterlace)
    if not source.exists():
        raise SourceNotFoundError(f"{source} does not exist")
    reader = VideoReader(source, deinterlace=deinterlace)
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
    """One file. Iterating gives its frames once; packets of other streams met on the way are passed on."""

    def __init__(self, source: Path, *, deinterlace: bool = False) -> None:
        self.source = source
        self.deinterlace = deinterlace
        self.on_packet: OnPacket | None = None
        self._early: list[Packet] = []  # met before anybody listened
        self.container = self._open()
        pictures = [s for s in self.container.streams.video if not is_cover(s)]
        if not pictures:
            raise UnreadableSourceError(f"{source} holds no video", hint="its streams are audio or data")
        self.stream = pictures[0]
        self.stream.thread_type, self.stream.codec_context.thread_count = "AUTO", DECODER_THREADS
        self._beside = [*self.container.streams.audio, *self.container.streams.subtitles]
        self._skip = 0  # frames not wanted
        self._to_rgb = ToRgb()
        self._frames = Deinterlacer(self.stream)(self._decode()) if deinterlace else self._decode()
        try:
            self._first: av.VideoFrame | None = next(self._frames)
        except StopIteration:
            raise UnreadableSourceError(f"{source} holds no frame that can be decoded") from None
        self.info = self._describe(self._first)
        require_size(source, self.info.width, self.info.height)

    def _open(self) -> Any:
        file = sys.stdin.buffer if str(self.source) == "-" else str(self.source)
        try:
            return av.open(file)
        except PermissionError:
            raise UnreadableSourceError(
                f"{self.source} may not be read", hint="check its permissions"
            ) from None
        except (av.FFmpegError, OSError, ValueError):
            is_ours = self.source.suffix.lower() == ".cvl"
            hint = "`cvvae decode` makes one" if is_ours else "it is empty, cut short, or of another kind"
            raise UnreadableSourceError(
                f"{self.source} is not a video or picture that can be read", hint=hint
            ) from None

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Frames in order of presentation; packets of other streams are passed on as they come."""
        count = 0
        try:
            for packet in self.container.demux([self.stream, *self._beside]):
                if packet.stream is not self.stream:
                    self._pass_on(packet)
                    continue
                if packet.is_corrupt:
                    raise self._damaged(count)
                for frame in packet.decode():
                    count += 1
                    self._require_progressive(frame)
                    yield frame
        except av.FFmpegError:
            raise self._damaged(count) from None

    def _require_progressive(self, frame: av.VideoFrame) -> None:
        if frame.interlaced_frame and not self.deinterlace:
            raise UnreadableSourceError(
                f"{self.source} is interlaced: each frame holds two half pictures of different times",
                hint="pass --deinterlace to join them",
            )

    def _pass_on(self, packet: Packet) -> None:
        if not packet.size or packet.pts is None:
            return
        if self.on_packet is None:
            self._early.append(packet)
        else:
            self.on_packet(packet)

    def _damaged(self, count: int) -> UnreadableSourceError:
        if str(self.source) == "-" and not sys.stdin.buffer.seekable() and not count:
            return UnreadableSourceError(
                "the video cannot be read from a pipe: it is cut, or says at its end where its frames lie",
                hint="pass its name or `< file`; or pipe Matroska, or MP4 made with `-movflags faststart`",
            )
        return UnreadableSourceError(
            f"{self.source} is damaged or cut after frame {count}",
            hint="repair or copy it again; nothing was written",
        )

    def _describe(self, first: av.VideoFrame) -> VideoInfo:
        stream, rotation = self.stream, clockwise(first)
        turned = rotation in (90, 270)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return VideoInfo(
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            frame_rate=Fraction(rate),
            time_base=Fraction(stream.time_base or first.time_base or 1 / rate),
            num_frames=stream.frames or self._frames_by_duration(Fraction(rate)),
            color=color_of(first),
            rotation=rotation,
            pixel_aspect=1 / Fraction(aspect) if turned else Fraction(aspect),
            depth=depth_of(first),
        )

    def _frames_by_duration(self, rate: Fraction) -> int | None:
        """About how many there are: Matroska and WebM say only how long they last."""
        duration = self.container.duration
        return round(duration * rate / av.time_base) if duration and duration > 0 else None

    def side_source(self, kinds: frozenset[str]) -> SideSource:
        """What lies beside the video, of the streams those of `kinds`. Says what cannot be kept."""
        container = self.container
        streams = [s for s in self._beside if s.type in kinds]
        chapters = container.chapters()
        attachments = list(self._attachments()) if ATTACHMENT in kinds else []
        left_out = [s for s in container.streams.video if s is not self.stream and not is_cover(s)]
        left_out += [s for s in container.streams.data if not chapters or s.name != CHAPTER_TRACK]
        for stream in left_out:
            logger.warning("left out: %s stream %d of %s", stream.type, stream.index, self.source)
        return SideSource(tuple(streams), tuple(attachments), tuple(chapters), kept_tags(container.metadata))

    def _attachments(self) -> Iterator[Attachment]:
        for stream in self.container.streams.attachments:
            yield Attachment(stream.name or "", stream.mimetype or "", bytes(stream.data))
        covers = [s for s in self.container.streams.video if is_cover(s) and s is not self.stream]
        if not covers or str(self.source) == "-":
            return
        with av.open(str(self.source)) as again:
            for number, cover in enumerate(covers):
                packet = next(p for p in again.demux(again.streams[cover.index]) if p.size)
                again.seek(0)
                mimetype = "image/png" if cover.codec_context.name == "png" else "image/jpeg"
                suffix = "png" if mimetype == "image/png" else "jpg"
                name = cover.metadata.get("filename") or f"cover{number or ''}.{suffix}"
                yield Attachment(name, cover.metadata.get("mimetype") or mimetype, bytes(packet))

    def start_at(self, frame: int) -> None:
        """Give no frames before that of this number; packets of other streams are passed on all the same."""
        self._skip = frame

    def __iter__(self) -> Iterator[FrameBatch]:
        if self.on_packet is None:
            self.listen(lambda packet: None)
        rgb, pts = [], []
        last: int | None = None
        for number, frame in enumerate(self._all_frames()):
            last = self._strictly_after(last, self._pts_of(frame))
            if number < self._skip:
                continue
            picture = upright(self._to_rgb(frame), self.info.rotation)
            if picture.shape[:2] != (self.info.height, self.info.width):
                raise UnreadableSourceError(
                    f"{self.source} changes its size in the middle", hint="split it where the size changes"
                )
            rgb.append(picture)
            pts.append(last)
            is_full = (number + 1) % BATCH_FRAMES == 0  # wherever it starts: a resumed job relies on it
            if is_full:
                yield FrameBatch(np.stack(rgb), np.array(pts, np.int64))
                rgb, pts = [], []
        if rgb:
            yield FrameBatch(np.stack(rgb), np.array(pts, np.int64))

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        assert self._first is not None, "a reader gives its frames once"
        first, self._first = self._first, None
        yield first
        yield from self._frames

    def _pts_of(self, frame: av.VideoFrame) -> int | None:
        """The pts in ticks of the stream: a filter counts its own."""
        if frame.pts is None or frame.time_base in (None, self.info.time_base):
            return frame.pts
        return round(frame.pts * frame.time_base / self.info.time_base)

    def _strictly_after(self, last: int | None, pts: int | None) -> int:
        """The pts of a frame; where it is missing or not after the last, one frame later."""
        step = max(1, round(1 / (self.info.frame_rate * self.info.time_base)))
        if last is None:
            return pts if pts is not None else 0
        if pts is None:
            return last + step
        return pts if pts > last else last + 1

    def listen(self, on_packet: OnPacket) -> None:
        """Send packets of other streams to `on_packet`, the ones already met first."""
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

    def __init__(self, source: Path, frame_rate: Fraction) -> None:
        self.source = source
        self._skip = 0
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
            depth=8 * first[0].itemsize,
        )
        require_size(source, self.info.width, self.info.height)

    def _read(self, file: Path) -> tuple[np.ndarray, Any]:
        with VideoReader(file) as picture:
            batch = next(iter(picture))
            return batch.rgb[0], picture.info.color

    def side_source(self, kinds: frozenset[str]) -> SideSource:
        """Nothing lies beside a folder of pictures."""
        return SideSource((), (), (), {})

    def start_at(self, frame: int) -> None:
        """Give no frames before that of this number."""
        self._skip = frame

    def __iter__(self) -> Iterator[FrameBatch]:
        for start in range(self._skip, len(self.files), BATCH_FRAMES):
            files = self.files[start : start + BATCH_FRAMES]
            pictures = [self._read(file)[0] for file in files]
            for file, picture in zip(files, pictures, strict=True):
                if picture.shape[:2] != (self.info.height, self.info.width):
                    raise UnreadableSourceError(f"{file} has another size than the frames before it")
                if 8 * picture.itemsize != self.info.depth:
                    raise UnreadableSourceError(f"{file} has another depth than the frames before it")
            yield FrameBatch(np.stack(pictures), np.arange(start, start + len(files), dtype=np.int64))

    def __enter__(self) -> FolderReader:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Deinterlacer:
    """Joins the two fields of each frame to one picture (FFmpeg's bwdif); as many frames as before."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __call__(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        graph = av.filter.Graph()
        source, sink = graph.add_buffer(template=self._stream), graph.add("buffersink")
        graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), sink).configure()
        for frame in frames:
            graph.push(frame)
            yield from self._ready(graph)
        graph.push(None)
        yield from self._ready(graph)

    @staticmethod
    def _ready(graph: Any) -> Iterator[av.VideoFrame]:
        while True:
            try:
                yield graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
