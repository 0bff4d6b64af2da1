"""Turn a training run into a weights file: the averaged network in fp16, and what a coder needs."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor, nn

from cvvae_cli.bitstream.anchors import DetailedCoder
from cvvae_cli.bitstream.chunk import which_aligned
from cvvae_cli.bitstream.flow import FREQUENCIES
from cvvae_cli.bitstream.prior import FIRST_LEVEL, LAST_LEVEL
from cvvae_cli.models.compact import Compact
from cvvae_cli.models.registry import NETWORK_PREFIX, Weights, find_model_or_file
from cvvae_cli.train.aligned import onto_references
from cvvae_cli.train.coder import Coder
from cvvae_cli.train.config import TrainConfig
from cvvae_cli.train.data import ClipSampler, find_sources
from cvvae_cli.train.flow import flow_frequencies
from cvvae_cli.train.latents import LatentTrainee
from cvvae_cli.train.motion import rounded_motion
from cvvae_cli.train.prior import CodedClip, Levels, Rounder, fit_frequencies, interpolate
from cvvae_cli.train.refiner import RefinerTrainee
from cvvae_cli.train.sharpen import sharpen
from cvvae_cli.train.symbols import PriorTrainee
from cvvae_cli.train.trainee import Trainee
from cvvae_cli.train.turn import turned

TABLE_CLIPS, TABLE_FRAMES, TABLE_SIZE, TABLE_LEVELS = 150, 33, 256, 10
FIRST_STEP = 10_000_000  # samples that no training step has seen, from the same clips


def export(trainee: Trainee, config: TrainConfig, path: Path) -> None:
    """Write what a run trained."""
    if isinstance(trainee, Coder):
        export_coder(trainee, config, path)
    elif isinstance(trainee, LatentTrainee):
        export_latents(trainee, config, path)
    elif isinstance(trainee, RefinerTrainee):
        export_refiner(trainee, config, path)
    elif isinstance(trainee, PriorTrainee):
        export_prior(trainee, config, path)


def export_refiner(trainee: RefinerTrainee, config: TrainConfig, path: Path) -> None:
    """Write what was trained, fp16, beside what the model it began with adds to its base, which is named."""
    prefix = f"{NETWORK_PREFIX}{trainee.part}."
    shape = {f"{trainee.part}_{name}": getattr(trainee.section, name) for name in trainee.shape}
    write_beside(path, config, network_arrays(trainee.refiner, prefix), prefix, shape)


def export_prior(trainee: PriorTrainee, config: TrainConfig, path: Path) -> None:
    """Write the integers of a prior beside what the model it began with adds to its base, which is named."""
    sampler = ClipSampler(find_sources(config.data.folders, config.data.exclude), config.data, config.seed)
    write_beside(path, config, trainee.tables(sampler, TABLE_CLIPS).to_tensors(), "prior.", {})


def write_beside(
    path: Path, config: TrainConfig, arrays: dict[str, np.ndarray], prefix: str, shape: dict[str, Any]
) -> None:
    """Write arrays in place of those of that prefix which the model of `start` adds to its base."""
    assert config.start is not None
    start = find_model_or_file(config.start)
    weights = Weights(start)
    added = {} if start.base is None else load(weights.data)
    kept = {name: array for name, array in added.items() if not name.startswith(prefix)}
    write(path, kept | arrays, config, weights.config | shape, base=start.base or start.name)


def export_coder(coder: Coder, config: TrainConfig, path: Path, *, clips: int = TABLE_CLIPS) -> None:
    """Write `path`; the coder's integers are made with the rounded weights that are written."""
    coder = with_levels_up_to(config.objective.highest_quality, coder)
    scale_to_highest_level(coder)
    network = to_stored_precision(coder.autoencoder)
    prior = coder.prior.requires_grad_(True)
    log_gain, log_step = coder.log_gain.detach(), coder.log_step.detach()
    sampler = ClipSampler(find_sources(config.data.folders, config.data.exclude), config.data, config.seed)
    sharpen(prior, network, log_gain, log_step, sampler, config.sharpen)
    samples = list(training_latents(network, log_gain, log_step, sampler, clips))
    rounder = Rounder(prior)
    for scaled, levels, fields in samples[: len(samples) // 2]:
        rounder.measure(scaled, torch.from_numpy(which_aligned(fields))[None], levels)
    every = Levels.at(torch.linspace(0, 1, LAST_LEVEL - FIRST_LEVEL + 1), log_gain, log_step)
    motion = rounded_motion(prior.motion, every.gain.flatten(1), every.step.flatten(1))
    clips_of_levels = [coded_clip(*sample) for sample in samples]
    tables = fit_frequencies(rounder.tables(), motion, clips_of_levels, period=TABLE_FRAMES)
    arrays = network_arrays(network) | tables.to_tensors() | motion.to_tensors()
    arrays |= {"quantizer.log_gain": log_gain.numpy(), "quantizer.log_step": log_step.numpy()}
    arrays[FREQUENCIES] = flow_frequencies([fields for _, _, fields in samples])
    write(path, arrays, config, network.config.to_dict(), DetailedCoder.name)


def export_latents(trainee: LatentTrainee, config: TrainConfig, path: Path) -> None:
    """Write the network of `task = "latents"`: fp16, without a coder.

    A network of the paper's is written under the names of the released checkpoints; `cvvae weights import`
    takes it.
    """
    network = trainee.autoencoder
    if isinstance(network, Compact):
        if config.latents.turn_steps:
            network = turned(network, trainee.image_vae, config)
        write(path, network_arrays(network), config, network.config.to_dict())
    else:
        state = network.state_dict()
        arrays = {n: t.to("cpu", torch.float16).contiguous().numpy() for n, t in state.items()}
        write(path, arrays, config, config.network)


def network_arrays(network: nn.Module, prefix: str = NETWORK_PREFIX) -> dict[str, np.ndarray]:
    return {
        prefix + name: tensor.detach().to("cpu", torch.float16).contiguous().numpy()
        for name, tensor in network.state_dict().items()
    }


def write(
    path: Path,
    arrays: dict[str, np.ndarray],
    config: TrainConfig,
    network: dict[str, Any],
    coder: str | None = None,
    base: str | None = None,
) -> None:
    metadata = {
        "model": config.name,
        **({} if coder is None else {"coder": coder}),
        **({} if base is None else {"base": base}),
        "config": json.dumps(network, sort_keys=True),
        "recipe": json.dumps(without_paths(config), sort_keys=True),
    }
    part = path.with_name(path.name + ".part")
    part.write_bytes(save(arrays, metadata))  # not save_file: it ignores the umask
    part.replace(path)


@torch.no_grad()
def with_levels_up_to(highest: float, coder: Coder) -> Coder:
    """A copy on the CPU whose levels from 0 to 1 are the trained ones from 0 to `highest`."""
    coder = copy.deepcopy(coder).cpu()
    prior = coder.prior
    for anchors in (coder.log_gain, coder.log_step, prior.level, prior.scale_level):
        anchors.copy_(interpolate(anchors, torch.linspace(0, highest, len(anchors))))
    return coder


@torch.no_grad()
def scale_to_highest_level(coder: Coder) -> None:
    """Scale the latents, in place, so that unrounded ones are what the decoder gets at the highest level.

    Symbols of all levels, and what is decoded of them, stay as they are.
    """
    scale = (coder.log_gain[-1] + coder.log_step[-1]).exp()
    network = coder.autoencoder
    for layer in (network.linear_encode, network.encoder.head, coder.prior.motion.latents):
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        assert layer.bias is not None
        layer.bias.mul_(scale)
    coder.log_gain.sub_(scale.log())


def coded_clip(scaled: Tensor, levels: Levels, fields: np.ndarray) -> CodedClip:
    """What `training_latents` gives, as tables are fitted to it; the first latent frame is of one frame."""
    aligned = np.append(False, which_aligned(fields))
    return CodedClip(scaled[0].permute(1, 0, 2, 3).numpy(), aligned, level_number(levels.place))


def level_number(level: Tensor) -> int:
    """The number of a level in [0, 1], as headers have it."""
    return FIRST_LEVEL + round((LAST_LEVEL - FIRST_LEVEL) * level.item())


def to_stored_precision(network: Compact) -> Compact:
    """A copy of the network with the weights that a file keeps."""
    copy = Compact(network.config).channels_last()
    copy.load_state_dict({n: t.to("cpu", torch.float16).float() for n, t in network.state_dict().items()})
    return copy.eval().requires_grad_(False)


@torch.inference_mode()
def training_latents(
    network: Compact, log_gain: Tensor, log_step: Tensor, sampler: ClipSampler, clips: int
) -> Iterator[tuple[Tensor, Levels, np.ndarray]]:
    """Of clips larger and longer than those of training: latents (1, C, t, h, w) in cells, levels, fields."""
    for number in range(clips):
        video, fields, _ = onto_references(sampler.batch(FIRST_STEP + number, 1, TABLE_FRAMES, TABLE_SIZE))
        levels = Levels.at(torch.tensor([number % TABLE_LEVELS / (TABLE_LEVELS - 1)]), log_gain, log_step)
        yield network.encode(video) * levels.gain, levels, fields


def without_paths(config: TrainConfig) -> dict[str, object]:
    """The recipe as it is stored: folders of one machine mean nothing on another."""
    values = config.to_dict()
    values["data"] |= {"folders": (), "holdout": None}
    values["latents"]["image_vae"] = None
    return values
