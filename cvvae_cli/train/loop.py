"""The training loop: resumable, logged, evaluated on held-out clips."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cvvae_cli.errors import ConfigError
from cvvae_cli.train.coder import Coder
from cvvae_cli.train.config import ScheduleSection, Stage, TrainConfig, config_from_dict
from cvvae_cli.train.data import (
    UNREADABLE,
    ClipSampler,
    SampleNoise,
    as_model_input,
    find_sources,
    load_video,
    psnr_of_mse,
)
from cvvae_cli.train.joiner import JoinerTrainee
from cvvae_cli.train.latents import LatentTrainee
from cvvae_cli.train.parallel import (
    average_figures,
    average_gradients,
    join_processes,
    leave_processes,
    process_number,
    wait_for_all,
)
from cvvae_cli.train.refiner import RefinerTrainee
from cvvae_cli.train.symbols import PriorTrainee
from cvvae_cli.train.trainee import Figures, Trainee

EVALUATION_FRAMES = 33
CHECKPOINT = "checkpoint.safetensors"
# what a run cannot change
OF_THE_MODEL = ("task", "architecture", "network", "model", "refiner", "joiner", "prior")
TRAINED = "coder"  # the prefix of what is trained, from when a coder was all there was
LogLine = dict[str, Any]


@dataclass
class Run:
    """State of a training run; everything that a checkpoint holds."""

    config: TrainConfig
    folder: Path
    trainee: Trainee
    average: Trainee
    optimizer: torch.optim.AdamW
    step: int = 0


def start_run(config: TrainConfig, folder: Path, device: torch.device) -> Run:
    """A new run, or the one whose checkpoint lies in `folder`."""
    torch.manual_seed(config.seed)
    trainee = build_trainee(config, device).to(device)
    average = trainee.copy()
    run = Run(config, folder, trainee, average, make_optimizer(trainee, config.schedule))
    if (folder / CHECKPOINT).exists():
        load_checkpoint(run)
    return run


def build_trainee(config: TrainConfig, device: torch.device) -> Trainee:
    if config.task == "codec":
        return Coder(config)
    if config.task == "refiner":
        return RefinerTrainee(config, device)
    if config.task == "joiner":
        return JoinerTrainee(config, device)
    if config.task == "prior":
        return PriorTrainee(config, device)
    return LatentTrainee(config, device)


def make_optimizer(trainee: Trainee, schedule: ScheduleSection) -> torch.optim.AdamW:
    groups = trainee.parameter_groups()
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


def initialize(run: Run, sampler: ClipSampler) -> None:
    """The weights of step 0: the same in the average."""
    run.trainee.start(sampler)
    run.average.load_state_dict(run.trainee.state_dict())


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
    """Run to the end of the schedule; continue where a checkpoint in `folder` stopped.

    Of several processes (`torchrun`) the first evaluates and writes.
    """
    device, is_first = join_processes(device), process_number() == 0
    run = start_run(config, folder, device)
    sampler = ClipSampler(find_sources(config.data.folders, config.data.exclude), config.data, config.seed)
    holdout = list(load_holdout(config)) if is_first else []
    if run.step == 0:
        initialize(run, sampler)
    wait_for_all()  # no process may find the first one's checkpoint of this start
    if is_first:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    with (folder / "log.jsonl" if is_first else Path(os.devnull)).open("a") as file:

        def log(line: LogLine) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()
            if is_first:
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
                if is_first:
                    save_checkpoint(run)
                wait_for_all()
            if last or run.step % evaluate_every == 0:
                evaluate(run, holdout, device, log)
    leave_processes()
    return run


def train_step(run: Run, sampler: ClipSampler, device: torch.device) -> LogLine:
    """One step on this process's share of the samples; all processes end with the same parameters."""
    schedule, trainee = run.config.schedule, run.trainee
    factor = learning_rate_factor(run.step, schedule)
    for group in run.optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    stage = stage_at(run.step, schedule)
    totals: Figures = {}
    for piece in range(schedule.accumulate):
        first = (process_number() * schedule.accumulate + piece) * stage.batch
        places = range(first, first + stage.batch)
        video = trainee.batch(sampler, run.step, places, stage).to(device)
        loss, figures = trainee.loss(video, SampleNoise(run.config.seed, run.step, places, device), run.step)
        (loss / schedule.accumulate).backward()
        critic_loss = trainee.critic_loss()
        if critic_loss is not None:
            (critic_loss / schedule.accumulate).backward()
            figures["critic"] = critic_loss.item()
        for name, value in {"loss": loss.item(), **figures}.items():
            totals[name] = totals.get(name, 0.0) + value / schedule.accumulate
    average_gradients(trainee.parameters())
    norms = [nn.utils.clip_grad_norm_(part, schedule.clip_norm) for part in trainee.clipped_parameters()]
    if all(torch.isfinite(norm) for norm in norms):  # one bad batch must not end a run
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    update_average(run)
    return {
        **average_figures(totals),
        "gradient_norm": norms[0].item(),
        "learning_rate": schedule.learning_rate * factor,
    }


