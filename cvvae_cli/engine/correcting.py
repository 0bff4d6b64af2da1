"""Decoded frames with what is coded of them alone (bitstream/corrections.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from cvvae_cli.engine.joints import Shown
from cvvae_cli.engine.mirror import in_network_units
from cvvae_cli.types import Correction


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
    (rows, columns), side = correction.changed.shape, correction.colours.shape[-1]
    blocks = frame.view(3, rows, side, columns, side).permute(1, 3, 0, 2, 4)
    where = torch.from_numpy(correction.changed).to(frame.device)
    blocks[where] += in_network_units(correction.colours, frame.device)
