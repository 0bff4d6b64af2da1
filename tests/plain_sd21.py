"""The network of `cvvae-sd21` as plainly as it can be written: contiguous, fp32, every padding a copy.

Functions of a state dict, from PAPER.md alone; what the tests compare our network with, and the benchmark its
speed. Full size only in its names: widths are those of the tensors.
"""

from __future__ import annotations

from torch import Tensor, cat
from torch.nn import functional as f

State = dict[str, Tensor]


def norm(s: State, name: str, x: Tensor) -> Tensor:
    return f.group_norm(x, 32, s[f"{name}.weight"], s[f"{name}.bias"], 1e-5)


def conv3d(s: State, name: str, x: Tensor, stride: int | tuple[int, int, int] = 1) -> Tensor:
    return f.conv3d(x, s[f"{name}.weight"], s[f"{name}.bias"], stride)


def conv2d(s: State, name: str, x: Tensor, padding: int) -> Tensor:
    return f.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], padding=padding)


def in_front(x: Tensor) -> Tensor:
    return cat([x[:, :, :1], x[:, :, :1], x], dim=2)


def pad_causal(x: Tensor) -> Tensor:
    return f.pad(in_front(x), (1, 1, 1, 1))


def pad_around(x: Tensor) -> Tensor:
    return f.pad(x, (1, 1, 1, 1, 1, 1))


def frames_of(x: Tensor) -> Tensor:
    b, c, t, h, w = x.shape
    return x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)


def video_of(x: Tensor, b: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(b, n // b, c, h, w).permute(0, 2, 1, 3, 4).contiguous()


def block(s: State, name: str, x: Tensor, pad) -> Tensor:
    y = conv3d(s, f"{name}.conv1", pad(f.silu(norm(s, f"{name}.norm1", x))))
    y = f.silu(norm(s, f"{name}.norm2", y))
    y = video_of(conv2d(s, f"{name}.conv2", frames_of(y), 1), len(x))
    if f"{name}.nin_shortcut.weight" in s:
        x = conv3d(s, f"{name}.nin_shortcut", x)
    return x + y


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = f.softmax(q @ k.transpose(1, 2) * q.shape[2] ** -0.5, dim=2)
    return weights @ v


def spatial_attention(s: State, name: str, x: Tensor) -> Tensor:
    frames = norm(s, f"{name}.norm", frames_of(x))
    n, c, h, w = frames.shape
    q, k, v = (conv2d(s, f"{name}.{p}", frames, 0).reshape(n, c, h * w).transpose(1, 2) for p in "qkv")
    y = softmax_attention(q, k, v).transpose(1, 2).reshape(n, c, h, w)
    return video_of(conv2d(s, f"{name}.proj_out", y, 0), len(x))


def temporal_attention(s: State, name: str, x: Tensor) -> Tensor:
    b, c, t, h, w = x.shape
    y = x.permute(0, 3, 4, 2, 1).reshape(b * h * w, t, c)
    y = f.layer_norm(y, (c,), s[f"{name}.norm_t.weight"], s[f"{name}.norm_t.bias"])
    q, k, v = (f.linear(y, s[f"{name}.{p}_t.weight"], s[f"{name}.{p}_t.bias"]) for p in "qkv")
    y = softmax_attention(q, k, v)
    y = f.linear(y, s[f"{name}.proj_out_t.weight"], s[f"{name}.proj_out_t.bias"])
    return y.reshape(b, h, w, t, c).permute(0, 4, 3, 1, 2).contiguous()


def encode_moments(s: State, video: Tensor) -> Tensor:
    """(B, 3, 1 + 4n, H, W) → (B, 2z, 1 + n, H/8, W/8)."""
    x = conv3d(s, "encoder.conv_in", pad_causal(video))
    for level in range(4):
        for n in range(2):
            x = block(s, f"encoder.down.{level}.block.{n}", x, pad_causal)
        if level < 3:
            stride = (1 if level == 1 else 2, 2, 2)
            x = conv3d(s, f"encoder.down.{level}.downsample.conv", f.pad(in_front(x), (0, 1, 0, 1)), stride)
    x = block(s, "encoder.mid.block_1", x, pad_causal)
    x = x + spatial_attention(s, "encoder.mid.attn_1", x)
    x = block(s, "encoder.mid.block_2", x, pad_causal)
    return conv3d(s, "encoder.conv_out", pad_causal(f.silu(norm(s, "encoder.norm_out", x))))


def decode(s: State, latents: Tensor) -> Tensor:
    """(B, z, 1 + n, h, w) → (B, 3, 1 + 4n, 8h, 8w)."""
    x = conv3d(s, "decoder.conv_in", pad_around(latents))
    x = block(s, "decoder.mid.block_1", x, pad_around)
    x = x + temporal_attention(s, "decoder.mid.attn_1", spatial_attention(s, "decoder.mid.attn_1", x))
    x = block(s, "decoder.mid.block_2", x, pad_around)
    for level in (3, 2, 1, 0):
        for n in range(3):
            x = block(s, f"decoder.up.{level}.block.{n}", x, pad_around)
        if level > 0:
            x = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
            x = f.pad(cat([x[:, :, :1], x, x[:, :, -1:]], dim=2), (1, 1, 1, 1))
            x = conv3d(s, f"decoder.up.{level}.upsample.conv", x)
            if level in (3, 1):
                b, c, t, h, w = x.shape
                x = x.reshape(b, 2, c // 2, t, h, w).permute(0, 2, 3, 1, 4, 5)
                x = x.reshape(b, c // 2, 2 * t, h, w)[:, :, 1:]
    return conv3d(s, "decoder.conv_out", pad_around(f.silu(norm(s, "decoder.norm_out", x))))
