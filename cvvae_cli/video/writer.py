"""Write frames to a video file, with their timestamps and colour tags and what lies beside the video."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from cvvae_cli.errors import ConfigError, CorruptFileError, OutputNotWritableError
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.color import FromRgb, range_tag
from cvvae_cli.video.sidestreams import (
    AUDIO,
    PICTURE_CODECS,
    Attachment,
    SideReader,
    copy_labels,
    with_payload,
)
from cvvae_cli.video.subtitles import MOV_TEXT, SRT_NAMES, mov_text_of_srt

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".nut": "nut",
}
MOV_FORMATS = {"mp4", "mov"}
PICTURES = {".png": ("png", "rgb24"), ".jpg": ("mjpeg", "yuvj444p"), ".jpeg": ("mjpeg", "yuvj444p")}
LOSSLESS = {"ffv1": ("bgr0", "gbrp16le")}  # codec → RGB pixel formats that keep all of 8 and 16 bits
CRF_CODECS = {"libx264", "libx265", "libsvtav1", "libvpx-vp9"}
DEFAULT_CRF = 16
PRESETS = {"libx264": "fast", "libx265": "fast", "libsvtav1": "8", "libvpx-vp9": "4"}
PRESET_OPTIONS = {"libvpx-vp9": "cpu-used"}
QUIET_AND_FAST = {"libvpx-vp9": {"b": "0", "row-mt": "1"}, "libx265": {"x265-params": "log-level=error"}}


@dataclass(frozen=True)
class OutputOptions:
    """How to encode decoded frames; None: chosen from the output's name and the picture's size."""

    codec: str | None = None
    crf: int | None = None
    pix_fmt: str | None = None
    preset: str | None = None  # of libvpx-vp9 its cpu-used


def require_known_output(output: Path, num_frames: int) -> None:
    """Raise OutputNotWritableError for a suffix that cannot be written."""
    suffix = output.suffix.lower()
    if suffix in PICTURES:
        if num_frames > 1:
            raise OutputNotWritableError(
                f"{output} is a picture, the file holds {num_frames} frames", hint="use .mp4 or .mkv"
            )
    elif suffix not in CONTAINERS:
        known = ", ".join([*CONTAINERS, *PICTURES])
        raise OutputNotWritableError(
            f"cannot write {suffix or 'a name without suffix'!r}", hint=f"use {known}"
        )


class VideoWriter:
    """Use as a context. Everything that can be refused is refused before the first frame."""

    def __init__(
        self, part: Path, output: Path, info: VideoInfo, options: OutputOptions, side: SideReader | None
    ) -> None:
        """Write to `part`, in the container that the suffix of `output` names."""
        self.side = side
        self.info = info
        self._format = CONTAINERS[output.suffix.lower()]
        codec = options.codec or default_codec(self._format, info)
        pix_fmt = options.pix_fmt or default_pix_fmt(codec, info)
        require_pix_fmt(pix_fmt)
        self._from_rgb = FromRgb(pix_fmt, info.color, info.height)
        encoder_options = codec_options(codec, options.crf, options.preset)
        keep_times = {"avoid_negative_ts": "disabled"}  # or sound that starts early would shift the video
        self.container = av.open(str(part), "w", format=self._format, options=keep_times)
        try:
            self.stream = self._add_video(codec, encoder_options)
            self._beside = {s.index: self._add_beside(s) for s in side.streams} if side else {}
            self._covers = self._add_attachments(side.attachments) if side else []
            if side:
                self.container.set_chapters(side.chapters)
                self.container.metadata.update(side.tags)
            self._start(f"{output.suffix} with codec {codec} and pixel format {pix_fmt} cannot be written")
        except BaseException:
            self._give_up()
            raise

    def _start(self, complaint: str) -> None:
        try:
            self.container.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            raise OutputNotWritableError(
                f"{complaint} ({reason(error)})", hint="try .mkv, another --codec or another --pix-fmt"
            ) from None
        for stream, cover in self._covers:
            packet: Any = av.Packet(cover.data)
            packet.stream, packet.pts, packet.dts = stream, 0, 0
            self.container.mux(packet)

    def _add_video(self, codec: str, options: dict[str, str]) -> Any:
        try:
            stream: Any = self.container.add_stream(codec, rate=self.info.frame_rate, options=options)
        except (av.FFmpegError, ValueError) as error:
            raise OutputNotWritableError(
                f"{self._format} cannot hold video of codec {codec} ({reason(error)})",
                hint="try .mkv, or another --codec",
            ) from None
        stream.width, stream.height = self.info.width, self.info.height
        stream.pix_fmt = self._from_rgb.pix_fmt
        tags, context = self._from_rgb.tags, stream.codec_context
        context.time_base = stream.time_base = self.info.time_base
        context.colorspace, context.color_range = tags.matrix, range_tag(tags)
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        context.sample_aspect_ratio = self.info.pixel_aspect
        return stream

    def _add_beside(self, source: Any) -> Any:
        """Add an audio or subtitle stream like that of the file."""
        name = source.codec_context.name
        try:
            if name in SRT_NAMES and self._format in MOV_FORMATS:
                added = self.container.add_mux_stream(MOV_TEXT)
                added.time_base = source.time_base
            elif name in SRT_NAMES:
                added = self.container.add_mux_stream("subrip")
            else:
                added = self.container.add_stream_from_template(source)
        except (av.FFmpegError, ValueError):
            option = "--no-audio" if source.type == AUDIO else "--no-subtitles"
            raise OutputNotWritableError(
                f"{self._format} cannot hold the {source.type} of the file ({name})",
                hint=f"use .mkv, or pass {option}",
            ) from None
        copy_labels(source, added)
        return added

    def _add_attachments(self, attachments: list[Attachment]) -> list[tuple[Any, Attachment]]:
        """Add the files inside; returns those that are written as streams of one picture."""
        covers = []
        for attachment in attachments:
            if self._format == "matroska":
                self.container.add_attachment(attachment.name, attachment.mimetype, attachment.data)
            elif self._format == "mp4" and attachment.is_picture:
                width, height = picture_size(attachment)
                codec = PICTURE_CODECS[attachment.mimetype]
                stream: Any = self.container.add_mux_stream(codec, width=width, height=height)
                stream.disposition = av.stream.Disposition.attached_pic
                covers.append((stream, attachment))
            else:
                raise OutputNotWritableError(
                    f"{self._format} cannot hold the attachment {attachment.name} of the file",
                    hint="use .mkv, or pass --no-attachments",
                )
        return covers

    def write(self, batch: FrameBatch) -> None:
        """Encode frames, then the audio up to the last of them."""
        for rgb, pts in zip(batch.rgb, batch.pts, strict=True):
            frame = self._from_rgb(rgb)
            frame.pts, frame.time_base = int(pts), self.info.time_base
            self.container.mux(self.stream.encode(frame))
        self._write_beside(int(batch.pts[-1]) * self.info.time_base)

    def _write_beside(self, until: Fraction | None) -> None:
        for packet in self.side.until(until) if self.side else ():
            stream = self._beside[packet.stream.index]
            if packet.stream.codec_context.name in SRT_NAMES and self._format in MOV_FORMATS:
                packet = with_payload(packet, mov_text_of_srt(bytes(packet)))
            packet.stream = stream
            self.container.mux(packet)

    def _give_up(self) -> None:
        with suppress(av.FFmpegError, ValueError):  # the first error is the one to report
            self.container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._give_up()
            return
        self.container.mux(self.stream.encode(None))
        self._write_beside(None)
        self.container.close()


def picture_size(attachment: Attachment) -> tuple[int, int]:
    """Width and height of a cover. Raises CorruptFileError if it is no picture."""
    try:
        with av.open(io.BytesIO(attachment.data)) as picture:
            return picture.streams.video[0].width, picture.streams.video[0].height
    except (av.FFmpegError, IndexError):
        raise CorruptFileError(
            f"the attachment {attachment.name} is no picture", hint="pass --no-attachments"
        ) from None


def default_codec(format_name: str, info: VideoInfo) -> str:
    """H.264, and for WebM, which has none, VP9, or AV1 above 8 bits (PyAV's VP9 encoder has 8 only)."""
    if format_name != "webm":
        return "libx264"
    return "libvpx-vp9" if info.depth <= 8 else "libsvtav1"


def default_pix_fmt(codec: str, info: VideoInfo) -> str:
    """4:2:0, which every player takes, unless an odd size rules it out; 10 bits if the source has them."""
    if codec in LOSSLESS:
        return LOSSLESS[codec][info.depth > 8]
    sampling = "yuv420p" if info.width % 2 == info.height % 2 == 0 else "yuv444p"
    return sampling + ("10le" if info.depth > 8 else "")


def require_pix_fmt(name: str) -> None:
    """Raise ConfigError for a pixel format that FFmpeg does not know."""
    try:
        av.VideoFormat(name)
    except ValueError:
        raise ConfigError(
            f"no pixel format is called {name!r}", hint="for example yuv420p or yuv444p"
        ) from None


def codec_options(codec: str, crf: int | None, preset: str | None) -> dict[str, str]:
    """Options of an encoder. Raises ConfigError for a quality or preset it does not take."""
    if crf is not None and codec not in CRF_CODECS:
        raise ConfigError(
            f"--crf means nothing to {codec}", hint=f"it works with {', '.join(sorted(CRF_CODECS))}"
        )
    options = {"crf": str(DEFAULT_CRF if crf is None else crf)} if codec in CRF_CODECS else {}
    if codec in PRESETS:
        options[PRESET_OPTIONS.get(codec, "preset")] = preset or PRESETS[codec]
    elif preset is not None:
        raise ConfigError(f"{codec} has no presets", hint=f"{', '.join(sorted(PRESETS))} have them")
    return options | QUIET_AND_FAST.get(codec, {})


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write_picture(part: Path, output: Path, info: VideoInfo, batches: Iterator[FrameBatch]) -> None:
    """Write the only frame as a PNG or JPEG file."""
    codec, pix_fmt = PICTURES[output.suffix.lower()]
    batch = next(batches)
    has_16_bits = batch.rgb.dtype == np.uint16
    if has_16_bits and codec == "png":
        pix_fmt = "rgb48be"
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = info.width, info.height, pix_fmt
    context.time_base = Fraction(1, 25)
    rgb_format = "rgb48le" if has_16_bits else "rgb24"
    frame = av.VideoFrame.from_ndarray(batch.rgb[0], format=rgb_format).reformat(format=pix_fmt)
    frame.pts = 0
    packets = [*context.encode(frame), *context.encode(None)]
    part.write_bytes(b"".join(bytes(p) for p in packets))
