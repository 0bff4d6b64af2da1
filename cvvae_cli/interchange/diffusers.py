"""Any of our models as the `vae=` of a diffusers pipeline; the extra `cvvae[diffusers]`.

Pipelines think of a VAE as a map of single pictures. So four axes (N, C, H, W) are pictures, each a video of
one frame, and five (B, C, T, H, W) are videos, with one latent frame for the first frame and one for every
four after it. A video pipeline reshapes what it decodes to as many frames as it has latents: ask it for
`output_type="latent"`, and give those latents to `decode_video`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvvae_cli.errors import ConfigError
from cvvae_cli.models.registry import ModelSpec, Weights, find_model

try:
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput
except ImportError:
    raise ConfigError("diffusers is not installed", hint="pip install 'cvvae[diffusers]'") from None

CERTAIN = -30.0  # log-variance of latents without a distribution
LEVELS = 4  # of which three halve the picture: pipelines count them


class DiffusersVae(ModelMixin, ConfigMixin):
    """`DiffusersVae.of("cvvae-sd21")`: encode and decode as `AutoencoderKL` does, videos too."""

    @register_to_config
    def __init__(
        self,
        model: str = "compact",
        latent_channels: int = 32,
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        block_out_channels: tuple[int, ...] = (1,) * LEVELS,
        force_upcast: bool = False,
        in_channels: int = 3,
        out_channels: int = 3,
        sample_size: int = 256,
    ) -> None:
        super().__init__()
        self.spec: ModelSpec = find_model(model)
        self.network = Weights(self.spec).build()
        self.use_tiling = self.spec.windows is not None

    @classmethod
    def of(cls, model: str = "compact", dtype: torch.dtype = torch.float32) -> DiffusersVae:
        """The adapter of a model, with its scaling. Raises UnknownModelError or WeightsError."""
        spec = find_model(model)
        made: DiffusersVae = cls(
            model=model,
            latent_channels=spec.geometry.channels,
            scaling_factor=spec.scaling_factor,
            shift_factor=spec.shift_factor or None,
        )
        return made if dtype == torch.float32 else made.to(dtype)

    def enable_tiling(self, use_tiling: bool = True) -> None:
        """Cut pictures of windowed models into tiles; streaming models need none."""
        self.use_tiling = use_tiling and self.spec.windows is not None

    def disable_tiling(self) -> None:
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """Samples of a batch are always taken one by one."""

    def disable_slicing(self) -> None:
        pass

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """(N, 3, H, W) or (B, 3, 1 + 4n, H, W) in [-1, 1] → latents, as a distribution, without scaling."""
        videos = x[:, :, None] if x.ndim == 4 else x
        moments = torch.cat([self._moments(video[None]) for video in videos]).to(x.dtype)
        distribution = DiagonalGaussianDistribution(moments[:, :, 0] if x.ndim == 4 else moments)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def decode(
        self, z: Tensor, num_frames: int | None = None, return_dict: bool = True, generator: Any = None
    ) -> Any:
        """(N, C, h, w) → as many pictures; (B, C, 1 + n, h, w) → videos of 1 + 4n frames.

        `num_frames`, which video pipelines pass with pictures of a clip, changes nothing.
        """
        latents = z[:, :, None] if z.ndim == 4 else z
        videos = torch.cat([self._video(one[None]) for one in latents]).to(z.dtype)
        sample = videos[:, :, 0] if z.ndim == 4 else videos
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def decode_video(self, latents: Tensor) -> Tensor:
        """What a video pipeline gives for `output_type="latent"`, (B, 1 + n, C, h, w), scaled →
        (B, 3, 1 + 4n, 8h, 8w) in [-1, 1]."""
        z = latents.transpose(1, 2) / self.spec.scaling_factor + self.spec.shift_factor
        video: Tensor = self.decode(z).sample
        return video

    def forward(
        self, sample: Tensor, sample_posterior: bool = False, num_frames: int | None = None
    ) -> DecoderOutput:
        """There and back. (Pipelines look for `num_frames` here.)"""
        posterior = self.encode(sample).latent_dist
        return self.decode(posterior.sample() if sample_posterior else posterior.mode())

    def _moments(self, video: Tensor) -> Tensor:
        network: Any = self.network
        if self.spec.windows is None:
            mean = network.encode(video)
            return torch.cat([mean, torch.full_like(mean, CERTAIN)], dim=1)
        if not self.use_tiling:
            moments: Tensor = network.encode_moments(video)
            return moments
        from cvvae_cli.engine.windows import encode_tensor

        return encode_tensor(network.encode_moments, video, self.spec.windows, self.spec.geometry)

    def _video(self, latents: Tensor) -> Tensor:
        network: Any = self.network
        if self.spec.windows is None or not self.use_tiling:
            video: Tensor = network.decode(latents)
            return video
        from cvvae_cli.engine.windows import decode_tensor

        return decode_tensor(network.decode, latents, self.spec.windows, self.spec.geometry)
