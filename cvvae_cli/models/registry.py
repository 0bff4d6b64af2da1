"""The models by name. Torch loads only when one is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
from safetensors.numpy import load as load_arrays

from cvvae_cli import store
from cvvae_cli.errors import UnknownModelError, WeightsError
from cvvae_cli.models.imported import (
    ARCHITECTURES,
    RELEASES,
    Imported,
    load_strictly,
    missing,
    read_imported,
    read_manifest,
)
from cvvae_cli.types import LatentGeometry, WindowGeometry

if TYPE_CHECKING:
    from cvvae_cli.models.autoencoder import VideoAutoencoder
    from cvvae_cli.models.compact import CompactConfig

NETWORK_PREFIX = "network."
GROUPED = "prior-11"  # the coder of models that have the integers of groups of channels
PYRAMID = "prior-12"  # and of those that have integers of coarse passes
COARSE_TO_FINE = "prior-13"  # and of such of all frames
REACHING = "prior-14"  # and of those whose vectors reach farther
KEEPING = "prior-15"  # likewise; opaque detail is shown as it is


@dataclass(frozen=True)
class ModelSpec:
    """An immutable name and what it stands for. Contexts and halos are in latent frames and positions."""

    name: str
    geometry: LatentGeometry
    build: Callable[[Mapping[str, Any]], VideoAutoencoder]  # from the configuration beside the weights
    weights_file: str
    weights_sha256: str
    chunk_latents: int
    coder: str
    period: int  # latent frames after which the coder starts fresh
    encode_context: int
    decode_context: int
    encode_halo: int
    decode_halo: int
    levels: tuple[int, int] | None = None  # first and last quality level, in tenths
    default_level: int | None = None
    scaling_factor: float = 1.0  # a diffusion model sees (latents - shift_factor) * scaling_factor
    shift_factor: float = 0.0
    windows: WindowGeometry | None = None  # of a model whose result depends on its window
    decode_ahead: int = 0  # latent frames after those wanted that reach into their decoding
    width: int = 0  # channels at the size of the picture, of a windowed model
    imported: Imported | None = None  # weights that a user brought
    base: str | None = None  # a model whose tensors this one has too, beside its own
    fills_borders: bool = False  # of a model with a refiner: groups take what they lost from those beside
    borrows: bool = False  # of a file that is read: frames may be those of the group beside (flow/borrow.py)

    @property
    def keeps_opaque(self) -> bool:
        """Whether opaque detail is shown as its files say (engine/borders.py, engine/joints.py)."""
        return self.coder == KEEPING


def compact_config(values: Mapping[str, Any]) -> CompactConfig:
    from cvvae_cli.models.compact import CompactConfig

    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return CompactConfig(**plain)


def build_compact(config: Mapping[str, Any]) -> VideoAutoencoder:
    from cvvae_cli.models.compact import Compact

    return Compact(compact_config(config)).channels_last()


def build_linear(config: Mapping[str, Any]) -> VideoAutoencoder:
    from cvvae_cli.models.linear import Linear

    return Linear(**config)


def compact_spec(name: str, sha256: str, **others: Any) -> ModelSpec:
    """A `compact` of the default widths and depths."""
    return ModelSpec(
        name=name,
        geometry=LatentGeometry(channels=32, frames=4, pixels=8),
        build=build_compact,
        weights_file=f"{name}.safetensors",
        weights_sha256=sha256,
        chunk_latents=4,
        encode_context=6,
        decode_context=6,
        encode_halo=10,
        decode_halo=12,
        **others,
    )


def codec_spec(
    name: str,
    sha256: str,
    coder: str,
    default_level: int,
    scaling_factor: float = 1.0,
    base: str | None = None,
) -> ModelSpec:
    """A `compact` with quality levels and a prior."""
    return compact_spec(
        name,
        sha256,
        coder=coder,
        period=12,
        levels=(10, 100),
        default_level=default_level,
        scaling_factor=scaling_factor,
        base=base,
    )


def latents_spec(name: str, sha256: str) -> ModelSpec:
    """A `compact` whose latents are kept as they are."""
    return compact_spec(name, sha256, coder="exact-bf16", period=4)


COMPACT_9 = codec_spec(
    "compact-9",
    "8464a57d03ed8915da0225fd17fb991345ab01cc605511eca54cc30eee9950a2",
    "prior-7",
    40,
    0.34,
    base="compact-8",
)

COMPACT_11 = replace(
    COMPACT_9,
    name="compact-11",
    weights_file="compact-11.safetensors",
    weights_sha256="2a7b0fb088ff37125e215350387bedd9f06aacb66ea459b3a1e4b0e2b7e4f8e4",
    fills_borders=True,
)

COMPACT_12 = replace(
    COMPACT_11,
    name="compact-12",
    coder="prior-10",
    weights_file="compact-12.safetensors",
    weights_sha256="e4805ece8671e39d734143adf8ed235bf686b6ceffe284dcc23d298af3669e79",
)

# Default levels take at most 0.04 bits per pixel on average (`make evaluate`); a scaling factor is one over
# the deviation of latents on training clips. The image VAE of FLUX.2 understands those of compact-flux2.
MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        compact_spec(
            "compact-1",
            "2d685672da9ab47b35ba500d8366d0ed4bea8e762c042b70fb7cb71469840de7",
            coder="context-1",
            period=32,
        ),
        codec_spec(
            "compact-2",
            "8ff6903eb3ce2c4663c00bf39fc8acc495c30928be3fdaa3d9c7190e309d7ec3",
            "prior-1",
            30,
            0.32,
        ),
        codec_spec(
            "compact-3",
            "30369877951c0fd732a841f92c0f706c505417aeb435091eba049add97a7e23f",
            "prior-1",
            35,
            0.34,
        ),
        codec_spec(
            "compact-4",
            "f8bcf7bbdca4d3c350f53a09e6df979133fe8e6e627afd84af18b38a0f8e6ecb",
            "prior-2",
            40,
            0.34,
        ),
        codec_spec(
            "compact-5",
            "0bcb7be722fdd11ddcd2e96cae840efc09532fd0feaac8036f37b65bdf549f64",
            "prior-2",
            40,
            0.34,
        ),
        codec_spec(
            "compact-6",
            "f2b74a847d963be41a4aecf1d63ca09c0bca1c071d73f196b38c806e4f02d046",
            "prior-3",
            40,
            0.34,
        ),
        codec_spec(
            "compact-7",
            "cd92118d04f2460bf39d6cceba1e859e2e50ce66ae16272b8781e21b35cbe81c",
            "prior-4",
            40,
            0.34,
        ),
        codec_spec(
            "compact-8",
            "6d09a9af99347753b66fbfaf4800c109d87292f78a46b89e9ce3f54ccfd7561e",
            "prior-7",
            40,
            0.34,
        ),
        COMPACT_9,
        replace(COMPACT_9, name="compact-10", fills_borders=True),
        COMPACT_11,
        COMPACT_12,
        replace(
            COMPACT_12,
            name="compact-13",
            weights_file="compact-13.safetensors",
            weights_sha256="b3ac130196045dc5a511d6341f55c09dae29672d0a69d2136c48b32b796cb428",
        ),
        replace(
            COMPACT_12,
            name="compact-14",
            coder=GROUPED,
            weights_file="compact-14.safetensors",
            weights_sha256="762adf5c0284b725ce6e221606497d27ff5bdbe1830b519102e45fc7f5bc4dcc",
        ),
        replace(
            COMPACT_12,
            name="compact-15",
            coder=PYRAMID,
            weights_file="compact-15.safetensors",
            weights_sha256="c556e18f2cd52aab8b519623027c240458d112dc38341a917bfbbfd526cba015",
        ),
        replace(
            COMPACT_12,
            name="compact-16",
            coder=COARSE_TO_FINE,
            weights_file="compact-16.safetensors",
            weights_sha256="7ce7f30d7ac562d16f8743cb6a3b155dac894ab9ac0d2ca7ab6f7d69725d8a5a",
        ),
        replace(
            COMPACT_12,
            name="compact-17",
            coder=REACHING,
            weights_file="compact-17.safetensors",
            weights_sha256="7d0a191a8562a43544cb5429f91b3ddff78580e9f1242fa2b43ed22da9eb4c5c",
        ),
        replace(
            COMPACT_12,
            name="compact-18",
            coder=KEEPING,
            weights_file="compact-18.safetensors",
            weights_sha256="ef66eae8c87022fc699c04f860452432bf3b6f1d3cf0cb8b4aef978bd8d37145",
        ),
        latents_spec("compact-flux2-1", "a557278b80176c97e9af168fc271aa2f44c7c62faa73526b7a759ba9e5977d18"),
        latents_spec("compact-flux2-2", "4aadbecb314f9a3f2b3f97a71ad049863ab68cbe48fe50f8c7a41f77afc4cc5c"),
        latents_spec("compact-flux2-3", "578f4fc0ae58abdd1aff4f5c622d77b68a96c2ffb61836d9d71ba45a17a41252"),
        ModelSpec(
            name="linear-1",
            geometry=LatentGeometry(channels=32, frames=4, pixels=8),
            build=build_linear,
            weights_file="linear-1.safetensors",
            weights_sha256="28751bb6aedd40dffe4246c5c5174b6e521cd04902a01908530130a0c9769814",
            chunk_latents=4,
            coder="context-1",
            period=32,
            encode_context=0,
            decode_context=0,
            encode_halo=0,
            decode_halo=0,
            levels=(10, 100),
            default_level=50,
        ),
    )
}
ALIASES = {"compact": "compact-18", "compact-flux2": "compact-flux2-3"}


def find_model(name: str) -> ModelSpec:
    """The model of a name or alias. Raises UnknownModelError."""
    spec = MODELS.get(ALIASES.get(name, name))
    if spec is not None:
        return spec
    manifest = read_manifest()
    if name in manifest:
        return imported_spec(manifest[name])
    if name in RELEASES:
        raise missing(name)
    known = ", ".join([*ALIASES, *MODELS, *RELEASES, *(n for n in manifest if n not in RELEASES)])
    raise UnknownModelError(f"no model is called {name!r}", hint=f"known models: {known}")


def find_model_or_file(name: str) -> ModelSpec:
    """The model of a name, or of a file that `cvvae train --export` wrote.

    Raises UnknownModelError or WeightsError.
    """
    path = Path(name)
    if path.suffix != ".safetensors":
        return find_model(name)
    if not path.is_file():
        raise UnknownModelError(f"there is no file {name}", hint="`cvvae train --export` writes such")
    return spec_of_file(path)


def spec_of_file(path: Path) -> ModelSpec:
    """A `compact` that a user trained: what its file says of itself. .cvl files cannot name it."""
    data = path.read_bytes()
    try:
        with safetensors.safe_open(path, "np") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
        config = compact_config(json.loads(metadata["config"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise WeightsError(f"{path} is no export of `cvvae train`") from None
    name, sha256 = metadata.get("model", path.stem), hashlib.sha256(data).hexdigest()
    base = metadata.get("base")
    if base is not None:
        spec = find_model(base)
        return replace(
            spec,
            name=name,
            coder=coder_of_prior(names) or ("prior-10" if config.joiner_width else spec.coder),
            weights_file=str(path.resolve()),
            weights_sha256=sha256,
            base=base,
            fills_borders=True,
        )
    if "quantizer.log_gain" in names:
        unnamed = "prior-2" if "motion.picture" in names else "prior-1"  # of files before prior-3
        spec = codec_spec(name, sha256, metadata.get("coder", unnamed), 30)
    else:
        spec = latents_spec(name, sha256)
    return replace(
        spec,
        geometry=LatentGeometry(config.latent_channels, frames=4, pixels=8),
        weights_file=str(path.resolve()),
        encode_context=config.encode_context,
        decode_context=config.decode_context,
        encode_halo=config.encode_halo,
        decode_halo=config.decode_halo,
    )


def coder_of_prior(names: Collection[str]) -> str | None:
    """The coder that the integers of a prior, by the names of their arrays, are for; None: of its model."""
    if "prior.reach" in names:
        return KEEPING
    if "prior.later" in names:
        return COARSE_TO_FINE
    if "prior.strides" in names:
        return PYRAMID
    return GROUPED if "prior.cuts" in names else None


def imported_spec(entry: Imported) -> ModelSpec:
    """What weights that a user brought stand for: one of the paper's networks, its latents kept exactly."""
    architecture = ARCHITECTURES[entry.architecture]
    windows = WindowGeometry()
    scaling, shift = architecture.scaling
    return ModelSpec(
        name=entry.name,
        geometry=LatentGeometry(architecture.latent_channels(entry.config), frames=4, pixels=8),
        build=architecture.build,
        weights_file=str(entry.path),
        weights_sha256=entry.source_sha256,
        chunk_latents=windows.frames,
        coder="exact-bf16",
        period=windows.frames,
        encode_context=2 * windows.frames,
        decode_context=2 * windows.frames,
        encode_halo=0,
        decode_halo=0,
        scaling_factor=scaling,
        shift_factor=shift,
        windows=windows,
        decode_ahead=2 * windows.frames,
        width=architecture.width(entry.config),
        imported=entry,
    )


