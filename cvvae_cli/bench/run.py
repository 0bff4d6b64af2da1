"""The bench: every clip through every contender at every setting, a row each; nothing is done twice."""

from __future__ import annotations

import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cvvae_cli import __version__
from cvvae_cli.bench.cache import Entry, RowCache, key_of
from cvvae_cli.bench.contenders import Contender
from cvvae_cli.bench.dataset import BATCH_FRAMES, Clip, Protocol, Source
from cvvae_cli.bench.measure import Measurement, in_step, measure
from cvvae_cli.bench.memory import PeakMemory
from cvvae_cli.errors import CvvaeError
from cvvae_cli.metrics import METRICS, Borders, MetricOptions
from cvvae_cli.types import FrameBatch

WORST, MIDDLE = "worst", "middle"
HEAT_LEVELS = 48  # of 255: where the error map is brightest
JPEG: Any = {"format": "JPEG", "quality": 92, "subsampling": 0}


@dataclass(frozen=True)
class Job:
    """What is to be measured, and how."""

    sources: Sequence[Source]
    protocol: Protocol
    contenders: Sequence[Contender]
    metrics: Sequence[str]
    options: MetricOptions
    facts: dict[str, object] = field(
        default_factory=dict
    )  # more that decides values: hash of the LPIPS trunk
    cache: RowCache = field(default_factory=lambda: RowCache(None))
    keeps_details: bool = True  # values of frames and pictures of every row, as a report needs them


@dataclass(frozen=True)
class Failure:
    """A clip that could not be measured."""

    clip: str
    reason: str


@dataclass
class Results:
    """Everything a bench found."""

    entries: list[Entry] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    measured: int = 0  # rows that were not in the cache

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [entry.row for entry in self.entries]


OnRow = Callable[[Entry], None]


def run(job: Job, *, on_row: OnRow = lambda entry: None, on_clip: Callable[[str], None]) -> Results:
    """Measure all that is not in the cache. A clip that fails is listed, and the others go on."""
    results = Results()
    for source in job.sources:
        on_clip(source.name)
        try:
            clip = Clip(source, job.protocol)
            for contender in job.contenders:
                for setting in contender.settings:
                    entry, is_new = row_of(job, clip, contender, setting)
                    results.entries.append(entry if job.keeps_details else Entry(entry.row))
                    results.measured += is_new
                    on_row(entry)
        except CvvaeError as error:
            results.failures.append(Failure(source.name, str(error)))
    return results


def row_of(job: Job, clip: Clip, contender: Contender, setting: float | None) -> tuple[Entry, bool]:
    """A row, and whether it had to be measured."""
    borders = borders_of(job, clip, contender)
    key = key_of(
        {
            "program": __version__,
            "clip": clip.sha256,
            "rate": str(clip.info.frame_rate),
            "protocol": job.protocol.to_json(),
            "contender": contender.identity(),
            "setting": setting,
            "metrics": {name: METRICS[name].version for name in job.metrics},
            "options": {**job.facts, "borders": vars(borders)},
        }
    )
    kept = job.cache.get(key)
    if kept is not None:
        return Entry({**kept.row, "clip": clip.source.name}, kept.per_frame, kept.pictures), False
    entry = measure_row(job, clip, contender, setting, replace(job.options, borders=borders))
    job.cache.put(key, entry)
    return entry, True


def borders_of(job: Job, clip: Clip, contender: Contender) -> Borders:
    """Where the pieces of a contender meet; for those of others, where those of the first of ours do."""
    for candidate in (contender, *job.contenders):
        borders = candidate.borders(clip.info.width, clip.info.height)
        if borders is not None:
            return borders
    return job.options.borders


