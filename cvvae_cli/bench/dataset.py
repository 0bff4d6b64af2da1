"""Clips of a dataset, and the protocol that says which of their frames are measured, at which size."""

from __future__ import annotations

import glob
import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cvvae_cli.container.header import MAX_SIDE
from cvvae_cli.errors import ConfigError, SourceNotFoundError, UnreadableSourceError
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.color import in_eight_bits
from cvvae_cli.video.reader import MIN_SIDE, PICTURE_SUFFIXES, frame_files, open_source
from cvvae_cli.video.sources import VIDEO_SUFFIXES, search_folder

BATCH_FRAMES = 8
MOST_IN_MEMORY = 1 << 30  # bytes of a clip; a larger one is read again for every pass
LIST_SUFFIXES = {".txt", ".lst"}


@dataclass(frozen=True)
class Protocol:
    """Everything that decides which pixels are measured."""

    name: str = "native"
    frames: int | None = None  # at most; None: all
    stride: int = 1  # every how manieth frame
    start: int = 0  # first frame
    resize: str | None = None  # "480", the short side, or "848x480"
    crop: str | None = None  # "center": cover the size and cut what sticks out

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the measured picture.

        >>> Protocol(resize="256", crop="center").size_of(1920, 1080)
        (256, 256)
        >>> Protocol(resize="480").size_of(1920, 1080), Protocol(resize="848x480").size_of(1920, 1080)
        ((854, 480), (848, 480))
        """
        if self.resize is None:
            side = min(width, height)
            return (side, side) if self.crop else (width, height)
        if "x" in self.resize:
            first, _, second = self.resize.partition("x")
            return int(first), int(second)
        side = int(self.resize)
        if self.crop:
            return side, side
        scale = Fraction(side, min(width, height))
        return max(side, even(width * scale)), max(side, even(height * scale))

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"interpolation": "area down, bicubic up; BT.601/709 as tagged; 8 bit RGB"}


PROTOCOLS = {
    "native": Protocol(),
    "webvid-33x256": Protocol("webvid-33x256", frames=33, resize="256", crop="center"),
    "cvvae-paper": Protocol("cvvae-paper", frames=33, stride=3, resize="256", crop="center"),
}


def even(value: Fraction) -> int:
    return 2 * round(value / 2)


def choose_protocol(
    name: str,
    *,
    frames: int | None = None,
    stride: int | None = None,
    start: int | None = None,
    resize: str | None = None,
    crop: str | None = None,
) -> Protocol:
    """A named protocol with some of its settings changed. Raises ConfigError for what makes no sense."""
    if name not in PROTOCOLS:
        raise ConfigError(f"no protocol is called {name!r}", hint=f"known protocols: {', '.join(PROTOCOLS)}")
    if resize is not None and not re.fullmatch(r"\d+(x\d+)?", resize):
        raise ConfigError(f"{resize!r} is no size", hint="for example 480 (the short side) or 848x480")
    sides = [] if resize is None else [int(side) for side in resize.split("x")]
    if any(side < MIN_SIDE for side in sides):
        raise ConfigError(f"{resize} is too small", hint=f"the smallest side is {MIN_SIDE}")
    if any(side > MAX_SIDE for side in sides):
        raise ConfigError(f"{resize} is too large", hint=f"the largest side is {MAX_SIDE}")
    if crop not in (None, "center", "none"):
        raise ConfigError(f"no crop is called {crop!r}", hint="it can be center or none")
    given = {"frames": frames, "stride": stride, "start": start, "resize": resize, "crop": crop}
    changed = {key: value for key, value in given.items() if value is not None}
    protocol = replace(PROTOCOLS[name], **changed)  # type: ignore[arg-type]
    if crop == "none":
        protocol = replace(protocol, crop=None)
    is_preset = replace(protocol, name=name) == PROTOCOLS[name]
    return protocol if is_preset or name == "native" else replace(protocol, name=f"{name}, changed")


@dataclass(frozen=True)
class Source:
    """A clip that is to be measured: where it lies, and what rows call it."""

    path: Path
    name: str


def find_clips(dataset: str, *, limit: int | None = None, shuffle_seed: int | None = None) -> list[Source]:
    """The clips of a folder (searched recursively), a glob, a file, a list file or a frame folder.

    Raises SourceNotFoundError if there is none.
    """
    paths = list(paths_of(dataset))
    root = root_of(dataset, paths)
    if not paths:
        raise SourceNotFoundError(f"{dataset} holds no video, photo or frame folder")
    names = [str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in paths]
    sources = [Source(path, name) for path, name in zip(paths, names, strict=True)]
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(sources)
    return sources[:limit]


def paths_of(dataset: str) -> Iterator[Path]:
    path = Path(dataset)
    if path.is_dir():
        found = search_folder(path)
        yield from (*found.videos, *found.photos)
    elif path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        lines = (line.strip() for line in path.read_text().splitlines())
        for line in lines:
            if line and not line.startswith("#"):
                yield path.parent / line
    elif path.exists():
        yield path
    elif glob.has_magic(dataset):
        for match in sorted(glob.glob(dataset, recursive=True)):  # noqa: PTH207 (absolute ones too)
            name = Path(match)
            if (
                name.is_dir() and frame_files(name)
            ) or name.suffix.lower() in VIDEO_SUFFIXES | PICTURE_SUFFIXES:
                yield name
    else:
        raise SourceNotFoundError(f"{dataset} does not exist", hint="pass a folder, file, glob or list")


def root_of(dataset: str, paths: list[Path]) -> Path:
    """What names of clips are relative to."""
    path = Path(dataset)
    if path.is_dir() and paths != [path]:
        return path
    fixed = [p for p in path.parts[:-1] if not glob.has_magic(p)] if glob.has_magic(dataset) else None
    return path.parent if fixed is None else Path(*fixed) if fixed else Path()


@dataclass
class Clip:
    """The frames of a source that a protocol chooses, at its size; may be gone through again and again."""

    source: Source
    protocol: Protocol
    info: VideoInfo = field(init=False)
    num_frames: int = field(init=False)
    sha256: str = field(init=False)  # of the pixels

    def __post_init__(self) -> None:
        """Reads it once. Raises a CvvaeError if that fails."""
        with open_source(self.source.path) as video:
            info = video.info
        self._size = self.protocol.size_of(info.width, info.height)
        rate = info.frame_rate / self.protocol.stride
        self.info = replace(
            info,
            width=self._size[0],
            height=self._size[1],
            frame_rate=rate,
            time_base=1 / rate,
            pixel_aspect=Fraction(1),
            rotation=0,
            depth=8,
        )
        self._kept: list[FrameBatch] | None = []
        self._read()
        self.info = replace(self.info, num_frames=self.num_frames)

    def _read(self) -> None:
        digest = hashlib.sha256(repr(self._size).encode())
        frames, size = 0, 0
        for batch in self._prepared():
            digest.update(np.ascontiguousarray(batch.rgb).data)
            frames, size = frames + len(batch), size + batch.rgb.nbytes
            if self._kept is not None:
                self._kept = None if size > MOST_IN_MEMORY else [*self._kept, batch]
        if not frames:
            raise UnreadableSourceError(
                f"{self.source.path} has no frame {self.protocol.start}", hint="pass a smaller --start"
            )
        self.num_frames, self.sha256 = frames, digest.hexdigest()

    def __iter__(self) -> Iterator[FrameBatch]:
        yield from self._prepared() if self._kept is None else self._kept

    def start_at(self, frame: int) -> None:
        assert frame == 0, "a bench starts clips at their first frame"

    def _prepared(self) -> Iterator[FrameBatch]:
        """Frames of the protocol: uint8, pts 0, 1, 2, ..."""
        waiting: list[np.ndarray] = []
        count = 0
        for rgb in self._chosen():
            waiting.append(fit(rgb, self._size, is_cropped=self.protocol.crop is not None))
            count += 1
            if len(waiting) == BATCH_FRAMES:
                yield FrameBatch(np.stack(waiting), np.arange(count - len(waiting), count, dtype=np.int64))
                waiting = []
        if waiting:
            yield FrameBatch(np.stack(waiting), np.arange(count - len(waiting), count, dtype=np.int64))

    def _chosen(self) -> Iterator[np.ndarray]:
        protocol, number, taken = self.protocol, 0, 0
        with open_source(self.source.path) as video:
            for batch in video:
                for rgb in batch.rgb:
                    if number >= protocol.start and (number - protocol.start) % protocol.stride == 0:
                        yield in_eight_bits(rgb)
                        taken += 1
                        if taken == protocol.frames:
                            return
                    number += 1


def fit(rgb: np.ndarray, size: tuple[int, int], *, is_cropped: bool) -> np.ndarray:
    """A picture at a size: stretched to it, or covering it with the middle kept. uint8 (H, W, 3)."""
    height, width = rgb.shape[:2]
    to_width, to_height = size
    if is_cropped:
        scale = max(Fraction(to_width, width), Fraction(to_height, height))
        rgb = scaled(rgb, max(to_width, round(width * scale)), max(to_height, round(height * scale)))
        top, left = (rgb.shape[0] - to_height) // 2, (rgb.shape[1] - to_width) // 2
        return np.ascontiguousarray(rgb[top : top + to_height, left : left + to_width])
    return scaled(rgb, to_width, to_height)


def scaled(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    if rgb.shape[:2] == (height, width):
        return rgb
    is_smaller = width <= rgb.shape[1] and height <= rgb.shape[0]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    method = "AREA" if is_smaller else "BICUBIC"
    return frame.reformat(width=width, height=height, interpolation=method).to_ndarray()
