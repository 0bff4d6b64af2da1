"""What `task = "codec"` trains: `compact` with a prior of its symbols, for rate and distortion together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cvvae_cli.bitstream.motion import MotionTables
from cvvae_cli.bitstream.prior import PriorTables
from cvvae_cli.errors import ConfigError
from cvvae_cli.models.compact import COARSE, TIME, Compact, CompactConfig
from cvvae_cli.models.layers import fold
from cvvae_cli.models.registry import Weights, find_model_or_file
from cvvae_cli.train.aligned import as_they_were, onto_references
from cvvae_cli.train.config import TrainConfig
from cvvae_cli.train.data import ClipSampler, SampleNoise, principal_components, psnr_of_mse
from cvvae_cli.train.losses import add_noise, mean_of_samples, rate_distortion, through
from cvvae_cli.train.prior import ANCHORS, LatentPrior, Levels, logistic_bits
from cvvae_cli.train.restore import restore_prior
from cvvae_cli.train.sharpen import sharpen
from cvvae_cli.train.trainee import Figures, Trainee, autocast_for

EVALUATION_LEVELS = (0.0, 0.5, 1.0)
PATCH_BATCHES = 60  # by which principal components are found


class Coder(Trainee):
    """The autoencoder, the prior of its symbols, gains and steps of the quality levels."""

    autoencoder: Compact

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        section, objective = config.model, config.objective
        self.autoencoder = Compact(CompactConfig(**vars(section))).channels_last()
        self.prior = LatentPrior(section.latent_channels)
        share = objective.lowest_lambda / objective.highest_lambda
        log_gain = 0.5 * math.log(share) * (1 - torch.linspace(0, 1, ANCHORS))  # noise falls as lambda grows
        self.log_gain = nn.Parameter(log_gain[:, None].repeat(1, section.latent_channels))
        self.log_step = nn.Parameter(-log_gain[:, None].repeat(1, section.latent_channels))
        with torch.no_grad():
            self.prior.scale_kind[0] = 0.7
            self.prior.scale_level.copy_(0.7 * self.log_gain)

    def parameter_groups(self) -> list[dict[str, Any]]:
        schedule = self.config.schedule
        linear = [p for n, p in self.autoencoder.named_parameters() if n.startswith("linear")]
        network = [p for n, p in self.autoencoder.named_parameters() if not n.startswith("linear")]
        levels = [self.log_gain, self.log_step]
        return [
            {"params": network, "lr": schedule.learning_rate},
            {"params": linear, "lr": schedule.linear_learning_rate},
            *self.prior.groups(schedule.prior_learning_rate),
            {"params": levels, "lr": schedule.level_learning_rate, "weight_decay": 0.0},
        ]

    def start(self, sampler: ClipSampler) -> None:
        start_compact(self.autoencoder, self.config, sampler)
        arrays = Weights(find_model_or_file(self.config.start)).arrays if self.config.start else {}
        if "prior.cuts" in arrays:
            raise ConfigError(
                f"the prior of {self.config.start} codes groups of channels, which this task does not train",
                hint='start with "compact-13", whose network is the same',
            )
        has_levels, has_prior = "quantizer.log_gain" in arrays, "motion.picture" in arrays
        if has_levels:
            for name, anchors in (("log_gain", self.log_gain), ("log_step", self.log_step)):
                anchors.data.copy_(torch.from_numpy(arrays[f"quantizer.{name}"]))
        if has_prior:
            tables, motion = PriorTables.from_tensors(arrays), MotionTables.from_tensors(arrays)
            restore_prior(self.prior, tables, motion, np.exp(arrays["quantizer.log_gain"][-1]))
            return
        self.prior.motion.start(self.autoencoder, sampler)
        if has_levels:  # the prior first learns what their symbols are
            gains = self.log_gain.detach(), self.log_step.detach()
            sharpen(self.prior, self.autoencoder, *gains, sampler, self.config.sharpen)

    def levels(self, place: Tensor) -> Levels:
        """Gains and steps at levels (B,) in [0, 1]."""
        return Levels.at(place, self.log_gain, self.log_step)

    def loss(self, video: Tensor, noise: SampleNoise, step: int) -> tuple[Tensor, Figures]:
        objective = self.config.objective
        levels = self.levels(noise.uniform())
        moved, fields, aligned = onto_references(video, noise.uniform() < objective.plain_share)
        with autocast_for(video.device):
            latents = self.autoencoder.encode(moved).float()
            scaled = latents * levels.gain
            vectors = self.prior.motion.vectors(latents)
            known = self.prior.decoded(scaled, vectors, aligned, levels)
            mean, log_scale = self.prior(through(scaled, known), vectors, aligned, levels)
            mean, log_scale = mean.float(), log_scale.float()
            values = self.prior.quantized(scaled, mean, log_scale, vectors)
            decoded = self.autoencoder.decode(through(scaled, values) * levels.step)
        decoded = as_they_were(decoded.float(), fields)
        noisy = add_noise(scaled, noise.uniform(*scaled.shape[1:]))
        bits = logistic_bits(noisy, mean, log_scale)
        rate, mse = rate_distortion(video, decoded, bits, objective)
        loss = mean_of_samples(rate, mse, levels.place, objective)
        return loss, {"mse": mse.mean().item(), "bits_per_pixel": rate.mean().item()}

    def figures(self, video: Tensor) -> dict[str, Figures]:
        """PSNR and the prior's estimate of bits per pixel at a few levels, with rounded latents.

        Without the bits of the fields by which frames were moved.
        """
        moved, *how = onto_references(video)
        with autocast_for(video.device):
            latents = self.autoencoder.encode(moved).float()
        return {
            str(level): self._figures_of_level(video, latents, *how, level) for level in EVALUATION_LEVELS
        }

    def _figures_of_level(
        self, video: Tensor, latents: Tensor, fields: np.ndarray, aligned: Tensor, level: float
    ) -> Figures:
        levels = self.levels(torch.tensor([level], device=video.device))
        scaled = latents * levels.gain
        with autocast_for(video.device):
            vectors = self.prior.motion.vectors(latents)
            known = self.prior.decoded(scaled, vectors, aligned, levels)
            mean, log_scale = (x.float() for x in self.prior(known, vectors, aligned, levels))
            values = self.prior.quantized(scaled, mean, log_scale, vectors)
            decoded = self.autoencoder.decode(values * levels.step).float()
        decoded = as_they_were(decoded, fields).clamp(-1, 1)
        bits = logistic_bits(values, mean, log_scale)
        pixels = video.shape[2] * video.shape[3] * video.shape[4]
        mse = (video - decoded).square().mean().item()
        return {
            "psnr_db": round(psnr_of_mse(mse, 2.0), 3),
            "bits_per_pixel": round(bits.sum().item() / pixels, 5),
            "first_bits_per_pixel": round(bits[:, :, 0].sum().item() / pixels, 5),
        }


@torch.no_grad()
def start_compact(network: Compact, config: TrainConfig, sampler: ClipSampler) -> None:
    """Start from another model's network, or from the principal components of training patches."""
    if config.start is not None:
        state = Weights(find_model_or_file(config.start)).build().state_dict()
        network.load_state_dict({n: t for n, t in state.items() if not n.startswith(("refiner.", "joiner."))})
        return
    mean, basis = principal_components(sampler, lambda x: fold(x, TIME, COARSE), PATCH_BATCHES)
    channels = config.model.latent_channels
    network.start_from_principal_components(mean, basis[:, :channels], config.objective.initial_step)
