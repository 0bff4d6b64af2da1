"""Groups of frames moved onto their reference before the encoder, and back after the decoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.flow.estimate import VISIBLE, estimate
from cvvae_cli.flow.field import (
    GROUP,
    LARGEST,
    OTHERS,
    REFERENCE,
    UNIT,
    dense,
    field_size,
    inverse,
    led_to,
    moved,
    outside,
)
from cvvae_cli.flow.refinement import WORTHLESS, estimated_bits, thinned

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
AREA = 8  # pixels in each direction whose errors count together
STRIDE = 2  # of the pixels by which is judged what does not come back
# What alignment gives, fitted to rates of training and drawn clips with it and without (weights/README.md):
CALM, TEXTURED = 0.1, 0.3  # bits of a group beside those of what differs: of any, and for every doubling
RATE = 0.18  # bits per pixel for a doubling
CODED = 20.0  # squared levels: about the error of what is flat, twice that for every doubling of texture
LOSS = 0.3  # logarithm of bits for every doubling of that error
LEAST_GAIN = 0.12  # logarithm of bits, below which it is not worth it
UNFILLED = 0.4  # of an error outside of the reference, that is left where it is filled (flow/border.py)


@torch.no_grad()
def align(
    video: Tensor, worthless: float = WORTHLESS, *, is_filled: bool = False
) -> tuple[Tensor, np.ndarray]:
    """Videos (B, 3, 4n, H, W) in [-1, 1] → the same with groups' frames as their reference shows them.

    And the fields that say how they moved, int16 (B n, 3, 2, rows, columns); see cvvae_cli/flow/field.py. A
    group that needs no more bits as it is stays so: its fields are zero. `worthless` is the error, in squared
    levels, for which no vector is coded. `is_filled`: what the reference does not show is not lost, for the
    decoder takes it from the groups beside (flow/border.py).
    """
    groups = in_groups(video)
    luma = brightness(groups)
    fields = np.zeros((len(groups), len(OTHERS), 2, *field_size(*luma.shape[2:])), np.int16)
    texture, before = textured(luma), unlike_reference(luma)
    moves = (gained(texture, before, 0.0) > LEAST_GAIN).cpu().numpy()
    if not moves.any():
        return video, fields
    fields[moves] = find(luma[moves], worthless)
    aligned, unseen = onto_reference(groups, fields)
    is_worth_it = worth(luma, texture, before, brightness(aligned), fields, is_filled=is_filled) > 0
    fields[~is_worth_it] = 0
    keeps = torch.from_numpy(is_worth_it).to(groups.device).view(-1, 1, 1, 1, 1)
    aligned = torch.lerp(aligned, groups[:, :, REFERENCE : REFERENCE + 1], unseen)  # which takes no bits
    return in_videos(torch.where(keeps, aligned, groups), len(video)), fields


def end_after(frames: int, fields: np.ndarray) -> np.ndarray:
    """The fields (3, 2, rows, columns) of a group of which only the first `frames` are to be seen.

    What the others would be is free. Where they repeat one frame alone, something makes the group an aligned
    one: it shows one instant, and is expected from one. The last of four moves on steadily.
    """
    fields = fields.copy()
    if frames == 1:
        fields[-1, 0, 0, 0] = 1
    elif frames == GROUP - 1:
        fields[-1] = -fields[-2]
    return fields


def restore(video: Tensor, fields: np.ndarray) -> Tensor:
    """Videos (B, 3, 4n, H, W) as the decoder gives them → the frames that they stand for."""
    if not fields.any():
        return video
    groups = in_groups(video)
    frames = list(groups.unbind(2))
    for other, moves, vectors in moving(fields, groups.device):
        flow = dense(vectors, *groups.shape[3:])
        frames[other] = frames[other].index_put((moves,), moved(frames[other][moves], flow))
    return in_videos(torch.stack(frames, 2), len(video))


def onto_reference(groups: Tensor, fields: np.ndarray) -> tuple[Tensor, Tensor]:
    """Groups (N, 3, 4, H, W) in [-1, 1] with their frames moved onto the reference; where these show nothing
    of it, from 0 to 1, (N, 1, 4, H, W)."""
    frames = list(groups.unbind(2))
    size = groups.shape[3], groups.shape[4]
    unseen = groups.new_zeros(len(groups), 1, GROUP, *size)
    for other, moves, vectors in moving(fields, groups.device):
        back = inverse(vectors, *size)
        seen = moved(frames[other][moves], back).clamp_(-1, 1)
        frames[other] = frames[other].index_put((moves,), seen)
        unseen[moves, 0, other] = outside(*led_to(back), size).clamp_(max=1).to(unseen.dtype)
    return torch.stack(frames, 2), unseen


def brightness(groups: Tensor) -> Tensor:
    """(N, 3, 4, H, W) in [-1, 1] → (N, 4, H, W) in [0, 255]."""
    weights = groups.new_tensor(LUMA_WEIGHTS, dtype=torch.float32).view(3, 1, 1, 1)
    return (groups.float() * weights).sum(1).add_(1).mul_(127.5)


def worth(
    luma: Tensor,
    texture: Tensor,
    before: Tensor,
    aligned: Tensor,
    fields: np.ndarray,
    *,
    is_filled: bool = False,
) -> np.ndarray:
    """By how much groups (N, 4, H, W) take fewer bits aligned, (N,), as a logarithm: for frames that are more
    alike, less the bits of fields and what is lost where content does not come back.

    `texture` and `before` are what `textured` and `unlike_reference` say of `luma`. With `is_filled` only a
    part is lost of what the reference does not show.
    """
    pixels = luma[0].numel()
    rates = luma.new_tensor([estimated_bits(field) / pixels for field in fields])
    lost = not_coming_back(luma, aligned, fields, is_filled=is_filled) / (CODED * torch.exp2(texture))
    after = unlike_reference(aligned) + rates / RATE
    total = gained(texture, before, after) - LOSS * torch.log2(1 + lost) - LEAST_GAIN
    found: np.ndarray = total.cpu().numpy()
    return found


def gained(texture: Tensor, before: Tensor, after: Tensor | float) -> Tensor:
    """By how much groups take fewer bits if what differs in them falls, in doublings (N,): a logarithm."""
    beside = CALM + TEXTURED * texture
    return torch.log((beside + before) / (beside + after))


def unlike_reference(luma: Tensor) -> Tensor:
    """How far the other frames of groups (N, 4, H, W) are from the reference, in doublings: (N,)."""
    return doublings(in_areas((luma[:, list(OTHERS)] - luma[:, REFERENCE : REFERENCE + 1]).square_()))


def textured(luma: Tensor) -> Tensor:
    """How far the references of groups (N, 4, H, W) are from flat, in doublings: (N,)."""
    reference = luma[:, REFERENCE : REFERENCE + 1]
    return doublings((in_areas(reference.square()) - in_areas(reference).square_()).clamp_(min=0))


def not_coming_back(luma: Tensor, aligned: Tensor, fields: np.ndarray, *, is_filled: bool = False) -> Tensor:
    """By how many squared levels frames of groups (N, 4, H, W), aligned and moved back, differ from what they
    were: (N,). `is_filled` as in `worth`."""
    lost = luma.new_zeros(len(luma))
    for other, moves, vectors in moving(fields, luma.device):
        flow = dense(vectors, *luma.shape[2:])[:, :, ::STRIDE, ::STRIDE]
        there = moved(aligned[moves, other : other + 1], flow, stride=STRIDE)[:, 0]
        errors = (there - luma[moves, other, ::STRIDE, ::STRIDE]).square_()
        if is_filled:
            is_outside = outside(*led_to(flow, STRIDE), (luma.shape[2], luma.shape[3])) > 0
            errors = torch.where(is_outside, UNFILLED * errors, errors)
        lost[moves] += errors.mean((1, 2)) / GROUP
    return lost


def in_areas(values: Tensor) -> Tensor:
    """Means over AREA pixels each way, of (N, n, H, W)."""
    return functional.avg_pool2d(values, AREA, ceil_mode=True)


def doublings(squares: Tensor) -> Tensor:
    """Of squared levels in areas (N, n, rows, columns), how far they are from none: means (N,)."""
    return torch.log2(1 + squares / VISIBLE).mean((1, 2, 3))


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


def in_videos(groups: Tensor, count: int) -> Tensor:
    """(B n, 3, 4, H, W) → `count` videos (B, 3, 4n, H, W)."""
    return groups.view(count, -1, *groups.shape[1:]).transpose(1, 2).flatten(2, 3)


def find(luma: Tensor, worthless: float = WORTHLESS) -> np.ndarray:
    """The fields of groups (N, 4, H, W), where they are worth their bits."""
    reference = luma[:, REFERENCE : REFERENCE + 1].expand(-1, len(OTHERS), -1, -1)
    vectors, costs = estimate(reference, luma[:, list(OTHERS)], worthless / 2)
    steps = (vectors * UNIT).round_().clamp_(-LARGEST, LARGEST).int()
    both = zip(steps.cpu().numpy(), costs.cpu().numpy(), strict=True)
    return np.stack([thinned(*of_group, worthless) for of_group in both])
