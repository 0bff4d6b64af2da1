"""The image VAE of Stable Diffusion, as diffusers lays it out (`AutoencoderKL`; SD 1.5, 2.1, 3): frozen.

Pictures (N, 3, H, W) in [-1, 1] ⇄ latents (N, C, H/8, W/8), not scaled. Widths and depths are read off the
tensors. Source: Rombach et al. 2022; parameter names are those of the released files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvvae_cli.errors import WeightsError
from cvvae_cli.models.image_vae import ImageVae

GROUPS, EPS = 32, 1e-6
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, EPS)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Every position sees the whole picture, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.group_norm = norm(channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.group_norm(x).reshape(n, 1, c, h * w).transpose(2, 3)  # one head
        y = functional.scaled_dot_product_attention(self.to_q(y), self.to_k(y), self.to_v(y))
        return x + self.to_out[0](y).transpose(2, 3).reshape(n, c, h, w)


class Downsampler(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsampler(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0))


class Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Block(a, b) for a, b in pairwise([inputs, *[outputs] * blocks]))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        for change in (*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())):
            x = change(x)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Block(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    def __init__(self, widths: list[int], blocks: int, latent_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, (inputs, outputs) in enumerate(pairwise([widths[0], *widths])):
            stage = Stage(inputs, outputs, blocks)
            if level < len(widths) - 1:
                stage.downsamplers = nn.ModuleList([Downsampler(outputs)])
            self.down_blocks.append(stage)
        self.mid_block = Middle(widths[-1])
        self.conv_norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(functional.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, widths: list[int], blocks: int, latent_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, widths[-1], 3, padding=1)
        self.mid_block = Middle(widths[-1])
        self.up_blocks = nn.ModuleList()
        for level, (inputs, outputs) in enumerate(pairwise([widths[-1], *reversed(widths)])):
            stage = Stage(inputs, outputs, blocks + 1)
            if level < len(widths) - 1:
                stage.upsamplers = nn.ModuleList([Upsampler(outputs)])
            self.up_blocks.append(stage)
        self.conv_norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for stage in self.up_blocks:
            x = stage(x)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


class AutoencoderKL(ImageVae):
    """`quant_conv` and `post_quant_conv` are there where the file has them (not in SD 3)."""

    def __init__(self, widths: list[int], blocks: int, latent_channels: int, *, has_quant: bool) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.encoder = Encoder(widths, blocks, latent_channels)
        self.decoder = Decoder(widths, blocks, latent_channels)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1) if has_quant else None
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1) if has_quant else None

    def encode(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] → the mean of the latents, (N, C, H/8, W/8)."""
        moments: Tensor = self.encoder(frames)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return moments.chunk(2, dim=1)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) → (N, 3, 8h, 8w) in [-1, 1], not clamped."""
        frames: Tensor = self.decoder(
            latents if self.post_quant_conv is None else self.post_quant_conv(latents)
        )
        return frames


def autoencoder_kl(tensors: Mapping[str, Tensor]) -> AutoencoderKL:
    """The frozen VAE of a state dict in diffusers' layout, old or new. Raises WeightsError."""
    state = {newer_name(name): newer_shape(name, tensor).float() for name, tensor in tensors.items()}
    levels = [n for n in range(8) if f"encoder.down_blocks.{n}.resnets.0.conv1.weight" in state]
    if not levels or "decoder.conv_in.weight" not in state:
        raise WeightsError(
            "this is no image VAE that is known here",
            hint="pass a pair of the TAESD family, or an AutoencoderKL in diffusers' layout",
        )
    widths = [state[f"encoder.down_blocks.{n}.resnets.0.conv1.weight"].shape[0] for n in levels]
    blocks = len(
        {n for n in state if re.fullmatch(r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.weight", n)}
    )
    latent_channels = state["decoder.conv_in.weight"].shape[1]
    network = AutoencoderKL(widths, blocks, latent_channels, has_quant="quant_conv.weight" in state)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"the weights do not fit an AutoencoderKL: {reason}") from None
    return network.eval().requires_grad_(False)


def newer_name(name: str) -> str:
    """Names of attention as diffusers writes them since 0.15."""
    match = re.fullmatch(r"(.*\.attentions\.0)\.(query|key|value|proj_attn)\.(\w+)", name)
    return f"{match[1]}.{OLD_NAMES[match[2]]}.{match[3]}" if match else name


def newer_shape(name: str, tensor: Tensor) -> Tensor:
    """Projections that were stored as 1x1 convolutions, as matrices."""
    is_projection = ".attentions." in name and tensor.ndim == 4
    return torch.flatten(tensor, 1) if is_projection else tensor
