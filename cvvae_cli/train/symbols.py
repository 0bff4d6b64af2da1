"""What `task = "prior"` trains: the prior of a finished model, on the very symbols that its encoder writes.

When a model is trained, its prior meets latents that are rounded one by one. A file is written otherwise, for
its encoder looks ahead, aligns frames and weighs bits; and the network no longer changes, so that a prior
alone learns in an hour what it would not in a day beside it.
"""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.bitstream.chunk import CoderWithDetail, which_aligned
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.flow import worthless
from cvvae_cli.bitstream.motion import FRACTION, MotionTables
from cvvae_cli.bitstream.prior import FIRST_LEVEL, LAST_LEVEL, MOST_REACH, PriorTables, halving
from cvvae_cli.bitstream.residuals import Plan
from cvvae_cli.bitstream.vectors import LARGEST as LARGEST_VECTOR
from cvvae_cli.engine.base import network_to_pixels
from cvvae_cli.engine.device import choose_placement
from cvvae_cli.engine.stream import Engine
from cvvae_cli.errors import ConfigError
from cvvae_cli.models.registry import Weights, coder_of_prior, find_model_or_file
from cvvae_cli.train.config import PriorSection, Stage, TrainConfig
from cvvae_cli.train.data import ClipSampler, SampleNoise
from cvvae_cli.train.losses import add_noise
from cvvae_cli.train.prior import (
    LatentPrior,
    Levels,
    Rounder,
    frequencies_of,
    logistic_bits,
    quantized,
    resting,
)
from cvvae_cli.train.refiner import EVALUATION_LEVELS, FIRST_STEP, LEVEL_STRIDE, LEVELS, coder_at
from cvvae_cli.train.restore import restore_prior
from cvvae_cli.train.tables import count_values
from cvvae_cli.train.trainee import Figures, Trainee, autocast_for
from cvvae_cli.types import FrameBatch

PIXELS = 256  # of four frames, that a latent position stands for
MEASURED = 80  # samples, at most, by which ranges of activations are found


@dataclass(frozen=True)
class Coded:
    """A clip at a level, as the encoder wrote it."""

    symbols: Tensor  # int16 (C, t, h, w), in 1/16 of a cell
    scaled: Tensor  # fp16 (C, t, h, w): the latents they stand for, in cells
    expected: Tensor  # fp16 (C, t, h, w): by the latent frame before and motion alone, in cells
    moves: Tensor  # bool (1, t, h, w): where residuals count from the mean
    aligned: Tensor  # bool (t,)
    level: int

    @property
    def decoded(self) -> Tensor:
        """float32 (C, t, h, w), in cells."""
        return self.symbols.float() / 2**FRACTION


