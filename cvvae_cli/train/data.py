"""Training pictures: folders of videos, frame folders and photos become clips of one size.

A sample is a pure function of (seed, step, place in the batch), so a resumed run sees what an
uninterrupted one would have seen. Decoded files stay in memory up to a bound; the least used goes first.
"""

from __future__ import annotations

import logging
import math
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.errors import ConfigError
from cvvae_cli.flow.align import LUMA_WEIGHTS
from cvvae_cli.train.config import DataSection
from cvvae_cli.video.reader import frame_files
from cvvae_cli.video.sources import Sources, search_folder

logger = logging.getLogger("cvvae")
MAX_UNREADABLE = 20
UNREADABLE = (av.FFmpegError, OSError, IndexError, RuntimeError)  # what reading a broken file raises
NEAREST = 0.55  # crop of what is altered, of the training size: enlarged, it is soft and moves fast
SIDEWAYS = 0.3  # of what is altered lies on its side
EXPONENTS, CONTRASTS, TINTS = 0.3, 0.2, 0.06  # spread of logarithms
SATURATIONS = (0.3, 1.6)
CAMERA_SPEEDS = (0.0, 0.003, 0.01, 0.03)  # of the picture's size per frame


def find_sources(folders: tuple[str, ...], exclude: tuple[str, ...] = ()) -> Sources:
    """The material of the recipe's folders. Raises ConfigError if there is none."""
    found = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise ConfigError(f"no folder {folder}", hint="set data.folders in the recipe or pass --data")
        found.append(search_folder(Path(folder), exclude))
    videos = [video for sources in found for video in sources.videos]
    photos = [photo for sources in found for photo in sources.photos]
    if not videos and not photos:
        raise ConfigError(
            f"no videos or photos in {', '.join(folders) or 'the recipe'}", hint="pass --data FOLDER"
        )
    return Sources(tuple(videos), tuple(photos))


