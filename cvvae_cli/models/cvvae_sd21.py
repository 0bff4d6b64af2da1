"""`cvvae-sd21`: the paper's network whose latents Stable Diffusion 2.1 understands (z = 4).

182 M parameters at full width. The encoder is causal in time, the decoder is not. Parameter names are those
of the released checkpoints (CompVis LDM naming).
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
    HalfBlock,
    Norm,
    Padding,
    UpsamplingConv,
    as_frames,
    as_positions,
    as_video,
    attend,
    channels_last,
    from_positions,
    known_fields,
    layers_of,
)

EPS = 1e-5
CAUSAL = Padding(front=2, back=0, time="replicate", space="zeros")
AROUND = Padding(front=1, back=1, time="zeros", space="zeros")
UPSAMPLED = Padding(front=1, back=1, time="replicate", space="zeros")
TIME_LEVELS = {0, 2}  # of the encoder's levels, those that halve the frames
DOUBLING_LEVELS = {3, 1}  # of the decoder's, those that double them


@dataclass(frozen=True)
class Sd21Config:
    """Widths and depths."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    z_channels: int = 4
    num_res_blocks: int = 2

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sd21Config:
        """Of a configuration file; keys of other things are left out."""
        return cls(**known_fields(cls, values))

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class Block(HalfBlock):
    def __init__(self, inputs: int, outputs: int, padding: Padding) -> None:
        super().__init__(inputs, outputs, padding, EPS)
        self.nin_shortcut = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else None

    @property
    def projection(self) -> nn.Conv3d | None:
        return self.nin_shortcut


class SpatialAttention(nn.Module):
    """Every position of a frame sees all of that frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, EPS, is_per_frame=True)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def attended(self, x: Tensor) -> Tensor:
        frames = as_frames(self.norm(x))
        n, c, h, w = frames.shape
        q, k, v = (f(frames).permute(0, 2, 3, 1).reshape(n, h * w, c) for f in (self.q, self.k, self.v))
        y = attend(q, k, v).reshape(n, h, w, c).permute(0, 3, 1, 2)
        return as_video(self.proj_out(y), x.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attended(x)


class SpaceTimeAttention(SpatialAttention):
    """Then every position sees itself in all frames; one residual around both."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm_t = nn.LayerNorm(channels)
        self.q_t, self.k_t, self.v_t, self.proj_out_t = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        y = self.norm_t(as_positions(self.attended(x)))  # (B*T, H*W, C)
        y = y.reshape(b, t, h * w, c).transpose(1, 2).reshape(b * h * w, t, c)
        y = self.proj_out_t(attend(self.q_t(y), self.k_t(y), self.v_t(y)))
        y = y.reshape(b, h * w, t, c).transpose(1, 2).reshape(b * t, h * w, c)
        return x + from_positions(y, x)


class Downsample(nn.Module):
    def __init__(self, channels: int, time_stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, (time_stride, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 1, 0, 1, 2, 0))  # one zero at the right and the bottom
        x[:, :, :2] = x[:, :, 2:3]
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, channels: int, *, doubles_time: bool) -> None:
        super().__init__()
        self.conv = UpsamplingConv(channels, UPSAMPLED, doubles_time=doubles_time)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Middle(nn.Module):
    def __init__(self, channels: int, padding: Padding, attention: type[SpatialAttention]) -> None:
        super().__init__()
        self.block_1 = Block(channels, channels, padding)
        self.attn_1 = attention(channels)
        self.block_2 = Block(channels, channels, padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Stage(nn.Module):
    """Blocks of one resolution, then a change of it, where `downsample` or `upsample` is set."""

    def __init__(self, inputs: int, outputs: int, blocks: int, padding: Padding) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * blocks]
        self.block = nn.ModuleList(Block(a, b, padding) for a, b in pairwise(widths))

    def layers(self) -> Iterator[nn.Module]:
        yield from self.block
        for change in (getattr(self, "downsample", None), getattr(self, "upsample", None)):
            if change is not None:
                yield change


class Encoder(nn.Module):
    def __init__(self, config: Sd21Config) -> None:
        super().__init__()
        channels = [config.ch * m for m in config.ch_mult]
        inputs = config.ch
        self.conv_in = Conv3d(3, inputs, CAUSAL)
        self.down = nn.ModuleList()
        for level, outputs in enumerate(channels):
            stage = Stage(inputs, outputs, config.num_res_blocks, CAUSAL)
            if level < len(channels) - 1:
                stage.downsample = Downsample(outputs, 2 if level in TIME_LEVELS else 1)
            self.down.append(stage)
            inputs = outputs
        self.mid = Middle(inputs, CAUSAL, SpatialAttention)
        self.norm_out = Norm(inputs, EPS)
        self.conv_out = Conv3d(inputs, 2 * config.z_channels, CAUSAL)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, 1 + 4n, H, W) → (B, 2z, 1 + n, H/8, W/8)
        x = self.conv_in(x)
        for layer in layers_of(self.down):
            x = layer(x)
        return self.conv_out.of_normed_swish(self.norm_out, self.mid(x))


class Decoder(nn.Module):
    def __init__(self, config: Sd21Config) -> None:
        super().__init__()
        channels = [config.ch * m for m in config.ch_mult]
        inputs = channels[-1]
        self.conv_in = Conv3d(config.z_channels, inputs, AROUND)
        self.mid = Middle(inputs, AROUND, SpaceTimeAttention)
        stages: list[Stage] = []
        for level, outputs in reversed(list(enumerate(channels))):
            stage = Stage(inputs, outputs, config.num_res_blocks + 1, AROUND)
            if level > 0:
                stage.upsample = Upsample(outputs, doubles_time=level in DOUBLING_LEVELS)
            stages.insert(0, stage)
            inputs = outputs
        self.up = nn.ModuleList(stages)
        self.norm_out = Norm(inputs, EPS)
        self.conv_out = Conv3d(inputs, 3, AROUND)

    def forward(self, z: Tensor) -> Tensor:  # (B, z, 1 + n, h, w) → (B, 3, 1 + 4n, 8h, 8w)
        x = self.mid(self.conv_in(z))
        for layer in layers_of(reversed(self.up)):
            x = layer(x)
        return self.conv_out.of_normed_swish(self.norm_out, x)


class CvVaeSd21(WindowedAutoencoder):
    """Video ⇄ latents of a window of frames."""

    def __init__(self, config: Sd21Config | None = None) -> None:
        super().__init__()
        self.config = config or Sd21Config()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        channels_last(self)
