"""Run a streaming model on one chunk, tile by tile. Every tile has its own memory of the past."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cvvae_cli.engine.plan import Tile, scaled
from cvvae_cli.models.layers import Memory

Run = Callable[[Tensor, Memory], Tensor]


class TiledRunner:
    """Applies `run` to windows of pictures and puts the cores together.

    The halo of each window is as wide as the model's reach, so the result is that of the whole picture.
    """

    def __init__(self, run: Run, tiles: list[Tile], scale_in: int, scale_out: int) -> None:
        """Scales are values per latent position, of what goes in and what comes out."""
        self.run = run
        self.tiles = tiles
        self.scale_in = scale_in
        self.scale_out = scale_out
        self.memories: list[Memory] = [{} for _ in tiles]

    def __call__(self, x: Tensor) -> Tensor:
        """(1, C, T, H, W) → (1, C', T', H', W')."""
        if len(self.tiles) == 1:
            return self.run(x, self.memories[0])
        out: Tensor | None = None
        for tile, memory in zip(self.tiles, self.memories, strict=True):
            rows, columns = scaled(tile.window, self.scale_in)
            y = self.run(x[..., rows, columns], memory)
            if out is None:
                height, width = (self.scale_out * s // self.scale_in for s in x.shape[-2:])
                out = torch.empty((*y.shape[:3], height, width), dtype=y.dtype, device=y.device)
            rows, columns = scaled(tile.core, self.scale_out)
            inside = tile.core_in_window(self.scale_out)
            out[..., rows, columns] = y[..., inside[0], inside[1]]
        assert out is not None
        return out

    def prime(self, x: Tensor, run: Run) -> Tensor:
        """Let `run` prepare the memory of every tile; (n,) sums of what it computed, finite if all was."""
        sums = []
        for tile, memory in zip(self.tiles, self.memories, strict=True):
            rows, columns = scaled(tile.window, self.scale_in)
            sums.append(run(x[..., rows, columns], memory).float().sum())
        return torch.stack(sums)

    def copy(self) -> TiledRunner:
        twin = TiledRunner(self.run, self.tiles, self.scale_in, self.scale_out)
        twin.memories = self.snapshot()
        return twin

    def snapshot(self) -> list[Memory]:
        return [dict(memory) for memory in self.memories]
