"""Models whose weights a user brings: the paper's networks, as pulled or imported into the weights folder.

Each is a file of safetensors with its configuration inside, and a line of manifest.json with the hashes. The
hash that counts in .cvl files is that of the source checkpoint, the same for copies in fp16, bf16 and fp32.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvvae_cli.download import hash_of
from cvvae_cli.errors import UnknownModelError, WeightsError
from cvvae_cli.store import user_weights_folder

if TYPE_CHECKING:
    from torch import Tensor

    from cvvae_cli.models.autoencoder import WindowedAutoencoder

MANIFEST = "manifest.json"
DTYPES = ("fp16", "bf16", "fp32")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Architecture:
    """A kind of network: how it is built, and how its configuration can be read off its tensors."""

    name: str
    marker: str  # a tensor that no other kind has
    build: Callable[[Mapping[str, Any]], WindowedAutoencoder]
    config_of: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    width: Callable[[Mapping[str, Any]], int]  # channels at the size of the picture
    latent_channels: Callable[[Mapping[str, Any]], int]
    scaling: tuple[float, float]  # what diffusion models see: (latents - shift) * factor


def build_sd21(config: Mapping[str, Any]) -> WindowedAutoencoder:
    from cvvae_cli.models.cvvae_sd21 import CvVaeSd21, Sd21Config

    return CvVaeSd21(Sd21Config.from_dict(config))


def sd21_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    base = tensors["encoder.conv_in.weight"].shape[0]
    levels = [tensors[f"encoder.down.{n}.block.0.conv1.weight"].shape[0] // base for n in range(4)]
    return {"ch": base, "ch_mult": levels, "z_channels": tensors["decoder.conv_in.weight"].shape[1]}


def build_sd3(config: Mapping[str, Any]) -> WindowedAutoencoder:
    from cvvae_cli.models.cvvae_sd3 import CvVaeSd3, Sd3Config

    return CvVaeSd3(Sd3Config.from_dict(config))


def sd3_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    widths = [tensors[f"encoder.down_blocks.{n}.resnets.0.conv1.weight"].shape[0] for n in range(4)]
    return {"block_out_channels": widths, "out_channels": tensors["decoder.conv_in.weight"].shape[1]}


ARCHITECTURES = {
    "cvvae-sd21": Architecture(
        "cvvae-sd21",
        "encoder.down.0.block.0.norm1.weight",
        build_sd21,
        sd21_config,
        lambda config: int(config["ch"]),
        lambda config: int(config["z_channels"]),
        (0.18215, 0.0),
    ),
    "cvvae-sd3": Architecture(
        "cvvae-sd3",
        "encoder.down_blocks.0.resnets.0.norm1.weight",
        build_sd3,
        sd3_config,
        lambda config: int(config["block_out_channels"][0]),
        lambda config: int(config["out_channels"]),
        (1.5305, 0.0609),
    ),
}
RELEASES = {  # name → repository and folder of the authors' checkpoint, in diffusers' layout
    "cvvae-sd21": ("AILab-CVC/CV-VAE", "vae3d"),
    "cvvae-sd21-v1.1": ("AILab-CVC/CV-VAE", "vae3d_v1-1"),
    "cvvae-sd3": ("AILab-CVC/CV-VAE", "vae3d_sd3"),
}


@dataclass(frozen=True)
class Imported:
    """A line of the manifest."""

    name: str
    architecture: str
    file: str
    config: dict[str, Any]
    dtype: str
    source_sha256: str  # of the checkpoint it was made from: what .cvl files name
    file_sha256: str

    @property
    def path(self) -> Path:
        return user_weights_folder() / self.file


def read_manifest() -> dict[str, Imported]:
    """Name → what was imported. Raises WeightsError for a manifest that is damaged."""
    path = user_weights_folder() / MANIFEST
    if not path.is_file():
        return {}
    try:
        return {name: Imported(name=name, **entry) for name, entry in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError):
        raise WeightsError(f"{path} is damaged", hint="remove it, and import the weights again") from None


def write_manifest(entries: Mapping[str, Imported]) -> None:
    folder = user_weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        name: {key: value for key, value in vars(entry).items() if key != "name"}
        for name, entry in sorted(entries.items())
    }
    part = folder / (MANIFEST + ".part")
    part.write_text(json.dumps(values, indent=1) + "\n")
    part.replace(folder / MANIFEST)


def missing(name: str) -> UnknownModelError:
    """The error for a release that is not there yet, with the command that gets it."""
    return UnknownModelError(
        f"the weights of {name} are not on this machine",
        hint=f"run `cvvae weights pull {name}`, or `cvvae weights import PATH --as {name}`",
    )


def read_imported(entry: Imported) -> bytes:
    """The file's bytes, checked against the hash noted at import. Raises WeightsError."""
    try:
        data = entry.path.read_bytes()
    except OSError:
        raise missing(entry.name) from None
    if hashlib.sha256(data).hexdigest() != entry.file_sha256:
        raise WeightsError(
            f"{entry.path} is damaged: its SHA-256 is not the one noted at import",
            hint=f"import or pull {entry.name} again",
        )
    return data