@torch.no_grad()
def update_average(run: Run) -> None:
    decay = min(run.config.schedule.ema_decay, (1 + run.step) / (10 + run.step))
    for mean, value in zip(run.average.parameters(), run.trainee.parameters(), strict=True):
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
        mse = means.pop("mse", None)
        self.__init__()  # type: ignore[misc]
        return {
            **({} if mse is None else {"psnr_db": round(psnr_of_mse(mse, 1.0), 3)}),
            **{k: float(f"{v:.5g}") for k, v in means.items()},
        }


def load_holdout(config: TrainConfig) -> Iterator[tuple[str, Tensor]]:
    """Held-out clips: name, video (1, 3, 1+4n, H, W)."""
    if config.data.holdout is None:
        return
    for path in find_sources((config.data.holdout,)).videos:
        try:
            video = load_video(path, config.data)[:EVALUATION_FRAMES]
        except UNREADABLE:
            raise ConfigError(
                f"{path} cannot be read", hint="figures are taken on held-out clips: take it out of them"
            ) from None
        yield path.name, as_model_input(video.numpy())


@torch.inference_mode()
def evaluate(
    run: Run, holdout: list[tuple[str, Tensor]], device: torch.device, log: Callable[[LogLine], None]
) -> None:
    """What the averaged weights reach on held-out clips."""
    rows = {name: run.average.figures(clip.to(device)) for name, clip in holdout}
    if rows:
        log({"step": run.step, "holdout": rows})


def save_checkpoint(run: Run) -> None:
    """Write everything under its name, in safetensors: no pickle, and never half a file."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in ((TRAINED, run.trainee), ("average", run.average)):
        tensors |= {f"{prefix}.{n}": p.detach().contiguous() for n, p in module.named_parameters()}
    for name, parameter in run.trainee.named_parameters():
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
    if any(getattr(saved, key) != getattr(run.config, key) for key in OF_THE_MODEL):
        raise ConfigError(f"{path} is of another model", hint="train into another folder, or remove it")
    tensors = load_file(path)
    for prefix, module in ((TRAINED, run.trainee), ("average", run.average)):
        own = {n[len(prefix) + 1 :]: t for n, t in tensors.items() if n.startswith(prefix + ".")}
        module.load_state_dict(own, strict=True)
    for name, parameter in run.trainee.named_parameters():
        keys = ("step", "exp_avg", "exp_avg_sq")
        state = {k: tensors[f"optimizer.{k}.{name}"] for k in keys if f"optimizer.{k}.{name}" in tensors}
        if state:
            run.optimizer.state[parameter] = {
                k: v if k == "step" else torch.empty_like(parameter).copy_(v) for k, v in state.items()
            }
    run.step = int(metadata["step"])
