"""The training loop: resumable, logged, evaluated on held-out clips."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cvvae_cli.engine.device import cpu_multiplies_bf16
from cvvae_cli.errors import ConfigError
from cvvae_cli.models.compact import COARSE, TIME, Compact, CompactConfig
from cvvae_cli.models.layers import fold
from cvvae_cli.models.registry import Weights, find_model
from cvvae_cli.train.config import ScheduleSection, Stage, TrainConfig, config_from_dict
from cvvae_cli.train.data import (
    ClipSampler,
    as_model_input,
    find_sources,
    load_video,
    principal_components,
    psnr_of_mse,
)
from cvvae_cli.train.losses import add_noise, lambda_of, rate_distortion, round_through
from cvvae_cli.train.prior import ANCHORS, LatentPrior, interpolate, logistic_bits

EVALUATION_FRAMES = 33
EVALUATION_LEVELS = (0.0, 0.5, 1.0)
CHECKPOINT = "checkpoint.safetensors"
LogLine = dict[str, Any]


class Coder(nn.Module):
    """What is trained: the autoencoder, the prior of its symbols, gains and steps of the quality levels."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        section, objective = config.model, config.objective
        self.autoencoder = Compact(CompactConfig(**vars(section))).channels_last()
        self.prior = LatentPrior(section.latent_channels)
        share = objective.lowest_lambda / objective.highest_lambda
        log_gain = 0.5 * math.log(share) * (1 - torch.linspace(0, 1, ANCHORS))  # noise falls as lambda grows
        self.log_gain = nn.Parameter(log_gain[:, None].repeat(1, section.latent_channels))
        self.log_step = nn.Parameter(-log_gain[:, None].repeat(1, section.latent_channels))
        with torch.no_grad():
            self.prior.scale_kind[0] = 0.7
            self.prior.scale_level.copy_(0.7 * self.log_gain)

    def gain(self, level: Tensor) -> Tensor:
        """(B,) in [0, 1] → symbols per unit of a latent, (B, C, 1, 1, 1)."""
        return interpolate(self.log_gain, level).exp()[:, :, None, None, None]

    def step(self, level: Tensor) -> Tensor:
        """(B,) in [0, 1] → units of a latent per symbol, (B, C, 1, 1, 1)."""
        return interpolate(self.log_step, level).exp()[:, :, None, None, None]

    def objective(
        self, video: Tensor, level: Tensor, config: TrainConfig, autocast: Any
    ) -> tuple[Tensor, Tensor]:
        """Bits per pixel and MSE (pixels in [0, 1]) of each sample of a batch."""
        with autocast:
            scaled = self.autoencoder.encode(video).float() * self.gain(level)
            rounded = round_through(scaled)
            mean, log_scale = self.prior(rounded, level)
            decoded = self.autoencoder.decode(rounded * self.step(level))
        bits = logistic_bits(add_noise(scaled), mean.float(), log_scale.float())
        return rate_distortion(video, decoded, bits, config.objective)


@dataclass
class Run:
    """State of a training run; everything that a checkpoint holds."""

    config: TrainConfig
    folder: Path
    coder: Coder
    average: Coder
    optimizer: torch.optim.AdamW
    step: int = 0


def start_run(config: TrainConfig, folder: Path, device: torch.device) -> Run:
    """A new run, or the one whose checkpoint lies in `folder`."""
    torch.manual_seed(config.seed)
    coder = Coder(config).to(device)
    average = copy.deepcopy(coder).requires_grad_(False)
    run = Run(config, folder, coder, average, make_optimizer(coder, config.schedule))
    if (folder / CHECKPOINT).exists():
        load_checkpoint(run)
    return run


def make_optimizer(coder: Coder, schedule: ScheduleSection) -> torch.optim.AdamW:
    linear = [p for n, p in coder.autoencoder.named_parameters() if n.startswith("linear")]
    network = [p for n, p in coder.autoencoder.named_parameters() if not n.startswith("linear")]
    groups = [
        {"params": network, "lr": schedule.learning_rate},
        {"params": linear, "lr": schedule.linear_learning_rate},
        {"params": list(coder.prior.parameters()), "lr": schedule.prior_learning_rate},
        {"params": [coder.log_gain, coder.log_step], "lr": schedule.level_learning_rate, "weight_decay": 0.0},
    ]
    for group in groups:
        group["base_lr"] = group["lr"]
    return torch.optim.AdamW(groups, betas=schedule.betas, weight_decay=schedule.weight_decay)


