"""Image autoencoders, frozen: the TAESD family (madebyollin/taesd, MIT), for previews and compatibility.

Frames (N, 3, H, W) in [-1, 1] ⇄ latents (N, C, H/8, W/8) as the diffusion model sees them. Written from the
description of the architecture; parameter names are those of the released files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cvvae_cli.errors import WeightsError

WIDTH = 64
POOL_WIDTH, POOL_GROUPS = 256, 4
STAGES = 3  # of halving


class ImageVae(nn.Module, ABC):
    """A frozen image autoencoder."""

    latent_channels: int

    @abstractmethod
    def encode(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] → (N, C, H/8, W/8), the mean where there is a distribution."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) → (N, 3, 8h, 8w) in [-1, 1], not clamped."""


class TinyBlock(nn.Module):
    """Residual block of three convolutions; FLUX.2's files add a branch that normalises over the picture."""

    def __init__(self, *, has_pool: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(3):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1)] + ([nn.ReLU()] if number < 2 else [])
        self.conv = nn.Sequential(*layers)
        self.pool = None
        if has_pool:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, POOL_WIDTH, 1, bias=False),
                nn.GroupNorm(POOL_GROUPS, POOL_WIDTH),
                nn.ReLU(),
                nn.Conv2d(POOL_WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    """Keeps latents within ±3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def tiny_encoder(channels: int, *, has_pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), TinyBlock(has_pool=False)]
    for stage in range(STAGES):
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False))
        is_last = stage == STAGES - 1
        layers += [TinyBlock(has_pool=has_pool and is_last) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, channels, 3, padding=1))


def tiny_decoder(channels: int, *, has_pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [SoftClamp(), nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU()]
    for stage in range(STAGES):
        layers += [TinyBlock(has_pool=has_pool and stage == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, TinyBlock(has_pool=False), nn.Conv2d(WIDTH, 3, 3, padding=1))


class TinyImageDecoder(nn.Module):
    """The decoder alone."""

    def __init__(self, channels: int, has_pool: bool) -> None:
        super().__init__()
        self.latent_channels = channels
        self.decoder = tiny_decoder(channels, has_pool=has_pool)

    def decode(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) → (N, 3, 8h, 8w) in [-1, 1], not clamped."""
        frames: Tensor = self.decoder(latents)
        return frames.mul(2).sub(1)


class TinyImageVae(TinyImageDecoder, ImageVae):
    """One of the TAESD family, of any latent width: taesd (4), taesd3 and taef1 (16), taef2 (32)."""

    def __init__(self, channels: int, has_pool: bool) -> None:
        super().__init__(channels, has_pool)
        self.encoder = tiny_encoder(channels, has_pool=has_pool)

    def encode(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] → (N, C, H/8, W/8)."""
        latents: Tensor = self.encoder(frames.add(1).div(2))
        return latents


def tiny_image_vae(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> TinyImageVae:
    """The frozen pair of two files. Raises WeightsError if they are not of the family."""
    network = TinyImageVae(*kind_of(decoder))
    load_part(network.encoder, encoder)
    load_part(network.decoder, decoder)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def tiny_image_decoder(decoder: Mapping[str, Tensor]) -> TinyImageDecoder:
    """The frozen decoder of a file. Raises WeightsError if it is not of the family."""
    network = TinyImageDecoder(*kind_of(decoder))
    load_part(network.decoder, decoder)
    return network.eval().requires_grad_(False)


def kind_of(decoder: Mapping[str, Tensor]) -> tuple[int, bool]:
    """Latent channels of a decoder, and whether its first blocks have the branch of FLUX.2."""
    first = decoder.get("1.weight")
    if first is None or first.ndim != 4:
        raise WeightsError("this is no decoder of the TAESD family")
    return first.shape[1], any(".pool." in name for name in decoder)


def load_part(part: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        part.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"the weights do not fit the TAESD family: {reason}") from None


def load_image_vae(where: str | Path) -> ImageVae:
    """A frozen image VAE: a folder or one file of it, .safetensors, .pth or .bin (never pickled objects).

    The TAESD family is a pair of files with "encoder" and "decoder" in their names; diffusers' AutoencoderKL
    is one file, in a folder that may be called `vae`. Raises WeightsError.
    """
    from cvvae_cli.checkpoint import read_checkpoint

    path = Path(where)
    if not path.exists():
        raise WeightsError(f"there is no image VAE at {path}", hint="pass its folder or file")
    folder = path if path.is_dir() else path.parent
    pair = [one_file(folder, f"*{part}*") for part in ("encoder", "decoder")]
    if None not in pair and (path.is_dir() or path in pair):
        encoder, decoder = (read_checkpoint(file) for file in pair if file is not None)
        return tiny_image_vae(encoder, decoder)
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        found = one_file(folder, "diffusion_pytorch_model*") or one_file(folder, "*")
        if found is None:
            raise WeightsError(f"there are no weights of an image VAE in {path}")
        path = found
    from cvvae_cli.models.autoencoder_kl import autoencoder_kl

    return autoencoder_kl(read_checkpoint(path))


def one_file(folder: Path, pattern: str) -> Path | None:
    """The weights file of a name; safetensors first."""
    for suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt"):
        found = sorted(folder.glob(pattern + suffix))
        if found:
            return found[0]
    return None