def decode_scaled(path: Path, max_frames: int, short_side: int) -> Tensor:
    """Frames of a file, uint8 (T, H, W, 3), scaled down by area to at most `short_side`."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            scale = min(1.0, short_side / min(frame.width, frame.height))
            width, height = (max(16, round(s * scale / 2) * 2) for s in (frame.width, frame.height))
            rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
            frames.append(torch.from_numpy(rgb.to_ndarray()))
            if len(frames) == max_frames:
                break
    return torch.stack(frames)


def load_video(path: Path, config: DataSection) -> Tensor:
    if path.is_dir():
        files = frame_files(path)[: config.max_clip_frames]
        return torch.cat([decode_scaled(f, 1, config.short_side) for f in files])
    return decode_scaled(path, config.max_clip_frames, config.short_side)


def load_photo(path: Path, config: DataSection) -> Tensor:
    return decode_scaled(path, 1, config.max_photo_side)


class MemoryCache:
    """Decoded files, the least recently used dropped when `limit_bytes` is passed."""

    def __init__(self, load: Callable[[Path], Tensor], limit_bytes: float) -> None:
        self.load = load
        self.limit_bytes = limit_bytes
        self.entries: OrderedDict[Path, Tensor] = OrderedDict()
        self.bytes = 0

    def __getitem__(self, path: Path) -> Tensor:
        if path in self.entries:
            self.entries.move_to_end(path)
            return self.entries[path]
        value = self.load(path)
        self.entries[path] = value
        self.bytes += value.numel()
        while self.bytes > self.limit_bytes and len(self.entries) > 1:
            self.bytes -= self.entries.popitem(last=False)[1].numel()
        return value


class ClipSampler:
    """Batches of training clips: float (B, 3, T, S, S) in [-1, 1]."""

    def __init__(self, sources: Sources, config: DataSection, seed: int) -> None:
        self.sources = sources
        self.config = config
        self.seed = seed
        self.unreadable: set[Path] = set()
        limit = config.cache_gib * 2**30
        self.videos = MemoryCache(lambda p: load_video(p, config), limit * 0.7)
        self.photos = MemoryCache(lambda p: load_photo(p, config), limit * 0.3)

    def batch(self, step: int, batch: int | range, frames: int, size: int) -> Tensor:
        """The samples at some places of a step's batch, the first so many if it is a number."""
        places = range(batch) if isinstance(batch, int) else batch
        is_pictures = random.Random(f"{self.seed}/{step}").random() < self.config.image_share
        clips = []
        for place in places:
            rng = random.Random(f"{self.seed}/{step}/{place}")
            clips.append(self.scene(rng, 1, size) if is_pictures else self.clip(rng, frames, size))
        return torch.stack(clips) * 2 - 1

    def clip(self, rng: random.Random, frames: int, size: int) -> Tensor:
        """One sample (3, T, S, S) in [0, 1]; now and then it changes to another scene."""
        clip = self.scene(rng, frames, size)
        if rng.random() < self.config.cut_share:
            cut = rng.randrange(1, frames)
            clip = torch.cat([clip[:, :cut], self.scene(rng, frames - cut, size)], dim=1)
        return clip

    def scene(self, rng: random.Random, frames: int, size: int) -> Tensor:
        wants_video = rng.random() < self.config.video_share
        share = self.config.altered_share
        is_altered = share > 0 and rng.random() < share  # without, no number is drawn: samples stay the same
        least_zoom = NEAREST if is_altered else 1.0
        if self.sources.videos and (wants_video or not self.sources.photos):
            clip = self.from_video(rng, frames, size, least_zoom)
        else:
            clip = self.from_photo(rng, frames, size, least_zoom)
        if is_altered:
            clip = altered(rng, clip)
        if rng.random() < 0.5:
            clip = clip.flip(3)
        if rng.random() < 0.3:
            clip = clip.flip(0)
        return clip.permute(1, 0, 2, 3)

    def pick(self, rng: random.Random, paths: tuple[Path, ...], cache: MemoryCache) -> Tensor:
        """A decoded file; one that cannot be read is named once and another taken."""
        for _ in range(MAX_UNREADABLE):
            path = rng.choice(paths)
            value = self.read(path, cache.__getitem__)
            if value is not None:
                return value
        raise ConfigError(f"{MAX_UNREADABLE} files in a row cannot be read, the last is {path}")

    def read(self, path: Path, load: Callable[[Path], Tensor]) -> Tensor | None:
        """A decoded file; None for one that cannot be read, which is named once."""
        try:
            return load(path)
        except UNREADABLE as error:
            if path not in self.unreadable:
                self.unreadable.add(path)
                logger.warning("left out: %s cannot be read (%s)", path, error)
            return None

    def from_video(self, rng: random.Random, frames: int, size: int, least_zoom: float) -> Tensor:
        video = self.pick(rng, self.sources.videos, self.videos)
        stride = rng.choice(self.config.time_strides)
        if len(video) < (frames - 1) * stride + 1:
            stride = 1
        span = (frames - 1) * stride + 1
        start = rng.randrange(max(1, len(video) - span + 1))
        piece = video[start : start + span : stride]
        if len(piece) < frames:  # a clip shorter than a sample goes there and back
            piece = piece[bounce(len(piece), frames)]
        side = self.crop_side(rng, size, min(video.shape[1:3]), least_zoom)
        y, x = rng.randrange(video.shape[1] - side + 1), rng.randrange(video.shape[2] - side + 1)
        return scale_to(piece[:, y : y + side, x : x + side].permute(0, 3, 1, 2), size)

    def crop_side(self, rng: random.Random, size: int, available: int, least_zoom: float) -> int:
        zoom = rng.uniform(least_zoom, max(least_zoom, min(self.config.max_zoom, available / size)))
        return min(int(size * zoom), available)

    def from_photo(self, rng: random.Random, frames: int, size: int, least_zoom: float) -> Tensor:
        """A slow move of a camera over a photo: pan, zoom and turn at constant speed."""
        photo = self.pick(rng, self.sources.photos, self.photos)[0]
        margin = 1.3
        side = self.crop_side(rng, int(size * margin), min(photo.shape[:2]), least_zoom)
        y, x = rng.randrange(photo.shape[0] - side + 1), rng.randrange(photo.shape[1] - side + 1)
        picture = photo[y : y + side, x : x + side].permute(2, 0, 1)[None]
        canvas = scale_to(picture, int(size * margin))
        speed = rng.choice(CAMERA_SPEEDS)
        pan_x, pan_y = rng.gauss(0, speed), rng.gauss(0, speed)
        zoom, turn = rng.gauss(0, speed / 2), rng.gauss(0, speed / 3)
        time = torch.arange(frames) - frames / 2
        scale = torch.exp((zoom * time).clamp(-0.7, 0.7)) / margin
        cos, sin = scale * torch.cos(turn * time), scale * torch.sin(turn * time)
        rows = [torch.stack([cos, -sin, pan_x * time], -1), torch.stack([sin, cos, pan_y * time], -1)]
        grid = functional.affine_grid(torch.stack(rows, 1), [frames, 3, size, size], align_corners=False)
        moved = functional.grid_sample(
            canvas.expand(frames, -1, -1, -1), grid, "bicubic", "reflection", align_corners=False
        )
        return moved.clamp(0, 1)


