"""`compact`: a small causal network beside a linear patch transform, made for exact streaming.

Frames in groups of four are folded to 1/4 resolution, a few 2D blocks, then half-3D blocks at 1/8; the
decoder is the mirror. Nothing normalises over time or space and nothing attends, so a group depends on
nothing but itself and what the causal convolutions remember. The linear path carries the picture from the
start (principal components); the network adds what a linear transform cannot.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

import torch
from torch import Tensor, nn

from cvvae_cli.models.autoencoder import StreamingAutoencoder
from cvvae_cli.models.layers import (
    CausalConv,
    ChannelLinear,
    HalfCausalBlock,
    Memory,
    SpatialBlock,
    SpatialConv,
    fold,
    unfold,
    zero_init,
)
from cvvae_cli.models.refiner import JOINER_SHAPE, SHAPE, Refiner

TIME = 4  # frames of a group
FINE = 4  # pixels folded at the fine level, 1/4 resolution
COARSE = 8  # pixels of a latent
FOLDED = TIME * 3 * FINE * FINE  # channels after folding: 192
PATCH = TIME * 3 * COARSE * COARSE  # numbers that become one latent position: 768


@dataclass(frozen=True)
class CompactConfig:
    """Widths and depths; stored beside the weights."""

    latent_channels: int = 32
    fine_channels: int = 96
    coarse_channels: int = 192
    encoder_blocks: tuple[int, int] = (2, 3)  # at 1/4, at 1/8
    decoder_blocks: tuple[int, int] = (3, 3)  # at 1/4, at 1/8
    time_taps: int = 3  # latent frames that a causal convolution sees
    refiner_width: int = 0  # 0: decoded pictures are not refined
    refiner_layers: int = 0
    refiner_inner_width: int = 0
    refiner_inner_layers: int = 0
    refiner_across: bool = False
    joiner_width: int = 0  # of a refined model; 0: frames where groups meet do not learn from each other
    joiner_layers: int = 0
    joiner_inner_width: int = 0
    joiner_inner_layers: int = 0

    @property
    def encode_context(self) -> int:
        """Latent frames before the present one that reach into its encoding."""
        return (self.time_taps - 1) * self.encoder_blocks[1]

    @property
    def decode_context(self) -> int:
        """Latent frames before the present one that reach into its decoding."""
        return (self.time_taps - 1) * self.decoder_blocks[1]

    @property
    def encode_halo(self) -> int:
        """Latent positions around a tile that reach into its encoding."""
        fine = 1 + 2 * self.encoder_blocks[0] + 1  # 3x3 convolutions at 1/4, the last with stride
        return -(-fine // 2) + 2 * self.encoder_blocks[1] + 1

    @property
    def decode_halo(self) -> int:
        """Latent positions around a tile that reach into its decoding."""
        fine = 2 * self.decoder_blocks[0] + 1
        return 1 + 2 * self.decoder_blocks[1] + 1 + -(-fine // 2)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def coarse_blocks(config: CompactConfig, count: int) -> list[HalfCausalBlock]:
    return [HalfCausalBlock(config.coarse_channels, config.time_taps) for _ in range(count)]


class Encoder(nn.Module):
    """Network part of encoding; its last layer starts at zero."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        fine, coarse = config.fine_channels, config.coarse_channels
        self.stem = SpatialConv(FOLDED, fine)
        self.fine = nn.ModuleList(SpatialBlock(fine) for _ in range(config.encoder_blocks[0]))
        self.down = SpatialConv(fine, coarse, stride=2)
        self.coarse = nn.ModuleList(coarse_blocks(config, config.encoder_blocks[1]))
        self.head = zero_init(SpatialConv(coarse, config.latent_channels))

    def forward(self, video: Tensor, memory: Memory | None) -> Tensor:  # (B, 3, 4t, 8h, 8w)
        x = self.stem(fold(video, TIME, FINE))  # (B, fine, t, 2h, 2w)
        for block in self.fine:
            x = block(x)
        x = self.down(x)  # (B, coarse, t, h, w)
        for block in self.coarse:
            x = block(x, memory)
        return self.head.of_swish(x)


