"""What the training loop trains: an autoencoder with all that its objective adds to it."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from cvvae_cli.engine.device import cpu_multiplies_bf16
from cvvae_cli.models.autoencoder import VideoAutoencoder
from cvvae_cli.train.config import Stage, TrainConfig
from cvvae_cli.train.data import ClipSampler, SampleNoise

Figures = dict[str, float]


class Trainee(nn.Module, ABC):
    """An objective and its parameters. Frozen networks that it needs are kept out of the module's tree."""

    autoencoder: VideoAutoencoder
    config: TrainConfig

    def __init__(self) -> None:
        super().__init__()
        self._frozen: dict[str, Any] = {}  # kept out of the tree: neither trained nor saved

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rates, as optimizers take them."""

    @abstractmethod
    def start(self, sampler: ClipSampler) -> None:
        """Set the weights that a new run begins with."""

    def batch(self, sampler: ClipSampler, step: int, places: range, stage: Stage) -> Tensor:
        """What `loss` is given for some places of a step's batch."""
        return sampler.batch(step, places, stage.frames, stage.size)

    @abstractmethod
    def loss(self, video: Tensor, noise: SampleNoise, step: int) -> tuple[Tensor, Figures]:
        """The mean loss of a batch (B, 3, T, H, W) in [-1, 1], and figures for the log."""

    @abstractmethod
    def figures(self, video: Tensor) -> dict[str, Figures]:
        """What is measured on a held-out clip (1, 3, T, H, W): figures of each of a few settings."""

    def critic_loss(self) -> Tensor | None:
        """The loss of the critic on the batch that `loss` saw last; None where there is none (yet)."""
        return None

    def copy(self) -> Self:
        """What the average of the weights is kept in; it shares what is frozen."""
        return copy.deepcopy(self, {id(self._frozen): self._frozen}).requires_grad_(False)

    def clipped_parameters(self) -> list[list[nn.Parameter]]:
        """Parameters whose gradients are clipped together."""
        return [list(self.parameters())]


def autocast_for(device: torch.device) -> Any:
    """A context of bf16 autocast where the device is fast at it."""
    if device.type != "cpu" or cpu_multiplies_bf16():
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
