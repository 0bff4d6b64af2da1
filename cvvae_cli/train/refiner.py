"""What `task = "refiner"` trains: the small network that refines decoded pictures (models/refiner.py).

Its samples are pictures as the coder of a finished model gives them, with symbols chosen as in a file, and
their neighbours moved onto them; the model itself stays as it is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.bitstream.chunk import QuantizedCoder, coder_of
from cvvae_cli.bitstream.flow import worthless
from cvvae_cli.bitstream.prior import FIRST_LEVEL, LAST_LEVEL
from cvvae_cli.engine.base import network_to_pixels
from cvvae_cli.engine.device import choose_placement
from cvvae_cli.engine.mirror import Mirror
from cvvae_cli.engine.refining import differences_of, ways_between
from cvvae_cli.engine.stream import Engine
from cvvae_cli.errors import ConfigError
from cvvae_cli.models.layers import zero_init
from cvvae_cli.models.refiner import NEIGHBOURS, SHAPE, Refiner
from cvvae_cli.models.registry import ModelSpec, Weights, find_model_or_file
from cvvae_cli.train.config import JoinerSection, Stage, TrainConfig
from cvvae_cli.train.data import ClipSampler, SampleNoise, psnr_of_mse
from cvvae_cli.train.trainee import Figures, Trainee, autocast_for
from cvvae_cli.types import FrameBatch

FIRST_STEP = 30_000_000  # samples that no other training step has seen, from the same clips
LEVELS = range(FIRST_LEVEL, LAST_LEVEL + 1)
LEVEL_STRIDE = 37  # from sample to sample: all levels, none twice before all were
UNSEEN = 2 / 127.5**2  # an error that hardly shows: two squared levels
LONELY_SHARE = 0.1  # of the samples are shown without one of their neighbours
EVALUATION_LEVELS = (10, 40, 100)


@dataclass(frozen=True)
class Sample:
    """Pictures of a clip at a level, which have n neighbours; fp16."""

    pictures: Tensor  # (t, 3, S, S) in [-1, 1], as decoded
    differences: Tensor  # (t, n, 3, S, S)
    wanted: Tensor  # (t, 3, S, S): what the pictures lack
    known: Tensor  # (t, n)
    level: int


class Decoded:
    """Makes samples with a finished model."""

    def __init__(
        self, spec: ModelSpec, weights: Weights, device: torch.device, *, across: bool = False
    ) -> None:
        """`across`: the first latent frame of a chunk has that before it as a neighbour."""
        self.across = across
        self.spec = spec
        self.weights = weights
        self.device = device
        self.engine = Engine(spec, weights.build, choose_placement(device.type))

    @torch.inference_mode()
    def sample(self, video: Tensor, level: int) -> Sample:
        """Of a clip (1, 3, 1 + 4n, H, W) in [-1, 1]."""
        rgb = network_to_pixels(video, 8)
        encoder, decoder = self._coder(level), self._coder(level)
        mirror = Mirror(self.engine, level)
        batch = FrameBatch(rgb, np.arange(len(rgb)))
        parts, first_latent, last = [], 0, None
        for chunk in self.engine.encode_stream([batch], worthless=worthless(level), keeps_means=True):
            data = encoder.encode(first_latent, chunk.latents, chunk.fields)
            values = decoder.decode(first_latent, data, chunk.latents.shape, chunk.fields)
            seen = mirror.means(replace(chunk, latents=values, level=level), refines=False)
            pictures = torch.from_numpy(seen)
            wanted = torch.from_numpy(chunk.means) - pictures
            parts.append((pictures, *neighbours(pictures.to(self.device), last), wanted))
            last = pictures[-1:].to(self.device) if self.across else None
            first_latent += len(pictures)
        pictures, differences, known, wanted = (torch.cat(each) for each in zip(*parts, strict=True))
        return Sample(pictures.half(), differences.half(), wanted.half(), known, level)

    def _coder(self, level: int) -> QuantizedCoder:
        return coder_at(self.spec, self.weights, level)


def coder_at(
    spec: ModelSpec, weights: Weights, level: int | None, arrays: Mapping[str, np.ndarray] | None = None
) -> QuantizedCoder:
    """The coder of a model at a level, or one with other arrays than the model's."""
    arrays = weights.arrays if arrays is None else arrays
    return coder_of(spec.coder, arrays, weights.gain_and_step(level), level, spec.period)


