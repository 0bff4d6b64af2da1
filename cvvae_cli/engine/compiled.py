"""A windowed network with its layers fused by torch.compile; what was compiled is kept between runs."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from cvvae_cli.errors import ConfigError
from cvvae_cli.models.autoencoder import WindowedAutoencoder
from cvvae_cli.store import cache_folder

COMPILERS = ("g++", "clang++", "cl")
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def require_compiler(device: torch.device) -> None:
    """Raise ConfigError where a CPU's code could not be compiled."""
    chosen = os.environ.get("CXX")
    if device.type == "cpu" and not any(shutil.which(name) for name in (chosen, *COMPILERS) if name):
        raise ConfigError("--compile needs a C++ compiler for the CPU", hint="install g++, or leave it out")


def compiled(network: WindowedAutoencoder) -> WindowedAutoencoder:
    """The same network; encoder and decoder compile when first called, once for each shape."""
    os.environ.setdefault(CACHE, str(cache_folder() / "compiled"))
    halves: Any = network
    halves.encoder = torch.compile(network.encoder, dynamic=False)
    halves.decoder = torch.compile(network.decoder, dynamic=False)
    return network
