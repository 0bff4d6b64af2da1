"""Symbols that are coded in groups of channels."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import (
    COARSE_TO_FINE,
    CUTS,
    GOLDEN,
    GROUPED,
    PYRAMID,
    REACHING,
    assert_all_is_measured,
    assert_an_interrupted_encode_goes_on,
    assert_parts_are_those_of_the_whole,
    moving_picture,
)

from cvvae_cli import codec, latents
from cvvae_cli.bitstream.anchors import BorrowingCoder, GroupedCoder
from cvvae_cli.bitstream.motion import MotionTables
from cvvae_cli.bitstream.prior import GroupedTables
from cvvae_cli.bitstream.residuals import Beside
from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.errors import WeightsError
from cvvae_cli.models.registry import find_model
from cvvae_cli.options import EncodeOptions


def arrays(number=GROUPED):
    own = load_file(GOLDEN / f"tiny-{number}.safetensors")
    return load_file(GOLDEN / "tiny-8.safetensors") | own


def chosen(shape):
    values = np.random.default_rng(3).laplace(0, 4, shape).astype(np.float32)
    values[2:] = np.roll(values[1:2], 3, 3)  # something moves
    return values


def steps_of_symbols(plan):
    return [step for step in plan.steps if not isinstance(step[0], Beside)]


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (13, 18)])
def test_symbols_come_back(size):
    coder = GroupedCoder.of_model(arrays(), 85)
    plan = coder.choose(chosen((3, 4, *size)), ())
    assert np.array_equal(coder.decode(coder.pack(plan), plan.symbols.shape, ()), plan.symbols)


def test_every_pass_is_coded_in_groups():
    coder = GroupedCoder.of_model(arrays(), 85)
    plan = coder.choose(chosen((3, 4, 8, 8)), ())
    places = [where for where, _, _ in steps_of_symbols(plan)]
    assert [where[0] for where in places] == [slice(*each) for each in pairwise([0, *CUTS, 4])] * 4 * 3


def test_a_group_depends_on_those_before_it_in_its_place_alone():
    """Only its own place tells a first pass anything but the past."""
    coder = GroupedCoder.of_model(arrays(), 100)
    frames = chosen((1, 4, 12, 12))
    guesses = []
    for changed in (False, True):
        if changed:
            frames[:, 0, 4, 6] += 60  # of the first group and pass
        first = steps_of_symbols(coder.choose(frames, ()))[: len(CUTS) + 1]
        guesses.append([guess for _, guess, _ in first])
    differ = [
        (one.tables != other.tables) | (one.symbols != other.symbols)
        for one, other in zip(*guesses, strict=True)
    ]
    assert not differ[0].any()
    for of_group in differ[1:]:
        places = of_group.any(0)
        assert places[2, 3]
        places[2, 3] = False
        assert not places.any()


def test_an_unfit_group_is_refused():
    good = arrays()
    for name, value in (
        ("prior.cuts", np.array([1, 1], np.uint8)),
        ("prior.cuts", np.array([1, 4], np.uint8)),
        ("prior.cuts", np.array([1], np.uint8)),
        ("prior.beside", good["prior.beside"][:, :1]),
    ):
        with pytest.raises(WeightsError, match="damaged"):
            GroupedCoder.of_model(good | {name: value}, 50)
    with pytest.raises(WeightsError, match="all of them together"):
        BorrowingCoder.of_model(good, 50)
    del good["prior.cuts"]
    with pytest.raises(WeightsError, match="cuts"):
        GroupedCoder.of_model(good, 50)


def test_groups_that_say_nothing_cost_nothing():
    """With no weights beside, predictions are those of all channels together; only their order differs."""
    found = arrays()
    tables = GroupedTables.from_tensors(found)
    silent = replace(tables, beside=np.zeros_like(tables.beside))
    whole = replace(silent, cuts=np.array([], np.uint8), beside=silent.beside[:, :0])
    frames, motion = chosen((3, 4, 10, 14)), MotionTables.from_tensors(found)
    one, other = (GroupedCoder(each, motion, 70).choose(frames, ()) for each in (silent, whole))
    assert np.array_equal(one.symbols, other.symbols)


def test_bits_of_positions_are_those_of_symbols():
    found = arrays()
    coder = GroupedCoder(GroupedTables.from_tensors(found), MotionTables.from_tensors(found), 70)
    frames = chosen((3, 4, 10, 14))
    frames[:, :, 6:] = 0
    frames[1, :, :, :7] = 0
    plan = coder.choose(frames, ())
    bits = coder.bits_by_position(plan)
    beside = sum(coder.bits_of(g, r).sum() for where, g, r in plan.steps if isinstance(where, Beside))
    assert bits.shape == (3, 10, 14)
    assert beside > 0
    assert np.isclose(bits.sum() + beside, coder.bits_by_channel(plan).sum())
    told, nothing = (bits[0, :6], bits[1, :6, 7:], bits[2, :6]), (bits[:, 7:], bits[1, :6, :6])
    assert max(part.mean() for part in nothing) < 0.5 * min(part.mean() for part in told)


@pytest.fixture(params=[GROUPED, PYRAMID, COARSE_TO_FINE, REACHING])
def options(request):
    return EncodeOptions(model=f"tiny-{request.param}", device="cpu", dtype="fp32", quality=9)


@pytest.fixture
def grouped(options, tiny, lossless, tmp_path):
    """A file of 46 frames, four chunks; in the middle a period begins."""
    lossless(moving_picture(46, 44, 38, seed=3), "source.mkv")
    path = tmp_path / "grouped.cvl"
    encode_file(tmp_path / "source.mkv", path, options)
    with open_cvl(path) as cvl:
        assert cvl.header.coder == find_model(options.model).coder
    return path


def test_a_part_is_that_of_the_whole(grouped):
    with open_cvl(grouped) as cvl:
        spec, weights = latents.model_of(cvl.header)
    engine = codec.make_engine(spec, weights.build, codec.choose_placement("cpu", "fp32"))
    parts = [*(range(n, n + 1) for n in (0, 5, 17, 33, 45)), range(15, 40)]
    assert assert_parts_are_those_of_the_whole(engine, grouped, parts) == 46


def test_an_interrupted_encode_goes_on_to_the_same_bytes(grouped, options):
    assert_an_interrupted_encode_goes_on(grouped, options)


def test_what_a_chunk_takes_is_measured(grouped):
    assert_all_is_measured(grouped, chunks=4)
