"""Write frames to a video file, with their timestamps, colour tags and audio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from cvvae_cli.errors import ConfigError, OutputNotWritableError
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.color import FromRgb, range_tag
from cvvae_cli.video.sidestreams import SideReader

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".nut": "nut",
}
PICTURES = {".png": ("png", "rgb24"), ".jpg": ("mjpeg", "yuvj444p"), ".jpeg": ("mjpeg", "yuvj444p")}
DEFAULT_CODECS = {"webm": "libvpx-vp9"}
LOSSLESS = {"ffv1": "bgr0"}  # codec → RGB pixel format that keeps every value
CRF_CODECS = {"libx264", "libx265", "libsvtav1", "libvpx-vp9"}
DEFAULT_CRF = 16
PRESETS = {"libx264": "fast", "libx265": "fast", "libsvtav1": "8"}


@dataclass(frozen=True)
class OutputOptions:
    """How to encode decoded frames; None: chosen from the output's name and the picture's size."""

    codec: str | None = None
    crf: int | None = None
    pix_fmt: str | None = None


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
        format_name = CONTAINERS[output.suffix.lower()]
        codec = options.codec or DEFAULT_CODECS.get(format_name, "libx264")
        pix_fmt = options.pix_fmt or LOSSLESS.get(codec) or self._subsampled(info)
        require_pix_fmt(pix_fmt)
        self._from_rgb = FromRgb(pix_fmt, info.color, info.height)
        encoder_options = codec_options(codec, options.crf)
        keep_times = {"avoid_negative_ts": "disabled"}  # or sound that starts early would shift the video
        self.container = av.open(str(part), "w", format=format_name, options=keep_times)
        try:
            self.stream = self._add_video(codec, encoder_options)
            self.audio = self.container.add_stream_from_template(side.stream) if side else None
            self.container.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            self._give_up()
            sound = side.stream.codec_context.name if side else "no"
            raise OutputNotWritableError(
                f"{output.suffix} with codec {codec}, pixel format {pix_fmt} and {sound} audio "
                f"cannot be written ({reason(error)})",
                hint="try .mkv, another --codec or --pix-fmt, or --no-audio",
            ) from None

    @staticmethod
    def _subsampled(info: VideoInfo) -> str:
        """4:2:0, which every player takes, unless an odd size rules it out."""
        return "yuv420p" if info.width % 2 == info.height % 2 == 0 else "yuv444p"

    def _add_video(self, codec: str, options: dict[str, str]) -> Any:
        stream: Any = self.container.add_stream(codec, rate=self.info.frame_rate, options=options)
        stream.width, stream.height = self.info.width, self.info.height
        stream.pix_fmt = self._from_rgb.pix_fmt
        tags, context = self._from_rgb.tags, stream.codec_context
        context.time_base = stream.time_base = self.info.time_base
        context.colorspace, context.color_range = tags.matrix, range_tag(tags)
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        return stream

    def write(self, batch: FrameBatch) -> None:
        """Encode frames, then the audio up to the last of them."""
        for rgb, pts in zip(batch.rgb, batch.pts, strict=True):
            frame = self._from_rgb(rgb)
            frame.pts, frame.time_base = int(pts), self.info.time_base
            self.container.mux(self.stream.encode(frame))
        self._write_audio(int(batch.pts[-1]) * self.info.time_base)

    def _write_audio(self, until: Fraction | None) -> None:
        for packet in self.side.until(until) if self.side else ():
            packet.stream = self.audio
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
        self._write_audio(None)
        self.container.close()


def require_pix_fmt(name: str) -> None:
    """Raise ConfigError for a pixel format that FFmpeg does not know."""
    try:
        av.VideoFormat(name)
    except ValueError:
        raise ConfigError(
            f"no pixel format is called {name!r}", hint="for example yuv420p or yuv444p"
        ) from None


def codec_options(codec: str, crf: int | None) -> dict[str, str]:
    """Options of an encoder. Raises ConfigError for a quality it does not take."""
    if crf is not None and codec not in CRF_CODECS:
        raise ConfigError(
            f"--crf means nothing to {codec}", hint=f"it works with {', '.join(sorted(CRF_CODECS))}"
        )
    options = {"crf": str(DEFAULT_CRF if crf is None else crf)} if codec in CRF_CODECS else {}
    if codec in PRESETS:
        options["preset"] = PRESETS[codec]
    if codec == "libvpx-vp9":
        options |= {"b": "0", "row-mt": "1", "cpu-used": "4"}
    return options


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write_picture(part: Path, output: Path, info: VideoInfo, batches: Iterator[FrameBatch]) -> None:
    """Write the only frame as a PNG or JPEG file."""
    codec, pix_fmt = PICTURES[output.suffix.lower()]
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = info.width, info.height, pix_fmt
    context.time_base = Fraction(1, 25)
    batch = next(batches)
    frame = av.VideoFrame.from_ndarray(batch.rgb[0], format="rgb24").reformat(format=pix_fmt)
    frame.pts = 0
    packets = [*context.encode(frame), *context.encode(None)]
    part.write_bytes(b"".join(bytes(p) for p in packets))