def altered(rng: random.Random, clip: Tensor) -> Tensor:
    """Frames (T, 3, S, S) in [0, 1] under other light: exponent, contrast, tint and saturation of their own;
    some lie on their side."""
    if rng.random() < SIDEWAYS:
        clip = clip.rot90(rng.choice((1, -1)), (2, 3))
    exponent, contrast, red, blue = (math.exp(rng.gauss(0, s)) for s in (EXPONENTS, CONTRASTS, TINTS, TINTS))
    light = clip.clamp(0, 1) ** exponent * clip.new_tensor([red, 1.0, blue]).view(3, 1, 1)
    light = (light - light.mean()) * contrast + light.mean()
    grey = (light * light.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)).sum(1, keepdim=True)
    return (grey + (light - grey) * rng.uniform(*SATURATIONS)).clamp(0, 1)


class SampleNoise:
    """Random numbers of the samples of a batch: a pure function of (seed, step, place), like the samples.

    What a sample meets does not depend on how many processes share a step.
    """

    def __init__(self, seed: int, step: int, places: range, device: torch.device) -> None:
        seeds = (random.Random(f"{seed}/{step}/{place}/noise").getrandbits(63) for place in places)
        self.generators = [torch.Generator().manual_seed(number) for number in seeds]
        self.device = device

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) of mean 0 and variance 1."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def integers(self, below: int, *shape: int) -> Tensor:
        """(B, *shape) in [0, below)."""
        return torch.stack([torch.randint(below, shape, generator=g) for g in self.generators]).to(
            self.device
        )

    def choices(self, count: int, below: int) -> Tensor:
        """(B, count) different integers in [0, below) each."""
        picked = [torch.randperm(below, generator=g)[:count] for g in self.generators]
        return torch.stack(picked).to(self.device)


def bounce(length: int, frames: int) -> Tensor:
    """Indices that run to the end and back.

    >>> bounce(3, 7).tolist()
    [0, 1, 2, 1, 0, 1, 2]
    """
    period = max(1, 2 * (length - 1))
    phase = torch.arange(frames) % period
    return torch.minimum(phase, period - phase) if length > 1 else torch.zeros(frames, dtype=torch.long)


def scale_to(picture: Tensor, size: int) -> Tensor:
    """uint8 (N, 3, S, S) → float (N, 3, size, size) in [0, 1]."""
    x = picture.to(torch.float32) / 255
    if x.shape[-1] == size:
        return x
    return functional.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


def principal_components(
    sampler: ClipSampler, patch: Callable[[Tensor], Tensor], batches: int
) -> tuple[Tensor, Tensor]:
    """Mean (K,) and unit eigenvectors (K, K) of training patches, the strongest first.

    `patch` folds a batch (B, 3, 4t, H, W) to (B, K, t, h, w).
    """
    moments, count = None, 0
    for number in range(batches):  # one at a time: all of them are a gigabyte
        x = patch(sampler.batch(-1 - number, 4, 8, 128)).permute(0, 2, 3, 4, 1).flatten(0, 3)
        of_batch = torch.cat([x, torch.ones_like(x[:, :1])], 1).T @ x  # the last row is the sum
        moments = of_batch.double() if moments is None else moments.add_(of_batch)
        count += len(x)
    assert moments is not None
    mean = moments[-1] / count
    _, vectors = torch.linalg.eigh(moments[:-1] / count - torch.outer(mean, mean))
    return mean.to(torch.float32), vectors.flip(1).to(torch.float32)


def psnr_of_mse(mse: float, peak: float) -> float:
    return 10 * math.log10(peak**2 / max(mse, 1e-12))


def as_model_input(frames: np.ndarray) -> Tensor:
    """uint8 (T, H, W, 3) → (1, 3, T, H, W) in [-1, 1], cut to multiples of 8 and 1 + 4n."""
    t, h, w = (len(frames) - 1) // 4 * 4 + 1, frames.shape[1] // 8 * 8, frames.shape[2] // 8 * 8
    x = torch.from_numpy(frames[:t, :h, :w]).permute(3, 0, 1, 2)[None].to(torch.float32)
    return x / 127.5 - 1
