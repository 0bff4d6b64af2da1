"""Real containers of every kind, made with PyAV and nothing of cvvae_cli."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
from tiny import moving_picture

WIDTH, HEIGHT, FRAMES = 80, 64, 12
STEADY = [n * 40 for n in range(FRAMES)]  # ms
VARIABLE = [0, 40, 80, 200, 220, 240, 500, 541, 582, 1000, 1010, 1050]
RATE = 48_000
CONTAINERS = {
    "mp4": ("libx264", "libx265", "libvpx-vp9", "libsvtav1"),
    "mkv": ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks"),
    "webm": ("libvpx-vp9", "libsvtav1"),
    "mov": ("libx264", "libx265", "prores_ks"),
}
FAST = {
    "libx264": {"preset": "ultrafast", "bf": "2"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "13"},
    "prores_ks": {},
}
SOUND = {"mp4": "aac", "mkv": "pcm_s16le", "webm": "libopus", "mov": "pcm_s16le"}
COLORS = {8: (1, 1, 1, 1), 10: (9, 16, 9, 1)}  # primaries, transfer, matrix, range: BT.709; BT.2020 with PQ


@dataclass(frozen=True)
class Kind:
    """One cell of the matrix."""

    suffix: str
    codec: str
    is_variable: bool
    audios: int
    rotation: int  # counterclockwise, as FFmpeg counts
    depth: int

    @property
    def times(self) -> list[int]:
        return VARIABLE if self.is_variable else STEADY

    @property
    def pix_fmt(self) -> str:
        sampling = "yuv422p" if self.codec == "prores_ks" else "yuv420p"
        return sampling + ("10le" if self.depth == 10 else "")

    def __str__(self) -> str:
        rate = "variable" if self.is_variable else "steady"
        return f"{self.suffix}-{self.codec}-{rate}-{self.audios}-{self.rotation}-{self.depth}"


def matrix() -> list[Kind]:
    """Every combination that exists: ProRes has 10 bits only, PyAV's VP9 8 only, WebM keeps no rotation."""
    return [
        Kind(suffix, codec, *rest)
        for suffix, codecs in CONTAINERS.items()
        for codec in codecs
        for rest in product((False, True), (0, 1, 2), (0, 90, 180, 270), (8, 10))
        if rest[3] != {"prores_ks": 8, "libvpx-vp9": 10}.get(codec) and not (suffix == "webm" and rest[2])
    ]


def pairwise(kinds: list[Kind]) -> list[Kind]:
    """Few of them in which every pair of values of two properties occurs."""
    keys = ("suffix", "codec", "is_variable", "audios", "rotation", "depth")

    def pairs(kind: Kind) -> set[Any]:
        values = [(key, getattr(kind, key)) for key in keys]
        return {(a, b) for i, a in enumerate(values) for b in values[i + 1 :]}

    left = set().union(*map(pairs, kinds))
    chosen = []
    while left:
        best = max(kinds, key=lambda kind: len(pairs(kind) & left))
        chosen.append(best)
        left -= pairs(best)
    return chosen


def write_source(path: Path, kind: Kind) -> Path:
    """A clip of that kind."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(kind.codec, rate=25, options=FAST[kind.codec])
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, kind.pix_fmt
        context = video.codec_context
        context.time_base = video.time_base = Fraction(1, 1000)
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = COLORS[
            kind.depth
        ]
        if kind.rotation:
            video.set_display_rotation(kind.rotation)
        audios = [
            container.add_stream(SOUND[kind.suffix], rate=RATE, layout="mono") for _ in range(kind.audios)
        ]
        for number, audio in enumerate(audios):
            audio.metadata["language"] = ("eng", "swe")[number]
        container.start_encoding()
        for packet in encoded(kind):
            packet.stream = video
            container.mux(packet)
        for number, audio in enumerate(audios):
            for packet in sounds(audio, number):
                container.mux(packet)
    return path


def encoded(kind: Kind) -> list[Any]:
    """The packets of the video: the same pictures for every container."""
    key = (kind.codec, kind.depth, kind.is_variable)
    if key not in PACKETS:
        context: Any = av.CodecContext.create(kind.codec, "w")
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, kind.pix_fmt
        context.time_base, context.framerate = Fraction(1, 1000), Fraction(25)
        context.options = FAST[kind.codec]
        context.flags |= 1 << 22  # global header
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = COLORS[
            kind.depth
        ]
        PACKETS[key] = context, []
        for rgb, time in zip(moving_picture(FRAMES, WIDTH, HEIGHT), kind.times, strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=kind.pix_fmt)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            PACKETS[key][1].extend(context.encode(frame))
        PACKETS[key][1].extend(context.encode(None))
    return PACKETS[key][1]


PACKETS: dict[Any, Any] = {}


def tag(context: Any, kind: Kind) -> None:
    primaries, transfer, matrix, full = COLORS[kind.depth]
    context.color_primaries, context.color_trc = primaries, transfer
    context.colorspace, context.color_range = matrix, full


def sounds(audio: Any, number: int) -> list[Any]:
    rng = np.random.default_rng(number)
    packets = []
    for start in range(0, RATE // 2, 960):
        samples = rng.normal(0, 3000, (1, 960)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, start
        packets += audio.encode(frame)
    return packets + audio.encode(None)


def packets_of(path: Path, kind: str) -> list[list[tuple[Fraction, bytes]]]:
    """Times in seconds and bytes of the packets of every stream of a kind."""
    with av.open(str(path)) as container:
        streams = [s for s in container.streams if s.type == kind]
        found: dict[int, list[Any]] = {s.index: [] for s in streams}
        for packet in container.demux(streams) if streams else ():
            if packet.size and packet.pts is not None:
                found[packet.stream.index].append((packet.pts * packet.time_base, bytes(packet)))
    return list(found.values())


def frames_of(path: Path) -> tuple[list[Fraction], Fraction, Any]:
    """What PyAV says by itself: times in seconds of all frames, the time base, and the first frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return [f.pts * f.time_base for f in frames], Fraction(stream.time_base or 1), frames[0]
