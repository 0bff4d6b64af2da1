"""First latent frames that are coded from coarse to fine. Files with them: test_grouped.py."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from bitstream.test_grouped import arrays, chosen, steps_of_symbols
from tiny import CUTS, PYRAMID, STRIDES

from cvvae_cli.bitstream.anchors import GroupedCoder, PyramidCoder
from cvvae_cli.bitstream.context import PASSES
from cvvae_cli.bitstream.prior import PyramidTables, coarse_passes
from cvvae_cli.errors import WeightsError

GROUPS = [slice(*each) for each in pairwise([0, *CUTS, 4])]


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (3, 3), (4, 9), (13, 18)])
def test_symbols_come_back(size):
    coder = PyramidCoder.of_model(arrays(PYRAMID), 85)
    plan = coder.choose(chosen((3, 4, *size)), ())
    assert np.array_equal(coder.decode(coder.pack(plan), plan.symbols.shape, ()), plan.symbols)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8), (17, 30)])
def test_the_passes_of_a_first_frame_are_all_of_it_and_none_twice(size):
    count = np.zeros(size, int)
    for each in coarse_passes(STRIDES):
        count[each.here] += 1
    assert (count == 1).all()


def test_first_frames_have_passes_of_their_own_and_others_the_usual_four():
    coder = PyramidCoder.of_model(arrays(PYRAMID), 85)
    plan = coder.choose(chosen((3, 4, 16, 16)), ())
    places = [where for where, _, _ in steps_of_symbols(plan)]
    first = [(g, *each.here) for each in coarse_passes(STRIDES) for g in GROUPS]
    assert places[: len(first)] == first
    assert first[0][1:] == (slice(0, None, 8), slice(0, None, 8))
    later = [(g, slice(top, None, 2), slice(left, None, 2)) for top, left in PASSES for g in GROUPS]
    assert places[len(first) :] == later * 2


def test_what_is_known_reaches_as_far_as_the_stride():
    """One symbol of the coarsest quarter tells those of the next that lie four rows and columns from it."""
    coder = PyramidCoder.of_model(arrays(PYRAMID), 100)
    frames = chosen((1, 4, 16, 24))
    guesses = []
    for changed in (False, True):
        if changed:
            frames[:, :, 8, 8] += 60
        guesses.append(second_pass(coder.choose(frames, ())))
    assert places_told_of(*guesses) == [(4, 4), (4, 12), (12, 4), (12, 12)]


def second_pass(plan):
    """What is predicted of the first group of channels in it."""
    return steps_of_symbols(plan)[len(GROUPS)][1]


def places_told_of(one, other):
    """Where the second pass of coarsest stride 4 is predicted otherwise: rows and columns."""
    differ = ((one.tables != other.tables) | (one.symbols != other.symbols)).any(0)
    rows, columns = np.nonzero(differ)
    return sorted(zip((4 + 8 * rows).tolist(), (4 + 8 * columns).tolist(), strict=True))


def test_a_frame_that_goes_on_is_coded_as_without_coarse_passes():
    """With the same integers for what both have."""
    found = arrays(PYRAMID)
    whole = GroupedCoder.of_model(without_strides(found), 85)
    coder = PyramidCoder.of_model(found, 85)
    frames, past = chosen((2, 4, 9, 11)), (np.zeros((4, 9, 11), np.int32),) * 3
    one, other = (each.choose(frames, past) for each in (coder, whole))
    assert coder.pack(one) == whole.pack(other)
    assert coder.pack(coder.choose(frames, ())) != whole.pack(whole.choose(frames, ()))


def without_strides(found):
    """The arrays of a coder that has the first four passes alone."""
    return of_first_passes(found, PyramidTables.from_tensors(found), 4, "prior.strides")


def of_first_passes(found, tables, count, *without):
    """Arrays with the integers of so many passes alone, and without some of them."""
    by_pass = ("trunk", "known", "hidden", "head", "head_bias", "head_shift", "linear", "beside")
    parts = {f"prior.{name}": getattr(tables, name)[:count] for name in by_pass}
    parts |= {"prior.bias": tables.bias[: 1 + 2 * count], "prior.shift": tables.shift[: 2 + 2 * count]}
    parts["prior.spread"] = tables.spread[:, :count]
    return {name: array for name, array in (found | parts).items() if name not in without}


def test_unfit_strides_are_refused():
    good = arrays(PYRAMID)
    for name, value in (
        ("prior.strides", np.array([4, 1], np.uint8)),
        ("prior.strides", np.array([2, 1], np.uint8)),
        ("prior.strides", np.array([], np.uint8)),
        ("prior.known", good["prior.known"][:4]),
        ("prior.beside", good["prior.beside"][:4]),
    ):
        with pytest.raises(WeightsError, match="damaged"):
            PyramidCoder.of_model(good | {name: value}, 50)
    with pytest.raises(WeightsError, match="coarse to fine"):
        GroupedCoder.of_model(good, 50)
    with pytest.raises(WeightsError, match="strides"):
        PyramidCoder.of_model(without_strides(good), 50)
