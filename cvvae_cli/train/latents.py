"""What `task = "latents"` trains: a video autoencoder whose latents an image autoencoder understands.

The paper's objective. Besides reconstructing the clip, the frozen image decoder must turn every latent
frame into one of the frames it stands for (decoder side), or the video decoder must turn the image
encoder's latents of such frames into the clip (encoder side).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cvvae_cli.errors import ConfigError
from cvvae_cli.models.alignment import as_clips, as_pictures, matching_frames
from cvvae_cli.models.autoencoder import VideoAutoencoder, WindowedAutoencoder
from cvvae_cli.models.compact import Compact, CompactConfig
from cvvae_cli.models.image_vae import ImageVae, load_image_vae
from cvvae_cli.models.imported import ARCHITECTURES
from cvvae_cli.train.coder import start_compact
from cvvae_cli.train.config import LatentsSection, TrainConfig
from cvvae_cli.train.critic import PatchCritic, adaptive_weight, hinge
from cvvae_cli.train.data import ClipSampler, SampleNoise, psnr_of_mse
from cvvae_cli.train.trainee import Figures, Trainee, autocast_for

FIRST_LOG_SCALE = {"l1": -3.0, "l2": -5.0, "moments": 1.0, "latent": 0.0}  # near where it comes to rest
LEAST_VARIANCE, LARGEST_VARIANCE = -30.0, 20.0  # logarithms of a posterior's variance
SMALLEST_SHARE = 1e-4  # of the largest variance, at which smaller ones are held when latents are turned
LEAST_SQUARE = 1e-5  # mean square error below which a sample counts no more: 56 dB
FIRST_STEP = -1000  # samples of the fit, which no training step sees


class LatentTrainee(Trainee):
    """The autoencoder, the log-variances that weigh the terms, a posterior where it has none, the critic."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        section = config.latents
        if section.trains == "decoder" and (section.regularize != "none" or config.architecture != "compact"):
            raise ConfigError(
                'trains = "decoder" is for compact, whose encoder then rests',
                hint='with regularize = "none"',
            )
        self.autoencoder = build_autoencoder(config)
        first = {t: FIRST_LOG_SCALE.get(t, FIRST_LOG_SCALE.get(section.distortion)) for t in self.weights}
        scales = {t: nn.Parameter(torch.tensor(v)) for t, v in first.items() if v is not None}
        self.log_scale = nn.ParameterDict(scales)
        if isinstance(self.autoencoder, Compact):
            channels = config.model.latent_channels
            if section.trains == "decoder":
                self.autoencoder.encoder.requires_grad_(False)
                self.autoencoder.linear_encode.requires_grad_(False)
            self.log_variance = nn.Parameter(torch.full((channels,), section.first_log_variance))
        self.critic = PatchCritic() if section.critic_weight else None
        self._judged: tuple[Tensor, Tensor] | None = None
        if set(self.weights) != {"reconstruction"} or section.inflate:
            if section.image_vae is None:
                raise ConfigError("this recipe needs an image VAE", hint="pass --image-vae PATH")
            self._frozen["image_vae"] = load_image_vae(section.image_vae).to(device)
        if section.lpips_weight:
            from cvvae_cli.metrics.lpips import load_network, trunk_file

            self._frozen["lpips"] = load_network("vgg", trunk_file("vgg", None)).to(device)

    @property
    def section(self) -> LatentsSection:
        return self.config.latents

    @property
    def weights(self) -> dict[str, float]:
        """The terms of the loss, and how much each counts."""
        section = self.section
        weights = {
            "reconstruction": 1.0,
            "decoder_side": section.alignment_weight * (section.regularize in ("decoder", "both")),
            "encoder_side": section.alignment_weight * (section.regularize in ("encoder", "both")),
            "moments": section.moments_weight,
            "latent": section.latent_weight,
        }
        return {term: weight for term, weight in weights.items() if weight}

    @property
    def image_vae(self) -> ImageVae:
        image_vae = self._frozen["image_vae"]
        assert isinstance(image_vae, ImageVae)
        return image_vae

    def parameter_groups(self) -> list[dict[str, Any]]:
        schedule = self.config.schedule
        named = dict(self.autoencoder.named_parameters())
        linear = [p for n, p in named.items() if n.startswith("linear")]
        network = [p for n, p in named.items() if not n.startswith("linear")]
        scales = [*self.log_scale.values(), *([self.log_variance] if hasattr(self, "log_variance") else [])]
        groups = [
            {"params": network, "lr": schedule.learning_rate},
            {"params": scales, "lr": schedule.scale_learning_rate, "weight_decay": 0.0},
        ]
        if linear:
            groups.append({"params": linear, "lr": schedule.linear_learning_rate})
        if self.critic is not None:
            rate = schedule.discriminator_learning_rate
            groups.append({"params": list(self.critic.parameters()), "lr": rate})
        return groups

    def clipped_parameters(self) -> list[list[nn.Parameter]]:
        critic = [] if self.critic is None else list(self.critic.parameters())
        judged = {id(p) for p in critic}
        return [[p for p in self.parameters() if id(p) not in judged], *([critic] if critic else [])]

    @torch.no_grad()
    def start(self, sampler: ClipSampler) -> None:
        """Another model's weights, principal components, or the image VAE's own weights, inflated."""
        network = self.autoencoder
        if self.section.inflate:
            from cvvae_cli.models.inflate import inflate

            network.load_state_dict(inflate(self.image_vae, network))
        elif isinstance(network, Compact):
            start_compact(network, self.config, sampler)
            if self.section.regularize != "none" and self.section.fit_clips:
                turn_towards(network, self.image_vae, sampler, self.section.fit_clips, self.section.fit_size)

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, float32."""
        if isinstance(self.autoencoder, WindowedAutoencoder):
            mean, log_variance = self.autoencoder.encode_moments(video).chunk(2, dim=1)
        else:
            mean = self.autoencoder.encode(video)
            log_variance = self.log_variance[:, None, None, None].expand_as(mean)
        return mean.float(), log_variance.float().clamp(LEAST_VARIANCE, LARGEST_VARIANCE)

    def loss(self, video: Tensor, noise: SampleNoise, step: int) -> tuple[Tensor, Figures]:
        section, errors = self.section, {}
        with autocast_for(video.device):
            mean, log_variance = self.posterior(video)
            latents = mean
            if section.samples_latents:
                latents = mean + (0.5 * log_variance).exp() * noise.normal(*mean.shape[1:])
            decoded = self.autoencoder.decode(latents).float()
            errors["reconstruction"] = self.distance(decoded, video)
            if section.lpips_weight:
                lpips = self._frozen["lpips"](as_pictures(decoded), as_pictures(video)).mean()
                errors["reconstruction"] = errors["reconstruction"] + section.lpips_weight * lpips
            groups = mean.shape[2]
            count = min(section.alignment_frames or groups, groups)
            chosen = noise.choices(count, groups) if count < groups else None
            frames = matching_frames(video, section.mapping, noise.integers(4, groups - 1))
            if "decoder_side" in self.weights:
                seen = self.image_vae.decode(as_pictures(picked(latents, chosen))).float()
                errors["decoder_side"] = self.distance(seen, as_pictures(picked(frames, chosen)))
            if {"encoder_side", "moments", "latent"} & set(self.weights):
                with torch.no_grad():
                    wanted = frames if "encoder_side" in self.weights else picked(frames, chosen)
                    theirs = as_clips(self.image_vae.encode(as_pictures(wanted)), len(video)).float()
            if "encoder_side" in self.weights:
                errors["encoder_side"] = self.distance(self.autoencoder.decode(theirs).float(), video)
                theirs = picked(theirs, chosen)
            ours = picked(mean, chosen)
            if "moments" in self.weights:
                errors["moments"] = moments_distance(ours, theirs)
            if "latent" in self.weights:
                errors["latent"] = (ours - theirs).square().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        total = section.kl_weight * divergence
        for term, weight in self.weights.items():
            error = errors[term]
            if term in self.log_scale:
                scale = self.log_scale[term]
                error = error * (-scale).exp() + scale
            total = total + weight * error
        figures = {term: error.item() for term, error in errors.items()}
        figures["kl"] = divergence.item()
        figures["mse"] = (video - decoded.detach()).square().mean().item() / 4
        if self.critic is not None and step >= section.critic_from:
            adversarial = self.against_critic(video, decoded)
            total = total + section.critic_weight * adversarial * adaptive_weight(
                total, adversarial, last_layer(self.autoencoder)
            )
            figures["adversarial"] = adversarial.item()
        return total, figures

    def distance(self, decoded: Tensor, target: Tensor) -> Tensor:
        difference = decoded - target
        match self.section.distortion:
            case "l1":
                return difference.abs().mean()
            case "l2":
                return difference.square().mean()
            case "log_l2":
                return log_square(difference)

    def against_critic(self, video: Tensor, decoded: Tensor) -> Tensor:
        """The critic's verdict on the decoded clip as a loss; the critic learns from the clip later."""
        assert self.critic is not None
        self._judged = video, decoded.detach()
        self.critic.requires_grad_(False)
        verdict = -self.critic(decoded).mean()
        self.critic.requires_grad_(True)
        return verdict

    def critic_loss(self) -> Tensor | None:
        if self.critic is None or self._judged is None:
            return None
        (video, decoded), self._judged = self._judged, None
        return hinge(self.critic(video), self.critic(decoded))

    def figures(self, video: Tensor) -> dict[str, Figures]:
        """PSNR of the clip, and of what the image decoder makes of its latents (mapping: average)."""
        with autocast_for(video.device):
            latents = self.autoencoder.encode(video).float()
            decoded = self.autoencoder.decode(latents).float().clamp(-1, 1)
        result = {"psnr_db": round(psnr_of_mse((video - decoded).square().mean().item(), 2.0), 3)}
        if "image_vae" in self._frozen:
            frames = as_pictures(matching_frames(video, "average"))
            pairs = zip(as_pictures(latents), frames, strict=True)
            errors = [
                (self.image_vae.decode(z[None]).clamp(-1, 1) - x).square().mean().item() for z, x in pairs
            ]
            result["aligned_psnr_db"] = round(psnr_of_mse(sum(errors) / len(errors), 2.0), 3)
        return {"clip": result}