def neighbours(pictures: Tensor, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of the pictures (t, 3, H, W) of a chunk: what `differences_of` says of each, on the CPU.

    `last` (1, 3, H, W) is the last picture of the chunk before.
    """
    every = pictures.split(1) if last is None else [last, *pictures.split(1)]
    ways = [ways_between(one, other) for one, other in pairwise(every)]
    before = [None, *((picture, back) for picture, (_, back) in zip(every, ways, strict=False))]
    after = [*((picture, there) for picture, (there, _) in zip(every[1:], ways, strict=True)), None]
    with_neighbours = list(zip(every, before, after, strict=True))[-len(pictures) :]
    found = [differences_of(*each) for each in with_neighbours]
    differences, known = (torch.cat(each).cpu() for each in zip(*found, strict=True))
    return differences, known


def planes(neighbours: int) -> tuple[int, ...]:
    """Channels of a batch: picture, differences, what is wanted, known, level."""
    return (3, 3 * neighbours, 3, neighbours, 1)


class RefinerTrainee(Trainee):
    """The refiner of the model that the recipe starts with."""

    part: ClassVar[str] = "refiner"  # of the model, and the section of the recipe
    shape: ClassVar[tuple[str, ...]] = SHAPE
    neighbours: ClassVar[int] = NEIGHBOURS

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__()
        if config.start is None:
            raise ConfigError(f"a {self.part} belongs to a model", hint='set start = "compact" in the recipe')
        self.config = config
        spec = find_model_or_file(config.start)
        if spec.levels is None:
            raise ConfigError(f"{spec.name} has no quality levels", hint="start with a model that has")
        self._frozen["decoded"] = self._decoded(spec, device)
        self._frozen["samples"] = {}
        shape = (getattr(self.section, name) for name in self.shape)
        self.refiner = Refiner(*shape, neighbours=self.neighbours)

    @property
    def section(self) -> JoinerSection:
        section: JoinerSection = getattr(self.config, self.part)
        return section

    def _decoded(self, spec: ModelSpec, device: torch.device) -> Decoded:
        return Decoded(spec, Weights(spec), device, across=self.config.refiner.across)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.refiner.parameters()), "lr": self.config.schedule.learning_rate}]

    def start(self, sampler: ClipSampler) -> None:
        """As the model's own refiner, if it has one: what is new adds nothing. Else as it was built."""
        decoded: Decoded = self._frozen["decoded"]
        own: Refiner | None = getattr(decoded.weights.build(), self.part)
        if own is None:
            return
        try:
            self.refiner.load_state_dict(own.state_dict(), strict=False)
        except RuntimeError:
            raise ConfigError(
                f"the {self.part} of {decoded.spec.name} has other widths",
                hint="keep width and layers, or start with a model that has none",
            ) from None
        for block in self.refiner.inner[len(own.inner) :] if own.inner else ():
            zero_init(block)

    def batch(self, sampler: ClipSampler, step: int, places: range, stage: Stage) -> Tensor:
        """Pieces of samples, (B, C, S, S): see `planes`."""
        seeds = (f"{self.config.seed}/{step}/{place}/{self.part}" for place in places)
        return torch.stack([self._piece(random.Random(seed), sampler, stage.size) for seed in seeds])

    def _piece(self, rng: random.Random, sampler: ClipSampler, size: int) -> Tensor:
        sample = self._sample(rng.randrange(self.section.clips), sampler)
        at = rng.randrange(len(sample.pictures))
        size = min(size, sample.pictures.shape[-1])
        top, left = (rng.randrange((n - size) // 2 + 1) * 2 for n in sample.pictures.shape[-2:])
        rows, columns = slice(top, top + size), slice(left, left + size)
        picture, differences, wanted = (
            each[at, ..., rows, columns].float()
            for each in (sample.pictures, sample.differences, sample.wanted)
        )
        known = sample.known[at].clone()
        if rng.random() < 0.5:  # time runs the other way
            differences, known = differences.flip(0), known.flip(0)
        if self.neighbours > 1 and rng.random() < LONELY_SHARE:
            known[rng.randrange(self.neighbours)] = 0
            differences = differences * known.view(-1, 1, 1, 1)
        flat = [each.expand(1, size, size) for each in (*known, torch.tensor(float(sample.level)))]
        piece = torch.cat([picture, differences.flatten(0, 1), wanted, *flat])
        if rng.random() < 0.5:
            piece = piece.flip(1)
        if rng.random() < 0.5:
            piece = piece.flip(2)
        return piece.transpose(1, 2) if rng.random() < 0.5 else piece

    def _sample(self, number: int, sampler: ClipSampler) -> Sample:
        samples = self._frozen["samples"]
        if number not in samples:
            section = self.section
            video = sampler.batch(FIRST_STEP + number, 1, section.frames, section.size)
            level = LEVELS[number * LEVEL_STRIDE % len(LEVELS)]
            samples[number] = self._frozen["decoded"].sample(video, level)
        sample: Sample = samples[number]
        return sample

    def loss(self, video: Tensor, noise: SampleNoise, step: int) -> tuple[Tensor, Figures]:
        """The mean over the pieces of the logarithm of the error that is left, as in a mean of PSNRs."""
        picture, differences, wanted, known, level = video.split(planes(self.neighbours), 1)
        differences = differences.unflatten(1, (self.neighbours, 3))
        with autocast_for(video.device):
            more = self.refiner(picture, differences, known[..., 0, 0], level[:, 0, 0, 0])
        before, after = (error.square().mean((1, 2, 3)) + UNSEEN for error in (wanted, wanted - more))
        loss = (after / before).log().mean()
        gain = -10 / math.log(10) * loss.item()
        return loss, {"mse": after.mean().item() / 4, "gain_db": gain}

    def figures(self, video: Tensor) -> dict[str, Figures]:
        return {str(level / 10): self._figures_of_level(video, level) for level in EVALUATION_LEVELS}

    def _figures_of_level(self, video: Tensor, level: int) -> Figures:
        sample = self._frozen["decoded"].sample(video, level)
        places = torch.full((len(sample.pictures),), float(sample.level))
        errors = []
        for at in range(len(places)):
            inputs = (sample.pictures, sample.differences, sample.known, places)
            more = self.refiner(*(each[at : at + 1].to(video.device).float() for each in inputs))
            wanted = sample.wanted[at].to(video.device).float()
            errors.append(torch.stack([wanted.square().mean(), (wanted - more[0]).square().mean()]))
        before, after = torch.stack(errors).mean(0).tolist()
        return {
            "psnr_db": round(psnr_of_mse(after, 2.0), 3),
            "gain_db": round(10 * math.log10(before / max(after, 1e-12)), 3),
        }
