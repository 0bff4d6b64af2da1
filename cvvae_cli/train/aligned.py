"""Clips of training as the encoder of an aligned model sees them, and back. The first frame stands alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.bitstream.chunk import which_aligned
from cvvae_cli.flow import align


def onto_references(video: Tensor, is_plain: Tensor | None = None) -> tuple[Tensor, np.ndarray, Tensor]:
    """Clips (B, 3, 1 + 4n, H, W) in [-1, 1] → the same moved, fields int16 (B n, 3, 2, rows, columns), and
    of which latent frames but the first the frames were moved, (B, n).

    Those clips that `is_plain` (B,) names stay as they are; their fields are zero.
    """
    groups, fields = align.align(video[:, :, 1:])
    moved = torch.cat([video[:, :, :1], groups], 2)
    if is_plain is not None:
        moved[is_plain] = video[is_plain]
        fields.reshape(len(video), -1)[is_plain.cpu().numpy()] = 0
    aligned = torch.from_numpy(which_aligned(fields)).view(len(video), -1)
    return moved, fields, aligned.to(video.device)


def as_they_were(video: Tensor, fields: np.ndarray) -> Tensor:
    """What the decoder makes of moved clips → the clips."""
    return torch.cat([video[:, :, :1], align.restore(video[:, :, 1:], fields)], 2)