def log_square(difference: Tensor) -> Tensor:
    """The mean over samples of the logarithm of their mean square."""
    return difference.square().flatten(1).mean(1).add(LEAST_SQUARE).log().mean()


def build_autoencoder(config: TrainConfig) -> VideoAutoencoder:
    if config.architecture == "compact":
        return Compact(CompactConfig(**vars(config.model))).channels_last()
    if config.architecture not in ARCHITECTURES:
        known = ", ".join(["compact", *ARCHITECTURES])
        raise ConfigError(f"no architecture is called {config.architecture!r}", hint=f"use one of {known}")
    return ARCHITECTURES[config.architecture].build(config.network)


def last_layer(network: VideoAutoencoder) -> Tensor:
    """The weights that write the pixels."""
    decoder = network.get_submodule("decoder")
    name = "head" if isinstance(network, Compact) else "conv_out"
    weight = decoder.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def picked(frames: Tensor, chosen: Tensor | None) -> Tensor:
    """(B, C, t, h, w) → (B, C, k, h, w): the frames that `chosen` (B, k) names, or all."""
    if chosen is None:
        return frames
    index = chosen[:, None, :, None, None].expand(-1, frames.shape[1], -1, *frames.shape[3:])
    return frames.gather(2, index)


def moments_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """How far mean and covariance of the latents (B, C, t, h, w) of each sample are from those of others."""
    (mean, covariance), (their_mean, their_covariance) = moments_of(ours), moments_of(theirs)
    return (mean - their_mean).square().sum(1).mean() + (
        (covariance - their_covariance).square().sum((1, 2)).mean() / ours.shape[1]
    )


