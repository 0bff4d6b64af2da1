"""The last stage of a run: the prior alone, on what the coder makes of the finished network's latents.

Training shapes prior and network together and feels rounding as noise; here the prior meets what it codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cvvae_cli.models.compact import Compact
from cvvae_cli.train.aligned import onto_references
from cvvae_cli.train.config import SharpenSection
from cvvae_cli.train.data import ClipSampler
from cvvae_cli.train.losses import add_noise, mean_after_first
from cvvae_cli.train.prior import LatentPrior, Levels, logistic_bits

ROUNDS = 2
FIRST_STEP = 20_000_000  # samples that no training step has seen, from the same clips


def sharpen(
    prior: LatentPrior,
    network: Compact,
    log_gain: Tensor,
    log_step: Tensor,
    sampler: ClipSampler,
    section: SharpenSection,
) -> None:
    """Train `prior` in place on latents of `network` at random levels; rates of all levels weigh alike.

    The rate is the mean of two: of latents with noise, which says where means should lie, and of what will be
    coded, which says how sure the prior may be.
    """
    samples = [encode_sample(prior, network, sampler, number, section) for number in range(section.clips)]
    optimizer = torch.optim.AdamW(prior.groups(section.learning_rate), betas=(0.9, 0.98))
    first_rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(section.steps):
        for group, rate in zip(optimizer.param_groups, first_rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / section.steps))
        torch.manual_seed(step)
        picked = [samples[i] for i in torch.randint(len(samples), (section.batch,)).tolist()]
        latents, vectors, aligned = (torch.cat(parts) for parts in zip(*picked, strict=True))
        vectors = vectors.long()
        levels = Levels.at(torch.rand(section.batch), log_gain, log_step)
        scaled = latents.float() * levels.gain
        # a little noise before rounding: the same clips give ever new symbols
        scaled = scaled + section.jitter * (torch.rand_like(scaled) - 0.5)
        known = prior.decoded(scaled, vectors, aligned, levels, ROUNDS)
        mean, log_scale = prior(known, vectors, aligned, levels)
        noisy = add_noise(scaled, torch.rand_like(scaled))
        chosen = prior.quantized(scaled, mean, log_scale, vectors)
        rates = [logistic_bits(values, mean, log_scale) for values in (noisy, chosen)]
        bits = torch.stack(rates).mean(0).sum(1).mean((2, 3))  # (B, t) of a position
        weighted = (bits[:, 0] + (section.period - 1) * mean_after_first(bits)) / section.period
        loss = (weighted / weighted.detach()).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@torch.inference_mode()
def encode_sample(
    prior: LatentPrior, network: Compact, sampler: ClipSampler, number: int, section: SharpenSection
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of a clip, how they move, and of which of them the frames were aligned."""
    video, _, aligned = onto_references(sampler.batch(FIRST_STEP + number, 1, section.frames, section.size))
    latents = network.encode(video)
    return latents.half(), prior.motion.vectors(latents).to(torch.int8), aligned