def architecture_of(tensors: Mapping[str, Tensor]) -> Architecture:
    """The kind of network that a state dict belongs to. Raises WeightsError for an unknown one."""
    for architecture in ARCHITECTURES.values():
        if architecture.marker in tensors:
            return architecture
    known = ", ".join(ARCHITECTURES)
    raise WeightsError("these tensors belong to no network that is known here", hint=f"known: {known}")


def load_strictly(
    architecture: Architecture, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> WindowedAutoencoder:
    """A network with these tensors. Raises WeightsError that names what is missing, too many or misshapen."""
    network = architecture.build(config)
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is not part of it" for name in tensors if name not in own]
    problems += [
        f"{name} is {list(tensors[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise WeightsError(f"the weights do not fit {architecture.name}: {problems[0]}{more}")
    network.load_state_dict(dict(tensors), strict=True)
    return network


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of encoder and decoder, whatever wrapped their names; others are left out."""
    starts = {name.index("encoder.conv_in.") for name in tensors if "encoder.conv_in." in name}
    cut = min(starts, default=0)
    return {n[cut:]: t for n, t in tensors.items() if n[cut:].startswith(("encoder.", "decoder."))}


def import_weights(source: Path, name: str, *, dtype: str = "fp16", force: bool = False) -> Imported:
    """Convert a checkpoint into the weights folder under a name, and note its hashes. Raises WeightsError."""
    import torch
    from safetensors.torch import save

    from cvvae_cli.checkpoint import read_checkpoint

    if not NAME.fullmatch(name):
        raise WeightsError(f"{name!r} is no name for weights", hint="use small letters, digits, - and .")
    if dtype not in DTYPES:
        raise WeightsError(f"weights cannot be kept as {dtype!r}", hint=f"use {', '.join(DTYPES)}")
    entries = read_manifest()
    if name in entries and not force:
        raise WeightsError(f"{name} is imported already", hint="pass --force to replace it")
    tensors = without_prefix(read_checkpoint(source))
    architecture = architecture_of(tensors)
    config = architecture.config_of(tensors)
    load_strictly(architecture, config, tensors)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    kept = {n: t.to(kind).contiguous() for n, t in tensors.items()}
    if dtype == "fp16" and not all(bool(torch.isfinite(t).all()) for t in kept.values()):
        raise WeightsError("some weights are too large for fp16", hint="pass --dtype bf16 or fp32")
    data = save(kept, {"config": json.dumps(config), "architecture": architecture.name})
    entry = Imported(
        name=name,
        architecture=architecture.name,
        file=f"{name}.safetensors",
        config=config,
        dtype=dtype,
        source_sha256=hash_of(source),
        file_sha256=hashlib.sha256(data).hexdigest(),
    )
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    part = entry.path.with_name(entry.path.name + ".part")
    part.write_bytes(data)
    part.replace(entry.path)
    write_manifest(entries | {name: entry})
    return entry