class Decoder(nn.Module):
    """Network part of decoding; its last layer starts at zero."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        fine, coarse = config.fine_channels, config.coarse_channels
        self.stem = SpatialConv(config.latent_channels, coarse)
        self.coarse = nn.ModuleList(coarse_blocks(config, config.decoder_blocks[1]))
        self.up = SpatialConv(coarse, 4 * fine)
        self.fine = nn.ModuleList(SpatialBlock(fine) for _ in range(config.decoder_blocks[0]))
        self.head = zero_init(SpatialConv(fine, FOLDED))

    def forward(self, latents: Tensor, memory: Memory | None) -> Tensor:  # (B, C, t, h, w)
        x = self.stem(latents)
        for block in self.coarse:
            x = block(x, memory)
        x = unfold(self.up.of_swish(x), 1, 2)  # (B, fine, t, 2h, 2w)
        for block in self.fine:
            x = block(x)
        return unfold(self.head.of_swish(x), TIME, FINE)  # (B, 3, 4t, 8h, 8w)

    def prime(self, latents: Tensor, memory: Memory, to_go: int) -> Tensor:
        """Compute what the blocks must remember to go on `to_go` latent frames after the first of these.

        A block's output matters from `reach` latent frames before the wanted one for each block after it.
        """
        x = self.stem(latents)
        for after, block in zip(reversed(range(len(self.coarse))), self.coarse, strict=True):
            assert isinstance(block, HalfCausalBlock)
            if to_go - latents.shape[2] >= block.conv1.reach * after:
                block.prime(x, memory)
                break
            x = block(x, memory)
        return x


class Compact(StreamingAutoencoder):
    """The default model. Latents are scaled so that the quantiser's step is 1."""

    time_stride = TIME
    dtype = torch.float32  # of the network's convolutions

    def __init__(self, config: CompactConfig | None = None) -> None:
        super().__init__()
        self.config = config or CompactConfig()
        self.linear_encode = ChannelLinear(PATCH, self.config.latent_channels)
        self.linear_decode = ChannelLinear(self.config.latent_channels, PATCH)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        if self.config.refiner_width:
            self.refiner = Refiner(*(getattr(self.config, f"refiner_{name}") for name in SHAPE))
        if self.config.joiner_width:
            shape = (getattr(self.config, f"joiner_{name}") for name in JOINER_SHAPE)
            self.joiner = Refiner(*shape, neighbours=1)

    def compute_in(self, dtype: torch.dtype) -> Self:
        """Use a number type for the network. The linear path stays in fp32: its latents reach dozens of
        steps, which bf16 would round by a quarter of a step."""
        self.encoder.to(dtype)
        self.decoder.to(dtype)
        for part in (self.refiner, self.joiner):
            if part is not None:
                part.to(dtype)
        self.dtype = dtype
        return self

    def encode_groups(self, groups: Tensor, memory: Memory | None = None) -> Tensor:
        linear = self.linear_encode(fold(groups, TIME, COARSE))
        return self.encoder(groups.to(self.dtype), memory).to(linear.dtype).add_(linear)

    def decode_groups(self, latents: Tensor, memory: Memory | None = None) -> Tensor:
        linear = unfold(self.linear_decode(latents), TIME, COARSE)
        return self.decoder(latents.to(self.dtype), memory).to(linear.dtype).add_(linear)

    def prime_decode(self, latents: Tensor, memory: Memory, to_go: int) -> Tensor:
        return self.decoder.prime(latents.to(self.dtype), memory, to_go)

    @torch.no_grad()
    def start_from_principal_components(self, mean: Tensor, basis: Tensor, step: float) -> None:
        """Make the untrained model a transform codec: mean (768,), basis (768, C) with unit columns.

        One unit of a latent is `step` in the transform's own units (pixel values in [-1, 1]).
        """
        self.linear_encode.weight.copy_(basis.T / step)
        self.linear_encode.bias.copy_(-(basis.T @ mean) / step)
        self.linear_decode.weight.copy_(basis * step)
        self.linear_decode.bias.copy_(mean)

    @torch.no_grad()
    def turn_latents(self, matrix: Tensor, offset: Tensor) -> None:
        """Make the encoder give `matrix` @ z + `offset` for z, and the decoder undo it: (C, C) and (C,).

        Reconstructions stay what they were, but for edges of the picture, where the decoder pads with zeros.
        """
        inverse = torch.linalg.inv(matrix.double())
        undo = -(inverse @ offset.double())
        state = {name: tensor.double() for name, tensor in self.state_dict().items()}
        for part in ("linear_encode", "encoder.head"):
            for name in (f"{part}.weight", f"{part}.bias"):
                state[name] = torch.tensordot(matrix.double(), state[name], 1)
        state["linear_encode.bias"] += offset
        for part in ("linear_decode", "decoder.stem"):
            weight = state[f"{part}.weight"]
            taps = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
            state[f"{part}.bias"] += taps @ undo
            state[f"{part}.weight"] = torch.einsum("ij...,jk->ik...", weight, inverse)
        self.load_state_dict(state)

    def channels_last(self) -> Compact:
        """Lay the weights out for the fast convolutions of CPUs with matrix units and of GPUs."""
        for module in self.modules():
            if isinstance(module, SpatialConv):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
            elif isinstance(module, CausalConv):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        return self
