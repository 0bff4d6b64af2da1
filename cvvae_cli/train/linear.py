"""Fit `linear`: principal components of training patches, and tables of the coder for its symbols."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from cvvae_cli.models.compact import COARSE, TIME
from cvvae_cli.models.layers import fold
from cvvae_cli.models.linear import Linear
from cvvae_cli.models.registry import NETWORK_PREFIX
from cvvae_cli.train.config import TrainConfig
from cvvae_cli.train.data import ClipSampler, find_sources, principal_components
from cvvae_cli.train.tables import fit_tables

CHANNELS = 32
COARSEST, FINEST = 4.0, 0.4  # steps of the quality levels, in pixel values of [-1, 1]
BATCHES, CLIPS, FRAMES, SIZE = 60, 96, 33, 192
FIRST_STEP = 10_000_000  # samples apart from those the components are fitted to


@torch.inference_mode()
def fit_linear(config: TrainConfig, path: Path) -> None:
    """Write the weights of `linear` to `path`; the data and its seed are those of a recipe."""
    sampler = ClipSampler(find_sources(config.data.folders, config.data.exclude), config.data, config.seed)
    mean, vectors = principal_components(sampler, lambda x: fold(x, TIME, COARSE), BATCHES)
    basis = vectors[:, :CHANNELS]
    network = Linear(CHANNELS)
    network.linear_encode.weight.copy_(basis.T)
    network.linear_encode.bias.copy_(-(basis.T @ mean))
    network.linear_decode.weight.copy_(basis)
    network.linear_decode.bias.copy_(mean)
    network.load_state_dict({name: t.half().float() for name, t in network.state_dict().items()})
    steps = np.geomspace(COARSEST, FINEST, 4).astype(np.float32)
    log_step = np.log(np.repeat(steps[:, None], CHANNELS, axis=1))
    symbols = []
    for number in range(CLIPS):
        latents = network.encode(sampler.batch(FIRST_STEP + number, 1, FRAMES, SIZE))[0]
        step = COARSEST * (FINEST / COARSEST) ** (number % 10 / 9)
        symbols.append((latents / step).round().permute(1, 0, 2, 3).int().numpy())
    arrays = {NETWORK_PREFIX + name: t.half().numpy() for name, t in network.state_dict().items()}
    arrays |= fit_tables(symbols).to_tensors()
    arrays |= {"quantizer.log_gain": -log_step, "quantizer.log_step": log_step}
    path.write_bytes(save(arrays, {"model": "linear-1", "config": json.dumps({"latent_channels": CHANNELS})}))
