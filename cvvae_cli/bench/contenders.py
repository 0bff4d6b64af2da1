"""What is measured: our models, and in BASELINES the codecs that people would use instead."""

from __future__ import annotations

import importlib.metadata
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import av
import torch

from cvvae_cli import codec
from cvvae_cli.access import decode_frames
from cvvae_cli.bench.dataset import Clip
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.engine.base import BaseEngine, EngineOptions
from cvvae_cli.engine.device import Placement
from cvvae_cli.engine.load import make_engine, with_geometry
from cvvae_cli.engine.plan import tile_starts
from cvvae_cli.errors import ConfigError
from cvvae_cli.metrics import Borders
from cvvae_cli.models.registry import ModelSpec, Weights, find_model_or_file
from cvvae_cli.options import EncodeOptions
from cvvae_cli.types import FrameBatch
from cvvae_cli.video.reader import open_source
from cvvae_cli.video.sidestreams import SideSource
from cvvae_cli.video.writer import OutputOptions, VideoWriter

NOTHING_BESIDE = SideSource((), (), (), {})
CRFS_26x = (22.0, 27.0, 32.0, 37.0, 42.0, 47.0)
CRFS_AV1 = (25.0, 33.0, 41.0, 49.0, 56.0, 62.0)


class Contender(ABC):
    """A codec at several settings. `suffix` names its kind of file."""

    name: str
    settings: tuple[float | None, ...]
    suffix: str
    is_baseline: bool
    device = torch.device("cpu")

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that decides its results; part of the cache key."""

    @abstractmethod
    def load(self) -> None:
        """Get ready; not part of the time measured."""

    @abstractmethod
    def encode(self, clip: Clip, path: Path, setting: float | None) -> None:
        """Write the whole file."""

    @abstractmethod
    def payload_bytes(self, path: Path) -> int:
        """What the pictures take of the file."""

    @abstractmethod
    def decode(self, path: Path) -> Iterator[FrameBatch]:
        """All frames, in order."""

    @abstractmethod
    def release(self) -> None:
        """Forget what `load` made."""

    def borders(self, width: int, height: int) -> Borders | None:
        """Where its pieces meet in a picture of that size; None if it has none of its own."""
        return None


class ModelContender(Contender):
    """One of our models, through the very path of `cvvae encode` and `cvvae decode`."""

    suffix = ".cvl"
    is_baseline = False

    def __init__(
        self,
        model: str,
        qualities: Sequence[float] | str | None,
        placement: Placement,
        tile_pixels: int | None = None,
        temporal_overlap: int = 0,
        *,
        is_baseline: bool = False,
    ) -> None:
        """`qualities`: levels, "all", or None for the model's own. `temporal_overlap` is part of the name."""
        self.options = EngineOptions(tile_pixels, temporal_overlap)
        self.spec = with_geometry(find_model_or_file(model), self.options)
        self.name = f"{self.spec.name}+{temporal_overlap}" if temporal_overlap else self.spec.name
        self.placement, self.device = placement, placement.device
        self.is_baseline = is_baseline
        self.settings = settings_of(self.spec, qualities)
        self._engine: BaseEngine | None = None

    def identity(self) -> dict[str, object]:
        return {
            "model": self.spec.name,
            "weights": self.spec.weights_sha256,
            "device": self.placement.device.type,
            "dtype": self.placement.dtype_name,
            "tile": self.options.tile_pixels,
            "windows": self.spec.windows and astuple(self.spec.windows),
            "choice": codec.CHOICE,
        }

    def load(self) -> None:
        self._weights = Weights(self.spec)
        self._engine = make_engine(self.spec, self._weights.build, self.placement, self.options)

    def release(self) -> None:
        self._engine = None

    def encode(self, clip: Clip, path: Path, setting: float | None) -> None:
        assert self._engine is not None
        options = EncodeOptions(model=self.spec.name, quality=setting)
        header = codec.header_for(clip, None, NOTHING_BESIDE, self._engine, self._weights, options)
        cvl = CvlWriter(path.open("wb"), header)
        for _ in codec.write_cvl(cvl, clip, NOTHING_BESIDE, self._engine, self._weights):
            pass

    def payload_bytes(self, path: Path) -> int:
        with open_cvl(path) as cvl:
            return cvl.symbol_bytes()

    def decode(self, path: Path) -> Iterator[FrameBatch]:
        assert self._engine is not None
        with open_cvl(path) as cvl:
            yield from decode_frames(cvl, self._weights, self._engine)

    def borders(self, width: int, height: int) -> Borders:
        """Where the chunks of its grid begin, or its windows and their tiles."""
        geometry, windows = self.spec.geometry, self.spec.windows
        if windows is None:
            return self.borders_in_time()
        rows, columns = (
            tuple(
                geometry.pixels * start for start in tile_starts(side, windows.tile, windows.stride) if start
            )
            for side in geometry.latent_size(width, height)
        )
        return replace(self.borders_in_time(), rows=rows, columns=columns)

    def borders_in_time(self) -> Borders:
        geometry, chunk, windows = self.spec.geometry, self.spec.chunk_latents, self.spec.windows
        if windows is not None:
            step = windows.step * geometry.frames
            return Borders(period=step, first=step + 1)
        first = geometry.frames_of(range(chunk, 2 * chunk)).start
        return Borders(period=chunk * geometry.frames, first=first)


