"""What is expected of a latent frame from the one before and how its content moves, as training shapes it.

bitstream/motion.py is its integer twin. Latents are in units of the network's.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cvvae_cli.bitstream.motion import (
    CHROMA,
    GAIN_BITS,
    HALF,
    LATENT_BITS,
    LEVELS,
    LUMA,
    NUMBERS,
    PIXEL_BITS,
    STEP_BITS,
    MotionTables,
    vector_price,
)
from cvvae_cli.bitstream.vectors import CELL, FRAMES, Moving, search
from cvvae_cli.flow.align import LUMA_WEIGHTS
from cvvae_cli.models.compact import Compact
from cvvae_cli.train.data import ClipSampler

RIDGE = 1e-3
MIDDLE = 55  # the level whose price vectors have in training
FIT_CLIPS, FIT_FRAMES, FIT_SIZE = 40, 21, 256
FIRST_STEP = -2000  # samples of the fit, which no training step sees
LARGEST_WEIGHT = 32_767
LARGEST_SHIFT = 24


class MotionPrediction(nn.Module):
    """Latents → a coarse picture of a group's end, or its reference → moved four times → latents."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.picture = nn.Conv2d(channels, NUMBERS, 3, padding=1)
        self.latents = nn.Linear(FRAMES * NUMBERS, channels)

    def forward(self, before: Tensor, vectors: Tensor, aligned: Tensor) -> Tensor:
        """(N, C, h, w) and vectors (N, 2, rows, columns) → (N, C, h, w); in float32, autocast or not.

        `aligned` (N,) says of which the frames to come were moved onto one: they show one instant, not four.
        """
        n, c, h, w = before.shape
        with torch.autocast(before.device.type, enabled=False):
            latents = self.latents(self.numbers(before.float(), vectors, aligned))
        return latents.view(n, h, w, c).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def numbers(self, before: Tensor, vectors: Tensor, aligned: Tensor) -> Tensor:
        """What every latent position shows in the four frames: (N h w, 384)."""
        n, _, h, w = before.shape
        luma, chroma = self.planes(before)
        numbers = before.new_empty(n, h * w, FRAMES * NUMBERS)
        reach = int(vectors.abs().max())
        for instants, which in ((1, aligned), (FRAMES, ~aligned)):
            of_kind = which.nonzero()[:, 0]
            cells = before.new_ones(len(of_kind), h, w).nonzero(as_tuple=True)
            planes = ((luma[of_kind], 1), (chroma[of_kind], 2))
            parts = (
                Moving(p, scale, instants, reach=reach).at(cells, vectors[of_kind]) for p, scale in planes
            )
            each = [part.expand(-1, FRAMES, -1, -1).flatten(1) for part in parts]
            numbers[of_kind] = torch.cat(each, 1).view(-1, h * w, FRAMES * NUMBERS)
        return numbers.flatten(0, 1)

    def planes(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) → (N, 1, 8h, 8w) and (N, 2, 4h, 4w)."""
        luma, chroma = self.picture(latents).split([LUMA, CHROMA], 1)
        return functional.pixel_shuffle(luma, CELL), functional.pixel_shuffle(chroma, HALF)

    @torch.no_grad()
    def vectors(self, latents: Tensor) -> Tensor:
        """Of all but the first latent frame of clips (B, C, t, h, w), t > 1: (B, t - 1, 2, rows, columns)."""
        b, _, t, h, w = latents.shape
        with torch.autocast(latents.device.type, enabled=False):
            luma, _ = self.planes(latents.float().transpose(1, 2).flatten(0, 1))
        luma = luma.view(b, t, CELL * h, CELL * w)
        found = search(luma[:, :-1].flatten(0, 1), luma[:, 1:].flatten(0, 1), vector_price(MIDDLE))
        return found.view(b, t - 1, *found.shape[1:])

    def start(self, network: Compact, sampler: ClipSampler) -> None:
        """Least squares on latents of training clips."""
        clips = []
        for number in range(FIT_CLIPS):
            video = sampler.batch(FIRST_STEP - number, 1, FIT_FRAMES, FIT_SIZE)
            with torch.inference_mode():
                clips.append((video, network.encode(video.to(self.picture.weight.device)).cpu()))
        fitted = copy.deepcopy(self).cpu()
        fitted.fit(clips)
        self.load_state_dict(fitted.state_dict())

    @torch.no_grad()
    def fit(self, clips: list[tuple[Tensor, Tensor]]) -> None:
        """Least squares: clips are videos (1, 3, 1+4n, H, W) and their latents (1, C, 1+n, h, w)."""
        pictures = LeastSquares()
        for video, latents in clips:
            luma, chroma = in_luma_and_chroma(video[0, :, 4::FRAMES])
            last = torch.cat(
                [functional.pixel_unshuffle(luma[:, None], CELL), functional.pixel_unshuffle(chroma, HALF)], 1
            )
            around = functional.unfold(latents[0, :, 1:].transpose(0, 1), 3, padding=1)
            pictures.add(around.transpose(1, 2).flatten(0, 1), rows_of(last))
        pictures.write(self.picture)
        expected = LeastSquares()
        for _, latents in clips:
            frames, vectors = latents[0].transpose(0, 1), self.vectors(latents)[0]
            rounded = frames[:-1].round()
            plain = torch.zeros(len(rounded), dtype=torch.bool)
            expected.add(self.numbers(rounded, vectors, plain), rows_of(frames[1:]))
        expected.write(self.latents)


def in_luma_and_chroma(video: Tensor) -> tuple[Tensor, Tensor]:
    """(3, T, H, W) → brightness (T, H, W), and red and blue beyond it at half size (T, 2, H/2, W/2)."""
    luma = (torch.tensor(LUMA_WEIGHTS, device=video.device).view(3, 1, 1, 1) * video).sum(0)
    differences = torch.stack([video[2] - luma, video[0] - luma], 1)
    return luma, functional.avg_pool2d(differences, 2)


def rows_of(x: Tensor) -> Tensor:
    """(N, K, h, w) → (N h w, K)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


