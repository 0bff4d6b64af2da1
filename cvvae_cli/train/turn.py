"""The last stage of latents that an image VAE shall understand: a linear map, learned on whole pictures.

The image decoder normalises over the picture it is given, so after training on crops its whole frames are
a little too dark or too bright. The map corrects that; the video decoder undoes it, and its pictures stay.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.models.alignment import as_pictures, matching_frames
from cvvae_cli.models.compact import Compact
from cvvae_cli.models.image_vae import ImageVae
from cvvae_cli.train.config import TrainConfig
from cvvae_cli.train.data import ClipSampler, as_model_input, decode_scaled, find_sources, load_video
from cvvae_cli.train.latents import log_square

FRAMES = 9  # of a clip; its last latent frame counts, before which the causal convolutions have a past
CLIPS_OF_A_VIDEO, PHOTOS = 2, 60
RATE = 2e-3

Pair = tuple[Tensor, Tensor]  # latents (1, C, h, w), and the mean of the frames they stand for (1, 3, H, W)


def turned(network: Compact, image_vae: ImageVae, config: TrainConfig) -> Compact:
    """A copy whose latents are mapped so that the image decoder's pictures of training clips come nearest."""
    network = copy.deepcopy(network).eval()
    device = network.linear_encode.weight.device
    pairs = []
    with torch.no_grad():
        for clip in training_clips(config):
            video = as_model_input(clip).to(device)
            latents, frames = network.encode(video).float(), matching_frames(video, "average")
            pairs.append((as_pictures(latents)[-1:], as_pictures(frames)[-1:]))
    matrix, offset = learn_map(image_vae, pairs, config.latents.turn_steps, config.seed)
    share = config.latents.turn_share
    network.turn_latents(torch.lerp(torch.eye(len(matrix), device=device), matrix, share), share * offset)
    return network


def training_clips(config: TrainConfig) -> Iterator[np.ndarray]:
    """Whole frames of every training video, and photos that stand still: uint8 (T, H, W, 3)."""
    rng = random.Random(config.seed)
    sources = find_sources(config.data.folders, config.data.exclude)
    sampler = ClipSampler(sources, config.data, config.seed)
    for path in sources.videos:
        video = sampler.read(path, lambda path: load_video(path, config.data))
        if video is None:
            continue
        for _ in range(CLIPS_OF_A_VIDEO):
            start = rng.randrange(max(1, len(video) - FRAMES + 1))
            yield video[start : start + FRAMES].numpy()
    for path in rng.sample(sources.photos, min(PHOTOS, len(sources.photos))):
        photo = sampler.read(path, lambda path: decode_scaled(path, 1, config.data.short_side))
        if photo is not None:
            yield photo.expand(FRAMES, -1, -1, -1).numpy()


def learn_map(image_vae: ImageVae, pairs: list[Pair], steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Matrix (C, C) and offset (C,) with the least mean log square error of the image decoder's pictures."""
    channels, device = pairs[0][0].shape[1], pairs[0][0].device
    matrix = torch.eye(channels, device=device).requires_grad_()
    offset = torch.zeros(channels, device=device).requires_grad_()
    optimizer = torch.optim.Adam([matrix, offset])
    rng = random.Random(seed)
    order = [pair for _ in range(-(-steps // len(pairs))) for pair in rng.sample(pairs, len(pairs))]
    for step, (latents, picture) in enumerate(order[:steps]):
        optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        mapped = torch.einsum("ij,njhw->nihw", matrix, latents) + offset[:, None, None]
        optimizer.zero_grad()
        log_square(image_vae.decode(mapped).float() - picture).backward()
        optimizer.step()
    return matrix.detach(), offset.detach()
