"""Checkpoints of others as plain tensors: safetensors, or PyTorch's files read without executing anything."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cvvae_cli.errors import WeightsError

NESTED = ("state_dict", "model", "module", "ema")  # where trainers put the tensors


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """All tensors by name, on the CPU. Raises WeightsError for what is no such file."""
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how it was pickled
            found = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"{path} cannot be read: {error}", hint="copy or fetch it again") from None
    except Exception as error:  # an unpickler raises anything
        raise WeightsError(
            f"{path} is no checkpoint of tensors alone ({type(error).__name__})",
            hint="what else it holds is never executed; save the state dict by itself",
        ) from None
    while isinstance(found, dict) and (inner := next((n for n in NESTED if n in found), None)):
        found = found[inner]
    tensors = {n: t for n, t in found.items() if isinstance(t, Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    return tensors
