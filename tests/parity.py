"""`python tests/parity.py FOLDER`: our networks against tensors that the authors' code made.

FOLDER holds NAME_config.json, NAME_weights.safetensors and NAME_io*.safetensors with xN → momentsN and
decodedN (whole), momentsN_tiled and decodedN_tiled (through windows and tiles of the configuration's size).
The decoder gets the mean of the stored moments. One line for every tensor; exit code 1 if one is off by more
than 2e-4.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent))  # run from a clone, installed or not

from cvvae_cli.engine.windows import decode_tensor, encode_tensor
from cvvae_cli.models.autoencoder import WindowedAutoencoder
from cvvae_cli.models.imported import architecture_of, load_strictly
from cvvae_cli.types import LatentGeometry, WindowGeometry

LIMIT = 2e-4
RESULT = re.compile(r"(moments|decoded)(\d+)(_tiled)?")


def load(folder: Path, name: str) -> tuple[WindowedAutoencoder, dict[str, Any]]:
    """The network of a set; which one it is follows from the configuration and the tensors."""
    config = json.loads((folder / f"{name}_config.json").read_text())
    tensors = {n: t.float() for n, t in load_file(folder / f"{name}_weights.safetensors").items()}
    return load_strictly(architecture_of(tensors), config, tensors).eval(), config


def windows_of(config: dict[str, Any]) -> WindowGeometry:
    tile = config["tile_spatial_size"] // 8
    return WindowGeometry(tile=tile, stride=round(tile * (1 - config["tile_overlap_ratio"])))


@torch.inference_mode()
def errors(folder: Path, name: str) -> Iterator[tuple[str, float]]:
    """Every stored result with its relative error: norm of the difference over norm."""
    network, config = load(folder, name)
    windows = windows_of(config)
    for path in sorted(folder.glob(f"{name}_io*.safetensors")):
        tensors = {n: t.float() for n, t in load_file(path).items()}
        for key, expected in tensors.items():
            match = RESULT.fullmatch(key)
            if match is None:
                continue
            kind, frames, tiled = match[1], match[2], match[3] or ""
            channels = tensors[f"moments{frames}{tiled}"].shape[1] // 2
            geometry = LatentGeometry(channels, 4, 8)
            if kind == "moments":
                x = tensors[f"x{frames}"]
                run = network.encode_moments
                found = encode_tensor(run, x, windows, geometry) if tiled else run(x)
            else:
                z = tensors[f"moments{frames}{tiled}"][:, :channels]
                found = decode_tensor(network.decode, z, windows, geometry) if tiled else network.decode(z)
            yield f"{path.stem} {key}", relative_error(found, expected)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).norm() / expected.norm())


def names_in(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix("_config.json") for path in folder.glob("*_config.json"))


def main(folder: Path) -> int:
    names = names_in(folder)
    if not names:
        print(f"{folder} holds no NAME_config.json", file=sys.stderr)
        return 1
    is_close = True
    for name in names:
        for what, error in errors(folder, name):
            print(f"{what}: {error:.2e}{'' if error <= LIMIT else '  TOO LARGE'}", flush=True)
            is_close = is_close and error <= LIMIT  # false for NaN too
    return 0 if is_close else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
