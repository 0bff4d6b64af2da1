"""One call from a model's name to a running engine."""

from __future__ import annotations

from dataclasses import replace

from cvvae_cli.engine.device import choose_placement
from cvvae_cli.engine.stream import Engine, EngineOptions
from cvvae_cli.models.registry import Weights, find_model


def load_engine(
    model: str = "compact",
    device: str = "auto",
    dtype: str = "auto",
    *,
    chunk_latents: int | None = None,
    tile_pixels: int | None = None,
) -> Engine:
    """An engine with the weights that ship. `engine.network` is the model itself, for whole clips.

    `chunk_latents` is the number of latent frames computed at a time, None for the model's own grid.
    Raises UnknownModelError, WeightsError or DeviceError.
    """
    spec = find_model(model)
    weights = Weights(spec)
    if chunk_latents is not None:
        spec = replace(spec, chunk_latents=chunk_latents)
    return Engine(spec, weights.build, choose_placement(device, dtype), EngineOptions(tile_pixels))
