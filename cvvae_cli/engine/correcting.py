"""Decoded frames with what is coded of them alone (bitstream/corrections.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from cvvae_cli.engine.base import to_device
from cvvae_cli.engine.joints import Shown
from cvvae_cli.engine.mirror import LEVELS
from cvvae_cli.types import DETAIL_BITS, Correction

SIDE = 8  # pixels of a block in each direction


def corrected(shown: Shown, corrections: dict[int, Correction]) -> Tensor:
    """Frames (1, 3, T, H, W), H and W multiples of 8, with the corrections of those that have one."""
    if not any(frame in corrections for frame in shown.frames):
        return shown.video
    video = shown.video.float().clamp(-1, 1)
    for at, frame in enumerate(shown.frames):
        if frame in corrections:
            add(corrections[frame], video[0, :, at])
    return video


def add(correction: Correction, frame: Tensor) -> None:
    """To a frame (3, H, W) in [-1, 1], in place."""
    rows, columns = correction.changed.shape
    blocks = frame.view(3, rows, SIDE, columns, SIDE).permute(1, 3, 0, 2, 4)
    where = torch.from_numpy(correction.changed).to(frame.device)
    blocks[where] += to_device(correction.colours, frame.device).float().div_(LEVELS * 2**DETAIL_BITS)
