"""A small network that adds to a decoded picture what those beside it in time show better.

What a latent frame loses differs from that of the next, so pictures moved onto each other know more together
than each alone. The network says how far to follow each neighbour, pixel by pixel, and what to sharpen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvvae_cli.models.layers import zero_init

NEIGHBOURS = 2  # of a picture: before and after
FOLD = 2  # pixels each way that become channels
HIGHEST_LEVEL = 100.0
PICTURE_SCALE, DIFFERENCE_SCALE = 2.0, 4.0  # of what the network sees
RESIDUAL_SCALE = 1 / 16  # of what it adds
SHAPE = ("width", "layers", "inner_width", "inner_layers", "across")  # parameters of that of pictures
JOINER_SHAPE = SHAPE[:4]  # of that of frames where groups meet, which have one neighbour each
DISTRUST = 1.0  # before training a neighbour counts by sigmoid(-this)


class Refiner(nn.Module):
    """3x3 convolutions at half the resolution; its last layer starts at zero.

    In their middle there may be `inner` ones, at a quarter of it, that see further.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        inner_width: int = 0,
        inner_layers: int = 0,
        across: bool = False,
        *,
        neighbours: int = NEIGHBOURS,
    ) -> None:
        """`across`: it learnt from neighbours of the chunk before too, so engines give it those."""
        super().__init__()
        self.across = across
        folded = FOLD * FOLD
        channels = 3 * folded * (1 + neighbours) + 1 + neighbours
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(layers - 2))
        self.inner = nn.ModuleList(
            nn.Conv2d(inner_width, inner_width, 3, padding=1) for _ in range(inner_layers)
        )
        if inner_layers:
            self.down = nn.Conv2d(width, inner_width, FOLD, stride=FOLD)
            self.up = zero_init(nn.Conv2d(inner_width, width * folded, 1))
        self.head = zero_init(nn.Conv2d(width, (3 + neighbours) * folded, 3, padding=1))

    @property
    def halo(self) -> int:
        """Pixels around a place that reach into its result."""
        coarse = FOLD * (len(self.inner) + 1) if self.inner else 0
        return FOLD * (len(self.blocks) + 2 + coarse)

    def forward(self, picture: Tensor, differences: Tensor, known: Tensor, level: Tensor) -> Tensor:
        """What to add to pictures (B, 3, H, W) in [-1, 1], H and W even.

        `differences` (B, n, 3, H, W) are the neighbours, moved onto the picture, less the picture, and zero
        where `known` (B, n) is 0: at the ends. `level` (B,) is the quality in tenths.
        """
        kind = self.stem.weight.dtype
        planes = torch.cat([level[:, None] / HIGHEST_LEVEL, known], 1).to(kind)
        parts = PICTURE_SCALE * picture.to(kind), DIFFERENCE_SCALE * differences.to(kind).flatten(1, 2)
        folded = functional.pixel_unshuffle(torch.cat(parts, 1), FOLD)
        wide = planes[..., None, None].expand(-1, -1, *folded.shape[2:])
        x = torch.cat([folded, wide], 1).contiguous(memory_format=torch.channels_last)
        x = functional.silu(self.stem(x))
        middle = len(self.blocks) // 2
        for block in self.blocks[:middle]:
            x = x + functional.silu(block(x))
        if self.inner:
            x = x + self._inner(x)
        for block in self.blocks[middle:]:
            x = x + functional.silu(block(x))
        out = functional.pixel_shuffle(self.head(x).float(), FOLD)
        trust = torch.sigmoid(out[:, 3:] - DISTRUST)[:, :, None]
        return RESIDUAL_SCALE * out[:, :3] + (trust * differences).sum(1)

    def _inner(self, x: Tensor) -> Tensor:
        y = self.down(x)
        for block in self.inner:
            y = y + block(functional.silu(y))
        return functional.pixel_shuffle(self.up(functional.silu(y)), FOLD)
