"""Latent frames of all kinds that are coded from coarse to fine. Files with them: test_grouped.py."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from bitstream.test_grouped import arrays, chosen, steps_of_symbols
from bitstream.test_pyramid import of_first_passes, places_told_of, second_pass
from tiny import COARSE_TO_FINE, CUTS, LATER_STRIDES, STRIDES

from cvvae_cli.bitstream.anchors import CoarseToFineCoder, PyramidCoder
from cvvae_cli.bitstream.motion import MotionTables
from cvvae_cli.bitstream.prior import CoarseToFineTables, PyramidTables, coarse_passes, later_passes
from cvvae_cli.errors import WeightsError

GROUPS = [slice(*each) for each in pairwise([0, *CUTS, 4])]


def coder_at(level, **others):
    found = arrays(COARSE_TO_FINE)
    tables = replace(CoarseToFineTables.from_tensors(found), **others)
    return CoarseToFineCoder(tables, MotionTables.from_tensors(found), level)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (3, 3), (4, 9), (13, 18)])
def test_symbols_come_back(size):
    coder = coder_at(85)
    plan = coder.choose(chosen((4, 4, *size)), ())
    assert np.array_equal(coder.decode(coder.pack(plan), plan.symbols.shape, ()), plan.symbols)


@pytest.mark.parametrize("strides", [(1,), (2, 1), LATER_STRIDES])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8), (17, 30)])
def test_the_passes_of_a_later_frame_are_all_of_it_and_none_twice(size, strides):
    count = np.zeros(size, int)
    for each in later_passes(strides, 14):
        count[each.here] += 1
    assert (count == 1).all()


def test_later_frames_share_the_passes_that_every_prior_has():
    assert [(p.number, p.quarter, p.stride) for p in later_passes((4, 2, 1), 14)] == [
        (0, 0, 4),
        (14, 1, 4),
        (15, 2, 4),
        (16, 3, 4),
        (17, 1, 2),
        (18, 2, 2),
        (19, 3, 2),
        (1, 1, 1),
        (2, 2, 1),
        (3, 3, 1),
    ]
    assert later_passes((1,), 14) == later_passes((1,), 4)
    assert len(CoarseToFineTables.from_tensors(arrays(COARSE_TO_FINE)).passes) == 14 + 6


def test_every_frame_is_coded_from_coarse_to_fine():
    plan = coder_at(85).choose(chosen((3, 4, 16, 16)), ())
    places = [where for where, _, _ in steps_of_symbols(plan)]
    first = [(g, *each.here) for each in coarse_passes(STRIDES) for g in GROUPS]
    later = [(g, *each.here) for each in later_passes(LATER_STRIDES, 14) for g in GROUPS]
    assert places == first + later + later


@pytest.mark.parametrize("far", [False, True])
def test_what_is_known_and_expected_reaches_as_far_as_the_stride(far):
    """A symbol of the coarsest quarter tells those of the next that lie four rows and columns from it; what
    was there before tells them too, by its far weights alone."""
    tables = CoarseToFineTables.from_tensors(arrays(COARSE_TO_FINE))
    silent = {name: np.zeros_like(getattr(tables, name)) for name in ("known", "linear", "trunk", "conv1")}
    silent["far"] = np.full_like(tables.far, 1000)
    coder = coder_at(100, **(silent if far else {}))
    guesses = []
    for changed in (False, True):
        frames, before = np.zeros((1, 4, 16, 24), np.float32), np.zeros((4, 16, 24), np.int32)
        if changed and far:
            before[:, 8, 8] = 60 << 4
        elif changed:
            frames[:, :, 8, 8] = 60
        guesses.append(second_pass(coder.choose(frames, (before,) * 3)))
    assert places_told_of(*guesses) == [(4, 4), (4, 12), (12, 4), (12, 12)]


def test_first_frames_are_coded_as_without_passes_of_later_ones():
    found = arrays(COARSE_TO_FINE)
    own = PyramidCoder.of_model(without_later(found), 85)
    frames = chosen((1, 4, 9, 11))
    one, other = (each.choose(frames, ()) for each in (coder_at(85), own))
    assert coder_at(85).pack(one) == own.pack(other)


def without_later(found):
    """The arrays of a coder that has no passes of its own for later frames."""
    tables = CoarseToFineTables.from_tensors(found)
    count = len(tables.passes) - len(tables.farther)
    return of_first_passes(found, tables, count, "prior.later", "prior.far")


def test_unfit_integers_are_refused():
    good = arrays(COARSE_TO_FINE)
    for name, value in (
        ("prior.later", np.array([4, 1], np.uint8)),
        ("prior.later", np.array([2, 1], np.uint8)),
        ("prior.later", np.array([], np.uint8)),
        ("prior.far", good["prior.far"][:3]),
        ("prior.far", good["prior.far"][..., :2]),
        ("prior.known", good["prior.known"][:14]),
    ):
        with pytest.raises(WeightsError, match="damaged"):
            CoarseToFineCoder.of_model(good | {name: value}, 50)
    with pytest.raises(WeightsError, match="all frames from coarse to fine"):
        PyramidCoder.of_model(good, 50)
    with pytest.raises(WeightsError, match="later"):
        CoarseToFineCoder.of_model(without_later(good), 50)
    assert PyramidTables.from_tensors(without_later(good)).order == later_passes((1,), 0)
