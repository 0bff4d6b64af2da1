"""Do an image VAE and a video model share a latent space? Reconstructions across, distances between latents.

All on the same frames: the video model alone; the image decoder on the video model's latents, against one
frame per latent (models/alignment.py); the video decoder on the image encoder's latents; the image VAE alone,
frame by frame; and a baseline: another model's latents, mapped to the image VAE's by least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.bench.dataset import Clip, Protocol, Source
from cvvae_cli.bench.measure import measure
from cvvae_cli.bench.run import MIDDLE, rounded, side_by_side
from cvvae_cli.engine.base import BaseEngine, network_to_pixels
from cvvae_cli.engine.device import Placement
from cvvae_cli.engine.load import make_engine
from cvvae_cli.engine.plan import pad_frames
from cvvae_cli.errors import ConfigError
from cvvae_cli.metrics import MetricOptions
from cvvae_cli.models.alignment import MAPPINGS, matching_frames
from cvvae_cli.models.image_vae import ImageVae
from cvvae_cli.models.registry import ModelSpec, Weights
from cvvae_cli.types import FrameBatch, LatentChunk

SEED = 0
PROJECTIONS = 128  # directions of the sliced distance
MOST_KEPT = 100_000  # latent positions that it sees
MOST_PICTURES = 24  # clips that are drawn


class Moments:
    """Count, sum and products of latent positions, float64: mean and covariance without keeping them."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sum = np.zeros(channels)
        self.products = np.zeros((channels, channels))

    def add(self, rows: np.ndarray) -> None:
        """(N, C)."""
        rows = rows.astype(np.float64)
        self.count += len(rows)
        self.sum += rows.sum(0)
        self.products += rows.T @ rows

    @property
    def mean(self) -> np.ndarray:
        return self.sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        return self.products / self.count - np.outer(self.mean, self.mean)


def frechet(a: Moments, b: Moments) -> float:
    """Fréchet distance of the Gaussians with these moments: |m1-m2|² + tr(S1 + S2 - 2 (S1 S2)^½)."""
    root = symmetric_root(a.covariance)
    cross = symmetric_root(root @ b.covariance @ root)
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(cross)
    return float(np.sum((a.mean - b.mean) ** 2) + max(spread, 0.0))


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    root: np.ndarray = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def sliced_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over random directions of the Wasserstein-1 distance of the projections of (N, C) and (M, C)."""
    rng = np.random.default_rng(SEED)
    directions = rng.standard_normal((a.shape[1], PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    quantiles = np.linspace(0, 1, 1001)
    first, second = (np.quantile(rows @ directions, quantiles, axis=0) for rows in (a, b))
    return float(np.abs(first - second).mean())


class Latents:
    """What is kept of the latents of all clips: moments, and a sample of positions, all equally likely."""

    def __init__(self, channels: int) -> None:
        self.moments = Moments(channels)
        self.sample = np.empty((0, channels), np.float32)
        self._lots = np.empty(0)  # drawn for each position; the lowest stay

    def add(self, latents: np.ndarray, rng: np.random.Generator) -> None:
        """(C, t, h, w) of one clip."""
        rows = rows_of(latents)
        self.moments.add(rows)
        lots = np.concatenate([self._lots, rng.random(len(rows))])
        kept = np.argsort(lots)[:MOST_KEPT]
        self.sample = np.concatenate([self.sample, rows.astype(np.float32)])[kept]
        self._lots = lots[kept]


class LinearMap:
    """Least squares from one latent space to another, gathered clip by clip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.gram = np.zeros((inputs + 1, inputs + 1))
        self.moment = np.zeros((inputs + 1, outputs))

    def add(self, source: np.ndarray, target: np.ndarray) -> None:
        """(C, t, h, w) each, of the same positions."""
        rows = with_one(rows_of(source))
        self.gram += rows.T @ rows
        self.moment += rows.T @ rows_of(target).astype(np.float64)

    def solve(self) -> np.ndarray:
        """(inputs + 1, outputs)."""
        solution: np.ndarray = np.linalg.lstsq(self.gram, self.moment, rcond=None)[0]
        return solution


