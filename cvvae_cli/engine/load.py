"""One call from a model's name to a running engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cvvae_cli.engine.base import BaseEngine, EngineOptions
from cvvae_cli.engine.device import Placement, choose_placement
from cvvae_cli.engine.stream import Engine
from cvvae_cli.engine.windows import WindowEngine, geometry_for
from cvvae_cli.errors import ConfigError
from cvvae_cli.models.autoencoder import VideoAutoencoder
from cvvae_cli.models.registry import ModelSpec, Weights, find_model


def make_engine(
    spec: ModelSpec,
    build: Callable[[], VideoAutoencoder],
    placement: Placement,
    options: EngineOptions | None = None,
) -> BaseEngine:
    """The engine of a model's kind. Raises ConfigError for options that it has no use for."""
    if spec.windows is None and options is not None and options.is_compiled:
        raise ConfigError(
            f"{spec.name} is convolutions and little else: compiling gains nothing",
            hint="leave --compile out",
        )
    kind = Engine if spec.windows is None else WindowEngine
    return kind(spec, build, placement, options)


def with_geometry(spec: ModelSpec, options: EngineOptions) -> ModelSpec:
    """The spec with the windows that options ask for. Raises ConfigError for what the model has not."""
    if spec.windows is None:
        if options.temporal_overlap:
            raise ConfigError(
                f"{spec.name} has no seams in time to blend", hint="leave --temporal-overlap out"
            )
        return spec
    geometry = spec.geometry
    windows = geometry_for(
        spec.windows, options.tile_pixels, options.temporal_overlap, geometry.frames, geometry.pixels
    )
    return replace(spec, windows=windows)


def load_engine(
    model: str = "compact",
    device: str = "auto",
    dtype: str = "auto",
    *,
    chunk_latents: int | None = None,
    tile_pixels: int | None = None,
) -> BaseEngine:
    """An engine with the weights that ship. `engine.network` is the model itself, for whole clips.

    `chunk_latents` is the number of latent frames computed at a time, None for the model's own grid.
    Raises UnknownModelError, WeightsError or DeviceError.
    """
    spec = find_model(model)
    weights = Weights(spec)
    if chunk_latents is not None:
        spec = replace(spec, chunk_latents=chunk_latents)
    spec = with_geometry(spec, EngineOptions(tile_pixels))
    return make_engine(spec, weights.build, choose_placement(device, dtype), EngineOptions(tile_pixels))
