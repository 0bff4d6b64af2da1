"""A quick look at the latents of a file: a picture for every latent frame, without the model's decoder.

By a linear map from latents to pixels, fitted to the first frames that the model itself decodes, at a quarter
of the size; or by a tiny image decoder of the TAESD family, at full size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cvvae_cli import output as outputs
from cvvae_cli.access import decode_frames, info_of
from cvvae_cli.checkpoint import read_checkpoint
from cvvae_cli.container.reader import CvlReader, open_cvl
from cvvae_cli.engine.device import choose_placement
from cvvae_cli.engine.load import make_engine
from cvvae_cli.errors import ConfigError
from cvvae_cli.latents import model_of, read_latents
from cvvae_cli.models.image_vae import tiny_image_decoder
from cvvae_cli.models.registry import ModelSpec, Weights
from cvvae_cli.types import FrameBatch, OnProgress, Progress, ignore_progress
from cvvae_cli.video.color import in_eight_bits
from cvvae_cli.video.writer import OutputOptions, VideoWriter, require_known_output

DETAIL = 2  # pixels of the linear preview for each latent position, each way
FIT_FRAMES = 17
Paint = Callable[[np.ndarray], np.ndarray]  # latents (C, t, h, w) → uint8 (t, H, W, 3)


def preview_file(
    source: Path,
    output: Path,
    *,
    decoder: Path | None = None,
    device: str = "auto",
    force: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> int:
    """Write a preview video and return its number of pictures. Raises a CvvaeError."""
    outputs.require_writable(output, (source,), force=force)
    with open_cvl(source) as cvl:
        require_known_output(output, cvl.num_latents)
        spec, weights = model_of(cvl.header)
        if decoder is None:
            paint, scale = fit_linear_paint(cvl, spec, weights, device), DETAIL
        else:
            paint, scale = image_paint(decoder, spec, device), spec.geometry.pixels
        info, pixels = info_of(cvl), spec.geometry.pixels
        width, height = (even(side * scale // pixels) for side in (info.width, info.height))
        rate = info.frame_rate / spec.geometry.frames
        small = replace(
            info, width=width, height=height, frame_rate=rate, num_frames=cvl.num_latents, depth=8
        )
        with (
            outputs.replace_on_success(output, force=force) as part,
            VideoWriter(part.path, output, small, OutputOptions(), None) as video,
        ):
            for batch in pictures(cvl, weights, paint):
                video.write(FrameBatch(np.ascontiguousarray(batch.rgb[:, :height, :width]), batch.pts))
                on_progress(Progress(spec.geometry.latent_of(int(batch.pts.size)), cvl.num_latents))
        return cvl.num_latents


def even(value: int) -> int:
    return max(2, value // 2 * 2)


def pictures(cvl: CvlReader, weights: Weights, paint: Paint) -> Iterator[FrameBatch]:
    """A picture for every latent frame, at the time of the first frame it stands for."""
    geometry = cvl.header.geometry
    for chunk in read_latents(cvl, weights):
        first = geometry.latent_of(chunk.frames.start)
        starts = [
            geometry.frames_of(range(n, n + 1)).start - chunk.frames.start
            for n in range(first, first + chunk.latents.shape[1])
        ]
        yield FrameBatch(paint(chunk.latents), chunk.pts[starts])


def fit_linear_paint(cvl: CvlReader, spec: ModelSpec, weights: Weights, device: str) -> Paint:
    """The affine map from a latent to its DETAIL x DETAIL pixels that is best on the first frames."""
    engine = make_engine(spec, weights.build, choose_placement(device))
    frames = range(min(FIT_FRAMES, cvl.num_frames))
    rgb = np.concatenate([in_eight_bits(b.rgb) for b in decode_frames(cvl, weights, engine, frames)])
    count = spec.geometry.latent_of(frames.stop - 1) + 1
    chunks = read_latents(cvl, weights, range(-(-count // cvl.header.chunk)))
    latents = np.concatenate([chunk.latents for chunk in chunks], axis=1)[:, :count]
    rows, columns = (side // spec.geometry.pixels for side in rgb.shape[1:3])  # those without padding
    targets = []
    for number in range(count):
        group = spec.geometry.frames_of(range(number, number + 1))
        mean = rgb[group.start : min(group.stop, frames.stop)].mean(axis=0)
        step = spec.geometry.pixels // DETAIL
        blocks = mean[: rows * DETAIL * step, : columns * DETAIL * step]
        blocks = blocks.reshape(rows, DETAIL, step, columns, DETAIL, step, 3).mean(axis=(2, 5))
        targets.append(blocks.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1))
    known = with_ones(latents[:, :, :rows, :columns])
    weights_of, *_ = np.linalg.lstsq(known, np.concatenate(targets), rcond=None)

    def paint(latents: np.ndarray) -> np.ndarray:
        _, t, h, w = latents.shape
        values = with_ones(latents) @ weights_of
        values = values.reshape(t, h, w, DETAIL, DETAIL, 3).transpose(0, 1, 3, 2, 4, 5)
        return np.rint(values).clip(0, 255).astype(np.uint8).reshape(t, h * DETAIL, w * DETAIL, 3)

    return paint


def with_ones(latents: np.ndarray) -> np.ndarray:
    """(C, t, h, w) → (t*h*w, C + 1)."""
    rows = latents.reshape(len(latents), -1).T
    return np.concatenate([rows, np.ones((len(rows), 1), rows.dtype)], axis=1)


def image_paint(path: Path, spec: ModelSpec, device: str) -> Paint:
    """A decoder of the TAESD family, for every latent frame. Raises ConfigError if its latents are others."""
    network = tiny_image_decoder(read_checkpoint(path))
    if network.latent_channels != spec.geometry.channels:
        raise ConfigError(
            f"{path} has {network.latent_channels} latent channels, {spec.name} {spec.geometry.channels}",
            hint="take the decoder of the same diffusion model",
        )
    place = choose_placement(device).device
    network.to(place)

    @torch.inference_mode()
    def paint(latents: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(latents).to(place).transpose(0, 1)
        frames = [network.decode((one[None] - spec.shift_factor) * spec.scaling_factor) for one in z]
        x = torch.cat(frames).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return x.permute(0, 2, 3, 1).cpu().numpy()

    return paint