def apply(matrix: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """(C, t, h, w) → (K, t, h, w)."""
    mapped = with_one(rows_of(latents)) @ matrix
    return mapped.T.reshape(-1, *latents.shape[1:]).astype(np.float32)


def rows_of(latents: np.ndarray) -> np.ndarray:
    """(C, t, h, w) → (t*h*w, C)."""
    return np.ascontiguousarray(latents.reshape(len(latents), -1).T)


def with_one(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows.astype(np.float64), np.ones((len(rows), 1))], axis=1)


@dataclass(frozen=True)
class Job:
    """What is compared, on which frames."""

    sources: Sequence[Source]
    protocol: Protocol
    spec: ModelSpec
    baseline: ModelSpec
    image_vae: ImageVae
    metrics: tuple[str, ...]
    options: MetricOptions
    placement: Placement


class Bridge:
    """The models of a job on their device, as maps of uint8 frames and latents of one clip."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.device = job.placement.device
        self.image_vae = job.image_vae.to(self.device)
        self.engine = make_engine(job.spec, Weights(job.spec).build, job.placement)
        self.baseline = make_engine(job.baseline, Weights(job.baseline).build, job.placement)

    def frames_of(self, clip: Clip) -> np.ndarray:
        """uint8 (T, H, W, 3), T = 1 + 4n: the frames after the last whole group are left out."""
        frames = np.concatenate([batch.rgb for batch in clip])
        return frames[: (len(frames) - 1) // 4 * 4 + 1]

    def encode(self, engine: BaseEngine, clip: Clip, count: int) -> np.ndarray:
        """Latents (C, t, h, w) of the first `count` frames."""
        chunks = engine.encode_stream(cut(clip, count))
        return np.concatenate([chunk.latents for chunk in chunks], axis=1)

    def decode(self, latents: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Frames like `frames`, by the video model."""
        count, height, width = frames.shape[:3]
        size, geometry = self.engine.spec.chunk_latents, self.engine.spec.geometry
        chunks = []
        for first in range(0, latents.shape[1], size):
            part = latents[:, first : first + size]
            of_part = geometry.frames_of(range(first, first + part.shape[1]))
            of_part = range(of_part.start, min(of_part.stop, count))
            chunks.append(LatentChunk(part, of_part, np.arange(of_part.start, of_part.stop)))
        return np.concatenate([batch.rgb for batch in self.engine.decode_stream(chunks, width, height)])

    @torch.inference_mode()
    def decode_singly(self, latents: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Every latent frame as a video of one frame."""
        height, width = frames.shape[1:3]
        pictures = []
        for frame in np.moveaxis(latents, 1, 0):
            z = torch.from_numpy(np.ascontiguousarray(frame))[None, :, None].to(self.device)
            video = self.engine.network.decode(z.contiguous(memory_format=torch.channels_last_3d))
            pictures.append(network_to_pixels(video.float()[..., :height, :width], 8))
        return np.concatenate(pictures)

    @torch.inference_mode()
    def image_encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W, 3) → (C, T, h, w), frame by frame."""
        latents = []
        for frame in frames:
            x = self.engine.pixels_to_network(pad_frames(frame[None], 0, 1, self.engine.spec.geometry.pixels))
            latents.append(self.image_vae.encode(x[:, :, 0])[0].float().cpu().numpy())
        return np.stack(latents, axis=1)

    @torch.inference_mode()
    def image_decode(self, latents: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """(C, t, h, w) → uint8 (t, H, W, 3)."""
        height, width = frames.shape[1:3]
        pictures = []
        for frame in np.moveaxis(latents, 1, 0):
            z = torch.from_numpy(np.ascontiguousarray(frame))[None].to(self.device)
            picture = self.image_vae.decode(z)[:, :, None, :height, :width]
            pictures.append(network_to_pixels(picture.float(), 8))
        return np.concatenate(pictures)


def cut(clip: Clip, count: int) -> Iterator[FrameBatch]:
    """The batches of the first `count` frames."""
    left = count
    for batch in clip:
        if left > 0:
            yield FrameBatch(batch.rgb[:left], batch.pts[:left])
            left -= len(batch)


def psi(frames: np.ndarray, mapping: str) -> np.ndarray:
    """uint8 (1 + 4n, H, W, 3) → uint8 (1 + n, H, W, 3); `random` picks alike in every run."""
    video = matched(frames.transpose(3, 0, 1, 2), mapping)
    return np.ascontiguousarray(np.rint(video).astype(np.uint8).transpose(1, 2, 3, 0))


def matched(video: np.ndarray, mapping: str) -> np.ndarray:
    """(C, 1 + 4n, h, w) → float32 (C, 1 + n, h, w)."""
    frames = torch.from_numpy(np.ascontiguousarray(video))[None].float()
    picks = torch.randint(4, (1, frames.shape[2] // 4), generator=torch.Generator().manual_seed(SEED))
    chosen: Tensor = matching_frames(frames, mapping, picks)[0]
    return chosen.numpy()


@dataclass(frozen=True)
class Compatibility:
    """What was measured: of each clip, means over clips, and the figures that programs look for."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    headline: dict[str, float | None]
    pictures: dict[str, dict[str, dict[str, bytes]]]  # clip → ours, baseline → JPEGs

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "summary": self.summary, **self.headline}


def compat(job: Job, *, on_clip: Callable[[str], None] = lambda name: None) -> Compatibility:
    """Measure everything. Raises a CvvaeError."""
    channels = job.image_vae.latent_channels
    if job.spec.geometry.channels != channels:
        raise ConfigError(
            f"{job.spec.name} has {job.spec.geometry.channels} channels of latents, the image VAE {channels}",
            hint="they must have the same latent space",
        )
    bridge = Bridge(job)
    maps = {mapping: LinearMap(job.baseline.geometry.channels, channels) for mapping in MAPPINGS}
    clips = [Clip(source, job.protocol) for source in job.sources]
    for clip in clips:  # first the baseline's maps, fitted on these very frames: the best it can do
        on_clip(f"{clip.source.name}, least squares")
        frames = bridge.frames_of(clip)
        latents = bridge.encode(bridge.baseline, clip, len(frames))
        theirs = bridge.image_encode(frames)
        for mapping in MAPPINGS:
            is_blend = mapping == "average"
            target = bridge.image_encode(psi(frames, mapping)) if is_blend else matched(theirs, mapping)
            maps[mapping].add(latents, target)
    gathered = Gathered(channels)
    solved = {mapping: fitted.solve() for mapping, fitted in maps.items()}
    rows = []
    for clip in clips:
        on_clip(clip.source.name)
        rows.append(row_of(bridge, clip, solved, gathered))
    summary = summary_of(rows, gathered)
    return Compatibility(rows, summary, headline_of(summary, gathered), gathered.pictures)


class Gathered:
    """Latents of all clips."""

    def __init__(self, channels: int) -> None:
        self.ours, self.image = Latents(channels), Latents(channels)
        self.baseline = {mapping: Latents(channels) for mapping in MAPPINGS}
        self.halves = Latents(channels), Latents(channels)
        self.rng = np.random.default_rng(SEED)
        self.pictures: dict[str, dict[str, dict[str, bytes]]] = {}


def row_of(bridge: Bridge, clip: Clip, maps: Mapping[str, np.ndarray], gathered: Gathered) -> dict[str, Any]:
    """All figures of one clip, and its latents into `gathered`."""
    job = bridge.job
    frames = bridge.frames_of(clip)
    latents = bridge.encode(bridge.engine, clip, len(frames))
    theirs = bridge.image_encode(frames)
    baseline = bridge.encode(bridge.baseline, clip, len(frames))
    rng = gathered.rng
    gathered.ours.add(latents, rng)
    gathered.image.add(theirs, rng)
    middle = len(frames) // 2
    for half, part in zip(gathered.halves, (theirs[:, :middle], theirs[:, middle:]), strict=True):
        half.add(part, rng)

    def measured(reference: np.ndarray, decoded: np.ndarray) -> dict[str, float | None]:
        values = measure([(reference, decoded)], job.metrics, job.options).values
        return {name: rounded(value) for name, value in values.items()}

    figures = {
        "own": measured(frames, bridge.decode(latents, frames)),
        "image_vae": measured(frames, bridge.image_decode(theirs, frames)),
        "our_decoder_on_pictures": measured(frames, bridge.decode_singly(theirs, frames)),
        "our_decoder_on_clips": measured(frames, bridge.decode(theirs[:, ::4], frames)),
    }
    seen = bridge.image_decode(latents, frames)
    aligned, least_squares = {}, {}
    for mapping in MAPPINGS:
        target = psi(frames, mapping)
        aligned[mapping] = measured(target, seen)
        mapped = apply(maps[mapping], baseline)
        gathered.baseline[mapping].add(mapped, rng)
        least_squares[mapping] = measured(target, bridge.image_decode(mapped, frames))
        if mapping == "average" and len(gathered.pictures) < MOST_PICTURES:
            middle = len(target) // 2
            theirs_seen = bridge.image_decode(mapped[:, middle : middle + 1], frames)[0]
            gathered.pictures[clip.source.name] = {
                "ours": side_by_side(MIDDLE, target[middle], seen[middle]),
                "baseline": side_by_side(MIDDLE, target[middle], theirs_seen),
            }
    average = psi(frames, "average")
    shift = (seen.astype(np.float64) - average).mean((0, 1, 2))
    return {
        "clip": clip.source.name,
        "frames": len(frames),
        "width": frames.shape[2],
        "height": frames.shape[1],
        **figures,
        "image_decoder": aligned,
        "image_decoder_baseline": least_squares,
        "color_shift_rgb": [round(float(v), 3) for v in shift],
    }


def mean_of(rows: Sequence[Mapping[str, Any]], *path: str) -> float | None:
    """The mean over clips of a figure; None if a clip has none."""
    values = []
    for row in rows:
        value: Any = row
        for key in path:
            value = value[key]
        if value is None:
            return None
        values.append(value)
    return rounded(float(np.mean(values)))


def summary_of(rows: list[dict[str, Any]], gathered: Gathered) -> dict[str, Any]:
    """Means over clips of all figures, and what the latents of all clips look like."""
    metrics = list(rows[0]["own"])
    alone = ("own", "image_vae", "our_decoder_on_pictures", "our_decoder_on_clips")
    summary: dict[str, Any] = {
        kind: {metric: mean_of(rows, kind, metric) for metric in metrics} for kind in alone
    }
    for kind in ("image_decoder", "image_decoder_baseline"):
        summary[kind] = {
            mapping: {metric: mean_of(rows, kind, mapping, metric) for metric in metrics}
            for mapping in MAPPINGS
        }
    image = gathered.image
    best = best_mapping(summary["image_decoder_baseline"])
    summary["latents"] = {
        "mean": listed(gathered.ours.moments.mean),
        "deviation": listed(np.sqrt(np.diag(gathered.ours.moments.covariance).clip(min=0))),
        "image_mean": listed(image.moments.mean),
        "image_deviation": listed(np.sqrt(np.diag(image.moments.covariance).clip(min=0))),
        "frechet_of_halves": rounded(frechet(gathered.halves[0].moments, gathered.halves[1].moments)),
        "sliced_wasserstein": rounded(sliced_wasserstein(gathered.ours.sample, image.sample)),
        "sliced_wasserstein_baseline": rounded(
            sliced_wasserstein(gathered.baseline[best].sample, image.sample)
        ),
        "sliced_wasserstein_of_halves": rounded(
            sliced_wasserstein(gathered.halves[0].sample, gathered.halves[1].sample)
        ),
    }
    summary["color_shift_rgb"] = listed(np.mean([row["color_shift_rgb"] for row in rows], axis=0))
    return summary


def headline_of(summary: dict[str, Any], gathered: Gathered) -> dict[str, float | None]:
    """The figures that programs look for."""
    ours, baseline = summary["image_decoder"], summary["image_decoder_baseline"]
    best, least = best_mapping(ours), best_mapping(baseline)
    gain = ours[best]["psnr_db"] - baseline[least]["psnr_db"]
    return {
        "gain_db": rounded(gain),
        "frechet": rounded(frechet(gathered.ours.moments, gathered.image.moments)),
        "frechet_baseline": rounded(frechet(gathered.baseline[least].moments, gathered.image.moments)),
        "own_psnr_db": summary["own"]["psnr_db"],
        "image_vae_psnr_db": summary["image_vae"]["psnr_db"],
    }


def best_mapping(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The mapping that an image decoder matches best."""
    return max(figures, key=lambda mapping: figures[mapping]["psnr_db"])


def listed(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in values]