def settings_of(spec: ModelSpec, qualities: Sequence[float] | str | None) -> tuple[float | None, ...]:
    if spec.levels is None:
        return (None,)
    per_quality = codec.LEVELS_PER_QUALITY
    if qualities is None:
        return ((spec.default_level or spec.levels[0]) / per_quality,)
    if qualities == "all":
        first, last = (level // per_quality for level in spec.levels)
        return tuple(float(level) for level in range(first, last + 1))
    assert not isinstance(qualities, str)
    for quality in qualities:
        codec.level_of(spec, quality)
    return tuple(qualities)


@dataclass(frozen=True)
class PeerKind:
    """A codec of others, as PyAV bundles it."""

    codec: str
    suffix: str
    preset: str  # unless one is named
    crfs: tuple[float, ...]


PEERS = {
    "x264": PeerKind("libx264", ".mp4", "medium", CRFS_26x),
    "x265": PeerKind("libx265", ".mp4", "medium", CRFS_26x),
    "svtav1": PeerKind("libsvtav1", ".mp4", "8", CRFS_AV1),
    "vp9": PeerKind("libvpx-vp9", ".webm", "2", CRFS_AV1),
}


class PeerContender(Contender):
    """A codec of others: 8-bit 4:2:0, one preset, constant rate factor."""

    is_baseline = True

    def __init__(self, kind: str, preset: str | None, crfs: Sequence[float] | None) -> None:
        self.kind = PEERS[kind]
        self.preset = preset or self.kind.preset
        self.name = f"{kind}:{self.preset}"
        self.suffix = self.kind.suffix
        self.settings = tuple(crfs or self.kind.crfs)
        if kind == "svtav1":
            os.environ.setdefault("SVT_LOG", "0")  # its own lines on stderr

    def identity(self) -> dict[str, object]:
        version = importlib.metadata.version("av")
        return {"codec": self.kind.codec, "preset": self.preset, "pyav": version, "pixels": "yuv420p"}

    def load(self) -> None:
        pass

    def release(self) -> None:
        pass

    def encode(self, clip: Clip, path: Path, setting: float | None) -> None:
        assert setting is not None
        sampling = "yuv420p" if clip.info.width % 2 == clip.info.height % 2 == 0 else "yuv444p"
        options = OutputOptions(self.kind.codec, int(setting), sampling, self.preset)
        with VideoWriter(path, path, clip.info, options, None) as video:
            for batch in clip:
                video.write(batch)

    def payload_bytes(self, path: Path) -> int:
        with av.open(str(path)) as container:
            return sum(packet.size for packet in container.demux(container.streams.video[0]))

    def decode(self, path: Path) -> Iterator[FrameBatch]:
        with open_source(path) as video:
            yield from video


LINEAR = "linear"
BASELINES = (*PEERS, LINEAR)


def parse_baseline(text: str, placement: Placement) -> Contender:
    """`x264`, `x264:slow`, `x264:slow:20,30,40` or `linear`. Raises ConfigError."""
    kind, _, rest = text.partition(":")
    preset, _, crfs = rest.partition(":")
    if kind == LINEAR:
        return ModelContender("linear-1", "all", placement, is_baseline=True)
    if kind not in PEERS:
        raise ConfigError(
            f"no baseline is called {kind!r}",
            hint=f"known baselines: {', '.join(BASELINES)}, as in x264:medium",
        )
    contender = PeerContender(kind, preset or None, parse_numbers(crfs) if crfs else None)
    require_preset(contender)
    return contender


def require_preset(peer: PeerContender) -> None:
    """Raise ConfigError for a preset that the codec does not take."""
    options: dict[str, str] = {"cpu-used" if peer.kind.codec == "libvpx-vp9" else "preset": peer.preset}
    if peer.kind.codec == "libx265":
        options["x265-params"] = "log-level=none"
    context: Any = av.CodecContext.create(peer.kind.codec, "w")
    context.width = context.height = 64
    context.pix_fmt, context.framerate, context.options = "yuv420p", 25, options
    try:
        context.open()
    except (av.FFmpegError, ValueError):
        raise ConfigError(
            f"{peer.kind.codec} has no preset {peer.preset!r}",
            hint="for example x264:medium, svtav1:8, vp9:2",
        ) from None


def parse_numbers(text: str) -> tuple[float, ...]:
    """Numbers between commas. Raises ConfigError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{text!r} is no list of numbers", hint="for example 20,28,36") from None