def measure_row(
    job: Job, clip: Clip, contender: Contender, setting: float | None, options: MetricOptions
) -> Entry:
    width, height = clip.info.width, clip.info.height
    with tempfile.TemporaryDirectory(prefix="cvvae-bench-") as folder:
        path = Path(folder) / f"clip{contender.suffix}"
        watch = Stopwatch(clip)
        with PeakMemory(contender.device) as memory:
            contender.load()
            seconds = watch.time(lambda: contender.encode(watch.clip, path, setting))
            began = time.perf_counter()
            with RawFrames(Path(folder) / "decoded.rgb", height, width) as decoded:
                decoded.write(contender.decode(path))
            decode_seconds = time.perf_counter() - began - decoded.seconds
        contender.release()
        found = measure(in_step(clip, decoded), job.metrics, options)
        pixels = found.frames * width * height
        size = path.stat().st_size
        row = {
            "clip": clip.source.name,
            "model": contender.name,
            "quality": setting,
            "is_baseline": contender.is_baseline,
            "frames": found.frames,
            "width": width,
            "height": height,
            "file_bytes": size,
            "bits_per_pixel": rounded(size * 8 / pixels),
            "payload_bits_per_pixel": rounded(contender.payload_bytes(path) * 8 / pixels),
            **{name: rounded(found.values.get(name)) for name in METRICS if name in found.values},
            "encode_fps": rounded(found.frames / seconds),
            "decode_fps": rounded(found.frames / decode_seconds),
            "peak_memory_bytes": memory.bytes,
        }
        pictures = pictures_of(clip, decoded, found)
        per_frame = {n: [rounded(v) for v in values.tolist()] for n, values in found.per_frame.items()}
        return Entry(row | {"worst_frame": worst_frame(found)}, per_frame, pictures)


class Stopwatch:
    """Times work on a clip without the time that reading the clip takes."""

    def __init__(self, clip: Clip) -> None:
        self.reading = 0.0
        self.clip: Any = _Watched(clip, self)

    def time(self, work: Callable[[], None]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began - self.reading


class _Watched:
    def __init__(self, clip: Clip, watch: Stopwatch) -> None:
        self._clip, self._watch = clip, watch
        self.info, self.start_at = clip.info, clip.start_at

    def __iter__(self) -> Iterator[FrameBatch]:
        frames = iter(self._clip)
        while True:
            began = time.perf_counter()
            batch = next(frames, None)
            self._watch.reading += time.perf_counter() - began
            if batch is None:
                return
            yield batch


class RawFrames:
    """Decoded frames on disk, so that no memory grows with them and decoding is timed alone."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        self.path, self.shape = path, (height, width, 3)
        self.seconds = 0.0  # spent on writing

    def __enter__(self) -> RawFrames:
        self._file = self.path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, batches: Iterator[FrameBatch]) -> None:
        for batch in batches:
            began = time.perf_counter()
            self._file.write(np.ascontiguousarray(batch.rgb).data)
            self.seconds += time.perf_counter() - began

    def frames(self) -> np.ndarray:
        """uint8 (T, H, W, 3), mapped."""
        count = self.path.stat().st_size // math.prod(self.shape)
        return np.memmap(self.path, np.uint8, "r", shape=(count, *self.shape))

    def __iter__(self) -> Iterator[FrameBatch]:
        frames = self.frames()
        for start in range(0, len(frames), BATCH_FRAMES):
            rgb = np.array(frames[start : start + BATCH_FRAMES])
            yield FrameBatch(rgb, np.arange(start, start + len(rgb), dtype=np.int64))


def worst_frame(found: Measurement) -> int | None:
    """The frame with the lowest PSNR."""
    values = found.per_frame.get("psnr_db")
    return None if values is None else int(np.argmin(values))


def pictures_of(clip: Clip, decoded: RawFrames, found: Measurement) -> dict[str, bytes]:
    """The worst and the middle frame."""
    wanted = {WORST: worst_frame(found), MIDDLE: found.frames // 2}
    frames = decoded.frames()
    pictures: dict[str, bytes] = {}
    start = 0
    for batch in clip:
        for name, number in wanted.items():
            if number is not None and start <= number < start + len(batch):
                pictures |= side_by_side(name, batch.rgb[number - start], frames[number])
        start += len(batch)
    return pictures


def side_by_side(name: str, source: np.ndarray, decoded: np.ndarray) -> dict[str, bytes]:
    """A frame of the source, the same decoded, and a map of the error, as JPEG."""
    pictures = {"source": source, "decoded": decoded, "error": heat(source, decoded)}
    return {f"{name}-{kind}": jpeg(picture) for kind, picture in pictures.items()}


def heat(source: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Mean absolute error of a pixel as a colour: black none, bright HEAT_LEVELS of 255 or more."""
    from matplotlib import colormaps

    error = np.abs(source.astype(np.float32) - decoded.astype(np.float32)).mean(axis=2)
    colors: np.ndarray = colormaps["inferno"](np.minimum(error / HEAT_LEVELS, 1.0), bytes=True)[..., :3]
    return colors


def jpeg(rgb: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(file, **JPEG)
    return file.getvalue()


def rounded(value: float | None) -> float | None:
    """To six figures; infinite and undefined ones are None, as JSON has no word for them."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
