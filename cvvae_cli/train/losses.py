"""The objective: distortion of rounded latents, and the bits that the prior estimates for them."""

from __future__ import annotations

from torch import Tensor

from cvvae_cli.train.config import ObjectiveSection

LEAST_LOSS = 0.01  # about that of a still clip: what is below it, black pictures say, has nothing to teach


def add_noise(latents: Tensor, uniform: Tensor) -> Tensor:
    """What rounding does to the rate, made differentiable: noise of one step, from numbers in [0, 1)."""
    return latents + uniform - 0.5


def through(latents: Tensor, values: Tensor) -> Tensor:
    """`values`, what became of latents, with the gradient of the identity."""
    return latents + (values - latents).detach()


def lambda_of(level: Tensor, objective: ObjectiveSection) -> Tensor:
    """The weight of the distortion at levels in [0, 1]."""
    low, high = objective.lowest_lambda, objective.highest_lambda
    return low * (high / low) ** level


def rate_distortion(
    video: Tensor, decoded: Tensor, bits: Tensor, objective: ObjectiveSection
) -> tuple[Tensor, Tensor]:
    """Bits per pixel, and MSE of pixels in [0, 1], of clips of `objective.clip_frames` frames: (B,) each.

    Training clips are short, so their first frame is weighted down to the share it has in real ones.
    video and decoded are (B, 3, T, H, W) in [-1, 1]; bits are (B, C, t, h, w).
    """
    frames = objective.clip_frames
    per_latent = bits.sum((1, 3, 4)) / (video.shape[3] * video.shape[4])  # (B, t): bits per pixel of a frame
    error = (video - decoded.float()).square().mean((1, 3, 4)) / 4  # (B, T)
    rate = (per_latent[:, 0] + (frames - 1) / 4 * mean_after_first(per_latent)) / frames
    return rate, (error[:, 0] + (frames - 1) * mean_after_first(error)) / frames


def mean_of_samples(rate: Tensor, mse: Tensor, level: Tensor, objective: ObjectiveSection) -> Tensor:
    """The loss: of samples (B,) at levels (B,) in [0, 1]; see ObjectiveSection."""
    weight = lambda_of(level, objective)
    losses = (weight * 255**2 * mse + rate) * (objective.highest_lambda / weight).sqrt()
    if objective.samples == "log":
        losses = losses.add(LEAST_LOSS).log()
    return losses.mean()


def mean_after_first(values: Tensor) -> Tensor:
    """(B, n) → (B,): the mean of all but the first, or the first if it is alone."""
    return values[:, 1:].mean(1) if values.shape[1] > 1 else values[:, 0]
