"""What figures depend on beside the code: machine and versions."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from cvvae_cli import __version__
from cvvae_cli.engine.device import Placement
from cvvae_cli.metrics import METRICS
from cvvae_cli.metrics.lpips import TRUNKS, trunk_hash

PACKAGES = ("torch", "av", "numpy", "scipy")
PSNR_AVERAGING = {"psnr_db": "mean over frames", "psnr_db_pooled": "from the mean error"}
LPIPS_NETS = {"lpips": "alex", "lpips_vgg": "vgg"}


def describe(placement: Placement, metrics: tuple[str, ...], lpips_weights: Path | None) -> dict[str, Any]:
    """Machine, versions, and how metrics are taken, for the protocol of a bench."""
    nets = {name: net for name, net in LPIPS_NETS.items() if name in metrics}
    return {
        "metric_versions": {name: METRICS[name].version for name in metrics},
        "psnr_averaging": PSNR_AVERAGING,
        "lpips": {
            net: {"trunk": TRUNKS[net], "sha256": trunk_hash(net, lpips_weights)} for net in nets.values()
        }
        or None,
        "device": str(placement.device),
        "dtype": placement.dtype_name,
        "machine": machine_name(placement.device),
        "threads": torch.get_num_threads(),
        "versions": {
            "cvvae": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def machine_name(device: torch.device) -> str:
    """The GPU, or the processor where it says its name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
