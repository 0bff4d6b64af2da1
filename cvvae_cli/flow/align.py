"""Groups of frames moved onto their reference before the encoder, and back after the decoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.flow.estimate import estimate
from cvvae_cli.flow.field import GROUP, LARGEST, OTHERS, REFERENCE, UNIT, dense, inverse, moved
from cvvae_cli.flow.refinement import thinned

LUMA_WEIGHTS = (0.299, 0.587, 0.114)


@torch.no_grad()
def align(video: Tensor) -> tuple[Tensor, np.ndarray]:
    """Videos (B, 3, 4n, H, W) in [-1, 1] → the same with each group's frames as its reference shows them.

    And the fields that say how they moved, int16 (B n, 3, 2, rows, columns); see cvvae_cli/flow/field.py.
    """
    groups = in_groups(video)
    fields = find(groups)
    frames = list(groups.unbind(2))
    for other, moves, vectors in moving(fields, groups.device):
        back = inverse(vectors, *groups.shape[3:])
        frames[other] = frames[other].index_put((moves,), moved(frames[other][moves], back).clamp_(-1, 1))
    return in_videos(frames, len(video)), fields


def restore(video: Tensor, fields: np.ndarray) -> Tensor:
    """Videos (B, 3, 4n, H, W) as the decoder gives them → the frames that they stand for."""
    if not fields.any():
        return video
    groups = in_groups(video)
    frames = list(groups.unbind(2))
    for other, moves, vectors in moving(fields, groups.device):
        there = dense(vectors, *groups.shape[3:])
        frames[other] = frames[other].index_put((moves,), moved(frames[other][moves], there))
    return in_videos(frames, len(video))


def moving(fields: np.ndarray, device: torch.device) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of each frame of a group that moves in any: its number, which groups, their vectors in pixels."""
    for number, other in enumerate(OTHERS):
        moves = np.flatnonzero(fields[:, number].reshape(len(fields), -1).any(1))
        if len(moves):
            vectors = torch.from_numpy(fields[moves, number]).to(device, torch.float32)
            yield other, torch.from_numpy(moves).to(device), vectors / UNIT


def in_groups(video: Tensor) -> Tensor:
    """(B, 3, 4n, H, W) → (B n, 3, 4, H, W)."""
    b, c, t, h, w = video.shape
    return video.reshape(b, c, t // GROUP, GROUP, h, w).transpose(1, 2).flatten(0, 1)


def in_videos(frames: list[Tensor], count: int) -> Tensor:
    """The four frames of all groups, (B n, 3, H, W) each → `count` videos (B, 3, 4n, H, W)."""
    groups = torch.stack(frames, 2)
    return groups.view(count, -1, *groups.shape[1:]).transpose(1, 2).flatten(2, 3)


def find(groups: Tensor) -> np.ndarray:
    """The fields of groups (N, 3, 4, H, W), where they are worth their bits."""
    luma = (groups.float() * groups.new_tensor(LUMA_WEIGHTS).view(3, 1, 1, 1)).sum(1).add_(1).mul_(127.5)
    reference = luma[:, REFERENCE : REFERENCE + 1].expand(-1, len(OTHERS), -1, -1)
    vectors, worth = estimate(reference.flatten(0, 1), luma[:, list(OTHERS)].flatten(0, 1))
    steps = (vectors * UNIT).round_().clamp_(-LARGEST, LARGEST)
    fields, costs = (x.view(len(groups), len(OTHERS), *x.shape[1:]).cpu() for x in (steps, worth))
    return np.stack([thinned(*both) for both in zip(fields.int().numpy(), costs.numpy(), strict=True)])