def learning_rate_factor(step: int, schedule: ScheduleSection) -> float:
    """Linear warm-up, then a cosine down to `final_share`."""
    warm = min(1.0, (step + 1) / max(1, schedule.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / schedule.steps)))
    return warm * (schedule.final_share + (1 - schedule.final_share) * cosine)


def stage_at(step: int, schedule: ScheduleSection) -> Stage:
    return next((s for s in schedule.stages if step < s.until * schedule.steps), schedule.stages[-1])


def autocast_for(device: torch.device) -> Callable[[], Any]:
    """bf16 autocast where the device is fast at it."""
    if device.type != "cpu" or cpu_multiplies_bf16():
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext


@torch.no_grad()
def initialize(run: Run, sampler: ClipSampler) -> None:
    """Start from another model's network, or from the principal components of training patches."""
    if run.config.start is not None:
        state = Weights(find_model(run.config.start)).build().state_dict()
        for coder in (run.coder, run.average):
            coder.autoencoder.load_state_dict(state)
        return
    mean, basis = principal_components(sampler, lambda x: fold(x, TIME, COARSE), batches=60)
    channels = run.config.model.latent_channels
    for coder in (run.coder, run.average):
        coder.autoencoder.start_from_principal_components(
            mean, basis[:, :channels], run.config.objective.initial_step
        )


def train(
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    *,
    on_log: Callable[[LogLine], None],
    log_every: int = 50,
    save_every: int = 250,
    evaluate_every: int = 500,
) -> Run:
    """Run to the end of the schedule; continue where a checkpoint in `folder` stopped."""
    run = start_run(config, folder, device)
    sampler = ClipSampler(find_sources(config.data.folders, config.data.exclude), config.data, config.seed)
    holdout = list(load_holdout(config))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    if run.step == 0:
        initialize(run, sampler)
    with (folder / "log.jsonl").open("a") as file:

        def log(line: LogLine) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()
            on_log(line)

        if run.step == 0:
            evaluate(run, holdout, device, log)
        began, total = time.monotonic(), Averages()
        while run.step < config.schedule.steps:
            total.add(train_step(run, sampler, device))
            if run.step % log_every == 0:
                log({"step": run.step, "seconds": round(time.monotonic() - began, 1), **total.take()})
            last = run.step == config.schedule.steps
            if last or run.step % save_every == 0:
                save_checkpoint(run)
            if last or run.step % evaluate_every == 0:
                evaluate(run, holdout, device, log)
    return run


def train_step(run: Run, sampler: ClipSampler, device: torch.device) -> LogLine:
    schedule, objective = run.config.schedule, run.config.objective
    factor = learning_rate_factor(run.step, schedule)
    for group in run.optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    stage = stage_at(run.step, schedule)
    torch.manual_seed(run.config.seed * 1_000_003 + run.step)  # noise and levels of a step are its own
    video = sampler.batch(run.step, stage.batch, stage.frames, stage.size).to(device)
    level = torch.rand(len(video)).to(device)
    rate, mse = run.coder.objective(video, level, run.config, autocast_for(device)())
    weight = lambda_of(level, objective)
    losses = (weight * 255**2 * mse + rate) * (objective.highest_lambda / weight).sqrt()
    loss = losses.mean()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.coder.parameters(), schedule.clip_norm)
    if torch.isfinite(norm):  # one bad batch must not end a run
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    update_average(run)
    return {
        "loss": loss.item(),
        "mse": mse.mean().item(),
        "bits_per_pixel": rate.mean().item(),
        "gradient_norm": norm.item(),
        "learning_rate": schedule.learning_rate * factor,
    }


