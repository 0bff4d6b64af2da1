"""`cvvae-sd3`: the paper's network whose latents Stable Diffusion 3 and 3.5 understand (z = 16).

Its 3D convolutions replicate at every edge, in time and space. Parameter names are those of the released
checkpoint (diffusers naming).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from cvvae_cli.models.autoencoder import WindowedAutoencoder
from cvvae_cli.models.half3d import (
    Conv3d,
    FrameConv,
    HalfBlock,
    Norm,
    Padding,
    UpsamplingConv,
    as_positions,
    attend,
    channels_last,
    from_positions,
    known_fields,
    layers_of,
)

EPS = 1e-6
CAUSAL = Padding(front=2, back=0, time="replicate", space="replicate")
AROUND = Padding(front=1, back=1, time="replicate", space="replicate")
TIME_LEVELS = {0, 2}  # counted from the input in the encoder, from the latents in the decoder


@dataclass(frozen=True)
class Sd3Config:
    """Widths and depths."""

    out_channels: int = 16  # of the latents
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sd3Config:
        """Of a configuration file; keys of other things are left out."""
        return cls(**known_fields(cls, values))

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class Block(HalfBlock):
    def __init__(self, inputs: int, outputs: int, padding: Padding) -> None:
        super().__init__(inputs, outputs, padding, EPS)
        self.conv_shortcut = FrameConv(inputs, outputs, 1) if inputs != outputs else None

    @property
    def projection(self) -> FrameConv | None:
        return self.conv_shortcut


class Attention(nn.Module):
    """Every position of a frame sees all of that frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.group_norm = Norm(channels, EPS, is_per_frame=True)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        y = as_positions(self.group_norm(x))
        y = self.to_out[0](attend(self.to_q(y), self.to_k(y), self.to_v(y)))
        return x + from_positions(y, x)


class Downsampler(nn.Module):
    def __init__(self, channels: int, time_stride: int) -> None:
        super().__init__()
        self.conv = Conv3d(channels, channels, CAUSAL, (time_stride, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsampler(nn.Module):
    def __init__(self, channels: int, *, doubles_time: bool) -> None:
        super().__init__()
        self.conv = UpsamplingConv(channels, AROUND, doubles_time=doubles_time)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Middle(nn.Module):
    def __init__(self, channels: int, padding: Padding) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Block(channels, channels, padding) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Stage(nn.Module):
    """Blocks of one resolution, then a change of it."""

    def __init__(self, inputs: int, outputs: int, blocks: int, padding: Padding) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * blocks]
        self.resnets = nn.ModuleList(Block(a, b, padding) for a, b in pairwise(widths))

    def layers(self) -> Iterator[nn.Module]:
        yield from self.resnets
        yield from (*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ()))


class Encoder(nn.Module):
    def __init__(self, config: Sd3Config) -> None:
        super().__init__()
        channels = config.block_out_channels
        inputs = channels[0]
        self.conv_in = Conv3d(3, inputs, CAUSAL)
        self.down_blocks = nn.ModuleList()
        for level, outputs in enumerate(channels):
            stage = Stage(inputs, outputs, config.layers_per_block, CAUSAL)
            if level < len(channels) - 1:
                stage.downsamplers = nn.ModuleList([Downsampler(outputs, 2 if level in TIME_LEVELS else 1)])
            self.down_blocks.append(stage)
            inputs = outputs
        self.mid_block = Middle(inputs, CAUSAL)
        self.conv_norm_out = Norm(inputs, EPS)
        self.conv_out = Conv3d(inputs, 2 * config.out_channels, CAUSAL)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, 1 + 4n, H, W) → (B, 2z, 1 + n, H/8, W/8)
        x = self.conv_in(x)
        for layer in layers_of(self.down_blocks):
            x = layer(x)
        return self.conv_out.of_normed_swish(self.conv_norm_out, self.mid_block(x))


class Decoder(nn.Module):
    def __init__(self, config: Sd3Config) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]
        inputs = channels[0]
        self.conv_in = Conv3d(config.out_channels, inputs, AROUND)
        self.mid_block = Middle(inputs, AROUND)
        self.up_blocks = nn.ModuleList()
        for level, outputs in enumerate(channels):
            stage = Stage(inputs, outputs, config.layers_per_block + 1, AROUND)
            if level < len(channels) - 1:
                stage.upsamplers = nn.ModuleList([Upsampler(outputs, doubles_time=level in TIME_LEVELS)])
            self.up_blocks.append(stage)
            inputs = outputs
        self.conv_norm_out = Norm(inputs, EPS)
        self.conv_out = Conv3d(inputs, 3, AROUND)

    def forward(self, z: Tensor) -> Tensor:  # (B, z, 1 + n, h, w) → (B, 3, 1 + 4n, 8h, 8w)
        x = self.mid_block(self.conv_in(z))
        for layer in layers_of(self.up_blocks):
            x = layer(x)
        return self.conv_out.of_normed_swish(self.conv_norm_out, x)


class CvVaeSd3(WindowedAutoencoder):
    """Video ⇄ latents of a window of frames."""

    def __init__(self, config: Sd3Config | None = None) -> None:
        super().__init__()
        self.config = config or Sd3Config()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        channels_last(self)