def moments_of(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, C) and covariance (B, C, C) over all positions."""
    rows = latents.flatten(2)
    mean = rows.mean(2)
    centered = rows - mean[:, :, None]
    return mean, centered @ centered.transpose(1, 2) / rows.shape[2]


@torch.no_grad()
def turn_towards(network: Compact, image_vae: ImageVae, sampler: ClipSampler, clips: int, size: int) -> None:
    """Map the latents of `network` linearly: to mean and covariance of the image VAE's, matching them best.

    Whitened, turned by the orthogonal matrix of the largest correlation (Procrustes), coloured. Nothing is
    lost, as it would be by least squares, so the decoder undoes the map and reconstructs what it did before.
    """
    ours, theirs = [], []
    for number in range(clips):
        video = sampler.batch(FIRST_STEP - number, 1, 9, size).to(network.linear_encode.weight.device)
        ours.append(positions(as_pictures(network.encode(video))))
        theirs.append(positions(image_vae.encode(as_pictures(matching_frames(video, "average")))))
    x, y = torch.cat(ours).double(), torch.cat(theirs).double()
    center, target = x.mean(0), y.mean(0)
    x, y = x - center, y - target
    whiten, color = symmetric_power(x.T @ x / len(x), -0.5), symmetric_power(y.T @ y / len(y), 0.5)
    unit = symmetric_power(y.T @ y / len(y), -0.5)
    left, _, right = torch.linalg.svd(unit @ (y.T @ x) @ whiten)
    matrix = color @ left @ right @ whiten
    network.turn_latents(matrix, target - matrix @ center)


def symmetric_power(matrix: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=SMALLEST_SHARE * values.max()) ** power) @ vectors.T


def positions(latents: Tensor) -> Tensor:
    """(N, C, h, w) → (N*h*w, C)."""
    return latents.permute(0, 2, 3, 1).flatten(0, 2)
