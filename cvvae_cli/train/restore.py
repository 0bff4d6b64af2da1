"""The floats of a released prior, from the integers that lie with its weights: training goes on from them.

Integers say nothing of the unit of an activation, and a network of rectifiers does not depend on it. Each is
chosen so that the weights that lead to it are about as large as those of a new layer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from cvvae_cli.bitstream.motion import GAIN_BITS, LATENT_BITS, PIXEL_BITS, STEP_BITS, MotionTables
from cvvae_cli.bitstream.prior import TAPS, CoarseToFineTables, Pass, PriorTables
from cvvae_cli.train.motion import MotionPrediction
from cvvae_cli.train.prior import COMPRESS_STEPS, LatentPrior, head_units

INPUT = 1 / COMPRESS_STEPS  # of what the first layers read


@torch.no_grad()
def restore_prior(prior: LatentPrior, tables: PriorTables, motion: MotionTables, gain: np.ndarray) -> None:
    """Make `prior`, of the same width, what `tables` and `motion` were rounded from.

    `gain` (C,) is that of the model at the highest level; the tables may hold latents in units of their own.
    """
    restore_motion(prior.motion, motion, gain)
    kinds = len(prior.kind)
    conv1, unit = in_floats([(tables.conv1, INPUT)], tables.shift[0])
    embed = scaled(tables.embed, tables.shift[0], unit)
    put(prior.kind, embed[:kinds])
    put(prior.level, embed[kinds:])
    put_taps(prior.conv1, conv1[0], 0)
    conv2, unit = in_floats([(tables.conv2, unit)], tables.shift[1])
    put_taps(prior.conv2, conv2[0], scaled(tables.bias[0], tables.shift[1], unit))
    known = [begun_as(each, prior, tables) for each in prior.passes]
    both = zip(prior.heads, known, strict=True)
    spread = np.mean([restore_pass(head, number, tables, unit) for head, number in both], axis=0)
    put(prior.scale_kind, spread[:kinds])
    put(prior.scale_level, spread[kinds:])
    put(prior.linear, tables.linear[known] / 4096)
    if isinstance(tables, CoarseToFineTables):
        put(prior.far, tables.far / 4096)


def begun_as(each: Pass, prior: LatentPrior, tables: PriorTables) -> int:
    """The number of the pass that one starts as: itself, or, if it is new, the fine one of its quarter; of
    later frames the first of all, to whose positions its own belonged."""
    if each in tables.passes:
        return each.number
    return 0 if each in prior.farther else each.quarter


def restore_pass(head: nn.Module, index: int, tables: PriorTables, trunk_unit: np.ndarray) -> np.ndarray:
    """The layers of one pass; returns its part of the log scale, (kinds and anchors, C)."""
    shifts, biases = tables.shift[2 + 2 * index :], tables.bias[1 + 2 * index :]
    parts = [(tables.trunk[index][None], trunk_unit), (tables.known[index], INPUT)]
    parts += [(weights[None], INPUT) for weights in tables.beside_of(index)]
    (trunk, known, *beside), unit = in_floats(parts, shifts[0])
    for layer, weights in zip(head.beside, beside, strict=False):  # groups that are new know nothing yet
        put(layer.weight, weights[0].T[..., None, None])
    put_taps(head.trunk, trunk, scaled(biases[0], shifts[0], unit))
    every = np.zeros((9, *known.shape[1:]))
    for number, (down, right) in enumerate(TAPS[tables.passes[index].quarter]):
        every[3 * (down + 1) + right + 1] = known[number]
    put_taps(head.known, every, 0)
    (hidden,), hidden_unit = in_floats([(tables.hidden[index][None], unit)], shifts[1])
    put_taps(head.hidden, hidden, scaled(biases[1], shifts[1], hidden_unit))
    channels = tables.linear.shape[2]
    unit, offset = head_units(channels)
    shift = tables.head_shift[index]
    (last,), _ = in_floats([(tables.head[index][None], hidden_unit)], shift, unit)
    put_taps(head.head, last, scaled(tables.head_bias[index], shift, unit) - offset)
    return scaled(tables.spread[:, index], shift[2 * channels :], unit[2 * channels :])


def restore_motion(motion: MotionPrediction, tables: MotionTables, gain: np.ndarray) -> None:
    """The two linear maps of motion."""
    first, second = (int(shift) for shift in tables.shift)
    picture = tables.picture * 0.5 ** (first + PIXEL_BITS - STEP_BITS)
    put_taps(motion.picture, picture, tables.picture_bias * 0.5 ** (first + PIXEL_BITS))
    unit = tables.gain[-1] * 0.5**GAIN_BITS / gain
    latents = tables.latents * (0.5 ** (second + LATENT_BITS - PIXEL_BITS) * unit)
    put(motion.latents.weight, latents.T)
    put(motion.latents.bias, tables.latents_bias * (0.5 ** (second + LATENT_BITS) * unit))


def in_floats(
    parts: list[tuple[np.ndarray, np.ndarray | float]], shift: np.ndarray, unit: np.ndarray | None = None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Integer weights (taps, I, O) and the worth of their inputs → weights, the worth of their outputs."""
    real = [scaled(weights, shift, 1) / np.reshape(worth, (1, -1, 1)) for weights, worth in parts]
    if unit is None:
        size = np.sqrt(sum((weights**2).sum((0, 1)) for weights in real))
        unit = 1 / np.maximum(size, np.finfo(np.float32).eps)  # a new layer's weights have squares of sum 1/3
    return [weights * unit for weights in real], unit


def scaled(integers: np.ndarray, shift: np.ndarray, unit: np.ndarray | float) -> np.ndarray:
    values: np.ndarray = integers * 0.5 ** shift.astype(np.float64) * unit
    return values


def put_taps(layer: nn.Module, weights: np.ndarray, bias: np.ndarray | float) -> None:
    """Weights (taps, I, O), neighbours in row order, and biases of a convolution."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    side = layer.kernel_size[0]
    put(layer.weight, weights.reshape(side, side, *weights.shape[1:]).transpose(3, 2, 0, 1))
    put(layer.bias, np.broadcast_to(bias, layer.bias.shape))


def put(parameter: Tensor | None, values: np.ndarray) -> None:
    assert parameter is not None
    parameter.copy_(torch.from_numpy(np.array(values)))
