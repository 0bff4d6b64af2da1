"""Turn a training run into a weights file: the averaged network in fp16, gains, and the coder's integers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.models.compact import Compact
from cvvae_cli.models.registry import NETWORK_PREFIX
from cvvae_cli.train.config import TrainConfig
from cvvae_cli.train.data import ClipSampler, find_sources
from cvvae_cli.train.tables import fit_tables

TABLE_CLIPS, TABLE_FRAMES, TABLE_SIZE = 160, 33, 256
FIRST_STEP = 10_000_000  # samples that no training step has seen, from the same clips


def export(network: Compact, config: TrainConfig, path: Path, *, clips: int = TABLE_CLIPS) -> None:
    """Write `path`; the tables are fitted with the rounded weights that are written."""
    network = to_stored_precision(network)
    gain = np.ones(config.model.latent_channels, np.float32)
    tables = fit_tables(training_symbols(network, config, Quantizer(gain), clips))
    arrays = {
        NETWORK_PREFIX + name: tensor.detach().to(torch.float16).contiguous().numpy()
        for name, tensor in network.state_dict().items()
    }
    arrays |= {"quantizer.gain": gain} | tables.to_tensors()
    metadata = {
        "model": config.name,
        "config": json.dumps(network.config.to_dict(), sort_keys=True),
        "recipe": json.dumps(without_paths(config), sort_keys=True),
    }
    part = path.with_name(path.name + ".part")
    part.write_bytes(save(arrays, metadata))  # not save_file: it ignores the umask
    part.replace(path)


def to_stored_precision(network: Compact) -> Compact:
    """A copy of the network with the weights that a file keeps."""
    copy = Compact(network.config).channels_last()
    copy.load_state_dict({n: t.to("cpu", torch.float16).float() for n, t in network.state_dict().items()})
    return copy.eval().requires_grad_(False)


@torch.inference_mode()
def training_symbols(
    network: Compact, config: TrainConfig, quantizer: Quantizer, clips: int
) -> list[np.ndarray]:
    """Symbols (t, C, h, w) of training clips, larger and longer than those of training."""
    sampler = ClipSampler(find_sources(config.data.folders, config.data.exclude), config.data, config.seed)
    symbols = []
    for step in range(clips):
        video = sampler.batch(FIRST_STEP + step, 1, TABLE_FRAMES, TABLE_SIZE)
        symbols.append(quantizer.quantize(network.encode(video)[0].numpy()))
    return symbols


def without_paths(config: TrainConfig) -> dict[str, object]:
    """The recipe as it is stored: folders of one machine mean nothing on another."""
    values = config.to_dict()
    values["data"] |= {"folders": (), "holdout": None}
    return values