class Weights:
    """The tensors of a model, and of the one it is based on, read once; their bytes are checked against the
    hashes that the models name."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.base = None if spec.base is None else Weights(find_model(spec.base))
        self.data = read_weights(spec)
        self.sha256 = spec.weights_sha256

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        inherited = {} if self.base is None else self.base.arrays
        try:
            return inherited | load_arrays(self.data)
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{self.spec.weights_file} is damaged: {error}") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration stored beside the tensors."""
        size = int.from_bytes(self.data[:8], "little")
        metadata = json.loads(self.data[8 : 8 + size]).get("__metadata__", {})
        return dict(json.loads(metadata["config"]))

    def gain_and_step(self, level: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        """float32 (C,) each: symbols per unit of a latent at a quality level, and units per symbol.

        A model with one level has no step of its own: None, one over the gain.
        """
        if level is None:
            return self.arrays["quantizer.gain"], None
        first, last = self.spec.levels or (level, level + 1)
        place = (level - first) / (last - first)
        gain, step = (
            interpolated(self.arrays[f"quantizer.{name}"], place) for name in ("log_gain", "log_step")
        )
        return np.exp(gain).astype(np.float32), np.exp(step).astype(np.float32)

    def build(self) -> VideoAutoencoder:
        """The network with these weights, in fp32, ready to run."""
        import torch

        if self.spec.imported is not None:
            return self._build_imported(self.spec.imported)
        network = self.spec.build(self.config)
        state = {
            name.removeprefix(NETWORK_PREFIX): torch.from_numpy(array.astype(np.float32))
            for name, array in self.arrays.items()
            if name.startswith(NETWORK_PREFIX)
        }
        network.load_state_dict(state, strict=True)
        return network.eval().requires_grad_(False)

    def _build_imported(self, entry: Imported) -> VideoAutoencoder:
        from safetensors.torch import load

        tensors = {name: tensor.float() for name, tensor in load(self.data).items()}
        network = load_strictly(ARCHITECTURES[entry.architecture], entry.config, tensors)
        return network.eval().requires_grad_(False)


def interpolated(anchors: np.ndarray, place: float) -> np.ndarray:
    """Between the rows of anchors (A, C), at a place in [0, 1]."""
    x = min(max(place, 0.0), 1.0) * (len(anchors) - 1)
    low = min(int(x), len(anchors) - 2)
    mixed: np.ndarray = anchors[low] * (1 - (x - low)) + anchors[low + 1] * (x - low)
    return mixed


def read_weights(spec: ModelSpec) -> bytes:
    """The bytes of a model's weights file. Raises WeightsError if it is missing or not the right one."""
    if spec.imported is not None:
        return read_imported(spec.imported)
    path = store.shipped(spec.weights_file)
    if path is None:
        raise WeightsError(f"the weights of {spec.name} are missing", hint="install cvvae again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != spec.weights_sha256:
        raise WeightsError(
            f"{path} is damaged: its SHA-256 is not the one of {spec.name}", hint="install cvvae again"
        )
    return data
