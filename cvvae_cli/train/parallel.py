"""Training in several processes, as `torchrun` starts them: each takes its places of a batch."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


def process_number() -> int:
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes(device: torch.device) -> torch.device:
    """Meet the other processes, if there are any; the device of this one."""
    if process_count() == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        # torch imports it at the first step of an optimizer, and default arguments of its functions then keep
        # the group of that time for ever: its threads would not end in `leave_processes`.
        importlib.import_module("torch.distributed.nn.functional")
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leave_processes() -> None:
    """Part from the others. The group's threads end here: one that lives at exit can abort its process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wait_for_all() -> None:
    if distributed.is_initialized():
        distributed.barrier()


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean of the gradients of all; one message for all parameters.

    A parameter that no process used keeps no gradient: which do is the same everywhere.
    """
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= process_count()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def average_figures(figures: dict[str, float]) -> dict[str, float]:
    """The mean of each figure over all processes."""
    if not distributed.is_initialized() or not figures:
        return figures
    values: Tensor = torch.tensor(list(figures.values()), dtype=torch.float64)
    if distributed.get_backend() == "nccl":
        values = values.cuda()
    distributed.all_reduce(values)
    return dict(zip(figures, (values / process_count()).tolist(), strict=True))
