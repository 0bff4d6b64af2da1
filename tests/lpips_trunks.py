"""Random trunks and frames that the golden LPIPS values were made with."""

from __future__ import annotations

import numpy as np
from torch import Tensor, from_numpy

from cvvae_cli.metrics.lpips import FEATURES


def random_trunk(net: str) -> dict[str, Tensor]:
    """Weights under torchvision's names; numpy's generator gives the same numbers everywhere."""
    rng = np.random.default_rng(17)
    trunk = {}
    for name, parameter in FEATURES[net][0]().named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        values = rng.normal(0, (2 / fan_in) ** 0.5 if parameter.ndim > 1 else 0.05, tuple(parameter.shape))
        trunk[f"features.{name}"] = from_numpy(values.astype(np.float32))
    return trunk


def random_frames() -> tuple[np.ndarray, np.ndarray]:
    """A source and what a poor codec makes of it, uint8 (2, 70, 90, 3)."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:70, 0:90]
    waves = np.stack([np.sin(x / 7 + c) + np.cos(y / (5 + c)) for c in range(3)], -1) * 60 + 128
    source = np.clip(np.stack([waves, waves[::-1]]) + rng.normal(0, 5, (2, 70, 90, 3)), 0, 255)
    decoded = np.clip(np.round(source / 24) * 24 + rng.normal(0, 8, source.shape), 0, 255)
    return source.astype(np.uint8), decoded.astype(np.uint8)