class PriorTrainee(Trainee):
    """The prior of the model that the recipe starts with; how things move stays as it is."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        if config.start is None:
            raise ConfigError("a prior belongs to a model", hint='set start = "compact" in the recipe')
        spec = find_model_or_file(config.start)
        weights = Weights(spec)
        if not isinstance(coder_at(spec, weights, spec.default_level), CoderWithDetail):
            raise ConfigError(
                f"{spec.name} has no prior that this could go on with", hint='start with "compact-8" or later'
            )
        kinds = {
            "cuts": "groups of channels",
            "strides": "coarse passes",
            "later": "passes of later frames",
            "reach": "reach of vectors",
        }
        has_any = any(getattr(self.section, name) for name in kinds)
        if has_any and not weights.config.get("joiner_width"):
            raise ConfigError(
                f"coders of groups of channels or coarse passes are for models with a joiner, "
                f"and {spec.name} has none",
                hint='leave out cuts, strides, later and reach, or set start = "compact"',
            )
        for name, what in kinds.items():
            wanted = getattr(self.section, name)
            own = weights.arrays.get(f"prior.{name}", np.array(wanted))
            if own.ravel().tolist() != np.ravel(wanted).tolist():
                value = own.tolist() if isinstance(wanted, tuple) else own.item()
                raise ConfigError(
                    f"the prior of {spec.name} has other {what}",
                    hint=f"set {name} = {value} in [prior], or start with a model that has none",
                )
        for name in ("strides", "later"):
            strides = getattr(self.section, name)
            if strides != halving(len(strides)):
                raise ConfigError(
                    f"{name} = {list(strides)} in [prior] do not halve down to 1",
                    hint="as [4, 2, 1] or [8, 4, 2, 1]",
                )
        if self.section.later and not self.section.strides:
            raise ConfigError(
                "later in [prior] is for coders whose first frames have coarse passes",
                hint="set strides, too",
            )
        section = self.section
        reach = section.reach
        if reach and not (section.later and LARGEST_VECTOR <= reach <= MOST_REACH):
            raise ConfigError(
                f"reach = {reach} in [prior] cannot be",
                hint=f"{LARGEST_VECTOR} to {MOST_REACH} pixels, for coders of which later is set, too",
            )
        engine = Engine(spec, weights.build, choose_placement(device.type))
        self._frozen |= {"spec": spec, "weights": weights, "engine": engine, "samples": {}}
        arrays = weights.arrays
        width, channels = arrays["prior.conv2"].shape[1], arrays["quantizer.log_gain"].shape[1]
        self.prior = LatentPrior(channels, width, section.cuts, section.strides, section.later, reach)
        self.prior.motion.requires_grad_(False)
        self.log_gain, self.log_step = (
            torch.from_numpy(arrays[f"quantizer.{name}"]).to(device) for name in ("log_gain", "log_step")
        )

    @property
    def section(self) -> PriorSection:
        return self.config.prior

    def parameter_groups(self) -> list[dict[str, Any]]:
        trained = [p for p in self.prior.parameters() if p.requires_grad]
        return [{"params": trained, "lr": self.config.schedule.prior_learning_rate}]

    def clipped_parameters(self) -> list[list[torch.nn.Parameter]]:
        return [[p for p in self.parameters() if p.requires_grad]]

    def start(self, sampler: ClipSampler) -> None:
        """As the model's own prior: groups that are new add nothing."""
        self._restore(self.prior)

    def _restore(self, prior: LatentPrior) -> None:
        arrays, kind = self._frozen["weights"].arrays, ENTROPY_CODERS[self._frozen["spec"].coder].tables_kind
        gain = np.exp(arrays["quantizer.log_gain"][-1])
        restore_prior(prior, kind.from_tensors(arrays), MotionTables.from_tensors(arrays), gain)

    @torch.no_grad()
    def settled(self) -> LatentPrior:
        """The prior with a share of what the run began with."""
        prior = deepcopy(self.prior)
        self._restore(prior)
        for begun, own in zip(prior.parameters(), self.prior.parameters(), strict=True):
            begun.lerp_(own, 1 - self.section.kept)
        return prior

    def batch(self, sampler: ClipSampler, step: int, places: range, stage: Stage) -> Tensor:
        """Numbers of samples, (B,), which are made when they are first met."""
        seeds = (f"{self.config.seed}/{step}/{place}/prior" for place in places)
        numbers = [random.Random(seed).randrange(self.section.clips) for seed in seeds]
        for number in numbers:
            self.sample(number, sampler)
        return torch.tensor(numbers)

    def sample(self, number: int, sampler: ClipSampler) -> Coded:
        samples = self._frozen["samples"]
        if number not in samples:
            video = sampler.batch(FIRST_STEP + number, 1, self.section.frames, self.section.size)
            samples[number] = self.coded(video, LEVELS[number * LEVEL_STRIDE % len(LEVELS)])
        coded: Coded = samples[number]
        return coded

    @torch.inference_mode()
    def coded(self, video: Tensor, level: int) -> Coded:
        """Of a clip (1, 3, 1 + 4n, H, W) in [-1, 1]."""
        spec, weights = self._frozen["spec"], self._frozen["weights"]
        coder = coder_at(spec, weights, level)
        rgb = network_to_pixels(video, 8)
        batch = FrameBatch(rgb, np.arange(len(rgb)))
        symbols, scaled, vectors, aligned = [], [], [], []
        first_latent = 0
        for chunk in self._frozen["engine"].encode_stream([batch], worthless=worthless(level)):
            latents = coder.quantizer.scale(chunk.latents)
            which = which_aligned(chunk.fields)
            plan = coder.coded(first_latent, latents, which, None).plan
            symbols.append(plan.symbols)
            scaled.append(latents)
            vectors += coder.coder.vectors(plan.symbols.shape)
            aligned.append(which)
            first_latent += len(latents)
        device = self.log_gain.device
        cells, wanted = (
            torch.from_numpy(np.concatenate(each)).transpose(0, 1).to(device) for each in (symbols, scaled)
        )
        which = torch.from_numpy(np.concatenate(aligned)).to(device)
        moved = torch.from_numpy(np.stack(vectors[1:])).to(device, torch.int64)[None]
        levels = self.levels_at([level])
        decoded = cells[None].float() / 2**FRACTION
        expected = self.prior.expected(decoded, moved, which[None, 1:], levels)[0]
        moves = torch.zeros_like(cells[:1], dtype=torch.bool)
        moves[:, 1:] = ~resting(moved, *cells.shape[2:])[0]
        return Coded(cells.short(), wanted.half(), expected.half(), moves, which, level)

    def levels_at(self, levels: list[int]) -> Levels:
        places = [(level - FIRST_LEVEL) / (LAST_LEVEL - FIRST_LEVEL) for level in levels]
        return Levels.at(torch.tensor(places, device=self.log_gain.device), self.log_gain, self.log_step)

    def bits(self, samples: list[Coded], uniform: Tensor | None = None) -> Tensor:
        """Of each latent frame of samples, (B, t), at each position.

        What rests is coded as the encoder chose it. What moves is counted from the mean, so its symbols
        follow that: with numbers in [0, 1), one for each latent, the bits are the mean of those of such
        symbols, which say how sure the prior may be, and of latents with noise, which say where means should
        lie.
        """
        each = ((s.decoded, s.scaled.float(), s.expected.float(), s.moves) for s in samples)
        decoded, scaled, expected, moves = (torch.stack(parts) for parts in zip(*each, strict=True))
        with autocast_for(decoded.device):
            estimate = self.prior.given(decoded, expected, self.levels_at([s.level for s in samples]))
        mean, log_scale = (part.float() for part in estimate)
        bits = logistic_bits(
            torch.where(moves, quantized(scaled, mean, log_scale, moves), decoded), mean, log_scale
        )
        if uniform is not None:
            noisy = logistic_bits(add_noise(scaled, uniform), mean, log_scale)
            bits = torch.where(moves, (bits + noisy) / 2, bits)
        return bits.sum(1).mean((2, 3))

    def loss(self, video: Tensor, noise: SampleNoise, step: int) -> tuple[Tensor, Figures]:
        """The mean of the logarithm of the bits of samples, `video` holding their numbers."""
        samples = [self._frozen["samples"][number] for number in video.tolist()]
        bits = self.bits(samples, noise.uniform(*samples[0].scaled.shape))
        first = self.section.first_weight * bits[:, 0].log().mean()
        figures = {"bits_per_pixel": bits.mean().item() / PIXELS, "first_bits": bits[:, 0].mean().item()}
        return bits.mean(1).log().mean() + first, figures

    @torch.no_grad()
    def figures(self, video: Tensor) -> dict[str, Figures]:
        """The estimate of bits per pixel at a few levels, without what lies beside the symbols."""
        found = {}
        for level in EVALUATION_LEVELS:
            bits = self.bits([self.coded(video, level)])
            found[str(level / 10)] = {"bits_per_pixel": round(bits.mean().item() / PIXELS, 5)}
        return found

    def tables(self, sampler: ClipSampler, clips: int) -> PriorTables:
        """The integers, whose frequencies are counted in what an encoder with them writes of some samples."""
        samples = [self.sample(number, sampler) for number in range(min(clips, self.section.clips))]
        prior = self.settled()
        rounder = Rounder(prior)
        with torch.inference_mode(), rounder.noting():
            for sample in samples[:MEASURED]:
                both = sample.decoded[None], sample.expected[None].float()
                prior.given(*both, self.levels_at([sample.level]))
        tables = rounder.tables()
        for part in (samples[::3], samples):  # what is chosen depends on what the bits are taken to be
            counts = sum(self.counted(tables, sample) for sample in part)
            tables = replace(tables, frequencies=frequencies_of(np.asarray(counts)))
        return tables

    def counted(self, tables: PriorTables, sample: Coded) -> np.ndarray:
        """How often each value of each table (tables, 256) is chosen."""
        spec, weights = self._frozen["spec"], self._frozen["weights"]
        arrays = tables.to_tensors()
        spec = replace(spec, coder=coder_of_prior(arrays) or spec.coder)
        coder = coder_at(spec, weights, sample.level, weights.arrays | arrays)
        scaled = sample.scaled.float().transpose(0, 1).cpu().numpy()
        aligned = sample.aligned.cpu().numpy()
        plans: list[Plan] = []
        for first in range(0, len(scaled), spec.chunk_latents):
            part = slice(first, first + spec.chunk_latents)
            plans.append(coder.coded(first, scaled[part], aligned[part], None).plan)
        return count_values(plans, len(tables.frequencies))