class LeastSquares:
    """Rows come piece by piece; the last coefficient is the constant."""

    def __init__(self) -> None:
        self.square: Tensor | None = None
        self.product: Tensor | None = None
        self.count = 0

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        x = functional.pad(inputs, (0, 1), value=1.0).double()
        square, product = x.T @ x, x.T @ outputs.double()
        self.square = square if self.square is None else self.square + square
        self.product = product if self.product is None else self.product + product
        self.count += len(x)

    @torch.no_grad()
    def write(self, layer: nn.Conv2d | nn.Linear) -> None:
        """Make the solution the weights of a layer."""
        assert self.square is not None
        assert self.product is not None
        assert layer.bias is not None
        ridge = RIDGE * self.count * torch.eye(len(self.square), dtype=torch.float64)
        solution = torch.linalg.solve(self.square + ridge, self.product).float()
        layer.weight.copy_(solution[:-1].T.reshape(layer.weight.shape))
        layer.bias.copy_(solution[-1])


def rounded_motion(motion: MotionPrediction, gains: Tensor, steps: Tensor) -> MotionTables:
    """The integers of bitstream/motion.py; gains and steps (91, C) of all levels."""
    picture, picture_bias, first = fixed(motion.picture, PIXEL_BITS - STEP_BITS, PIXEL_BITS)
    latents, latents_bias, second = fixed(motion.latents, LATENT_BITS - PIXEL_BITS, LATENT_BITS)
    assert len(gains) == len(steps) == LEVELS
    return MotionTables(
        picture=picture.transpose(2, 3, 1, 0).reshape(9, -1, NUMBERS),
        picture_bias=picture_bias,
        latents=latents.T,
        latents_bias=latents_bias,
        shift=np.array([first, second], np.uint8),
        gain=np.rint(gains.double().numpy() * 2**GAIN_BITS).astype(np.int32),
        step=np.rint(steps.double().numpy() * 2**STEP_BITS).astype(np.int32),
    )


def fixed(layer: nn.Conv2d | nn.Linear, finer: int, bits: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Weights int16 and biases int64 with the largest shift that fits; outputs have `bits` after the point,
    `finer` more than inputs."""
    assert layer.bias is not None
    weight, bias = (p.detach().double().cpu().numpy() for p in (layer.weight, layer.bias))
    shift = int(np.floor(np.log2(LARGEST_WEIGHT / np.abs(weight).max()))) - finer
    shift = min(max(shift, 0), LARGEST_SHIFT)
    weights = np.rint(weight * 2.0 ** (shift + finer))
    return weights.astype(np.int16), np.rint(bias * 2.0 ** (shift + bits)).astype(np.int64), shift