@torch.no_grad()
def update_average(run: Run) -> None:
    decay = min(run.config.schedule.ema_decay, (1 + run.step) / (10 + run.step))
    for mean, value in zip(run.average.parameters(), run.coder.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


class Averages:
    """Means of what the steps since the last log line reported."""

    def __init__(self) -> None:
        self.sums: LogLine = {}
        self.count = 0

    def add(self, line: LogLine) -> None:
        self.count += 1
        for key, value in line.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def take(self) -> LogLine:
        means = {key: value / self.count for key, value in self.sums.items()}
        mse = means.pop("mse")
        self.__init__()  # type: ignore[misc]
        return {
            "psnr_db": round(psnr_of_mse(mse, 1.0), 3),
            **{k: float(f"{v:.5g}") for k, v in means.items()},
        }


def load_holdout(config: TrainConfig) -> Iterator[tuple[str, Tensor]]:
    """Held-out clips: name, video (1, 3, 1+4n, H, W)."""
    if config.data.holdout is None:
        return
    for path in find_sources((config.data.holdout,)).videos:
        yield path.name, as_model_input(load_video(path, config.data)[:EVALUATION_FRAMES].numpy())


@torch.inference_mode()
def evaluate(
    run: Run, holdout: list[tuple[str, Tensor]], device: torch.device, log: Callable[[LogLine], None]
) -> None:
    """PSNR and the prior's estimate of bits per pixel of the averaged weights, with rounded latents."""
    rows = {}
    for name, clip in holdout:
        video = clip.to(device)
        with autocast_for(device)():
            latents = run.average.autoencoder.encode(video).float()
        rows[name] = {str(level): evaluate_level(run, video, latents, level) for level in EVALUATION_LEVELS}
    if rows:
        log({"step": run.step, "holdout": rows})


def evaluate_level(run: Run, video: Tensor, latents: Tensor, level: float) -> dict[str, float]:
    coder, levels = run.average, torch.tensor([level], device=video.device)
    symbols = (latents * coder.gain(levels)).round()
    with autocast_for(video.device)():
        mean, log_scale = coder.prior(symbols, levels)
        decoded = coder.autoencoder.decode(symbols * coder.step(levels)).float().clamp(-1, 1)
    bits = logistic_bits(symbols, mean.float(), log_scale.float())
    pixels = video.shape[2] * video.shape[3] * video.shape[4]
    mse = (video - decoded).square().mean().item()
    return {
        "psnr_db": round(psnr_of_mse(mse, 2.0), 3),
        "bits_per_pixel": round(bits.sum().item() / pixels, 5),
        "first_bits_per_pixel": round(bits[:, :, 0].sum().item() / pixels, 5),
    }


def save_checkpoint(run: Run) -> None:
    """Write everything under its name, in safetensors: no pickle, and never half a file."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("coder", run.coder), ("average", run.average)):
        tensors |= {f"{prefix}.{n}": p.detach().contiguous() for n, p in module.named_parameters()}
    for name, parameter in run.coder.named_parameters():
        for key, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value.detach().contiguous()
    part = run.folder / (CHECKPOINT + ".part")
    save_file(tensors, part, {"step": str(run.step), "config": json.dumps(run.config.to_dict())})
    part.replace(run.folder / CHECKPOINT)


def load_checkpoint(run: Run) -> None:
    """Continue a run. The model must be the recipe's; schedule and objective may have changed."""
    path = run.folder / CHECKPOINT
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    saved = config_from_dict(json.loads(metadata["config"]))
    if saved.model != run.config.model:
        raise ConfigError(f"{path} is of another model", hint="train into another folder, or remove it")
    tensors = load_file(path)
    for prefix, module in (("coder", run.coder), ("average", run.average)):
        own = {n[len(prefix) + 1 :]: t for n, t in tensors.items() if n.startswith(prefix + ".")}
        module.load_state_dict(own, strict=True)
    for name, parameter in run.coder.named_parameters():
        keys = ("step", "exp_avg", "exp_avg_sq")
        state = {k: tensors[f"optimizer.{k}.{name}"] for k in keys if f"optimizer.{k}.{name}" in tensors}
        if state:
            run.optimizer.state[parameter] = {
                k: v if k == "step" else torch.empty_like(parameter).copy_(v) for k, v in state.items()
            }
    run.step = int(metadata["step"])
