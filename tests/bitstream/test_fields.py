"""Chunks whose groups of frames may be aligned: fields beside symbols."""

import numpy as np
import pytest
from container.seeds import coders

from cvvae_cli.bitstream.chunk import SIZE_BYTES, cut, which_aligned
from cvvae_cli.bitstream.motion import FRAMES, LUMA, NUMBERS, of_instants
from cvvae_cli.errors import CorruptFileError

SHAPE = (4, 3, 6, 8)  # C, t, h, w: 3 rows and 4 columns of vectors


@pytest.fixture
def coder(tiny):
    return coders()["prior-5"]


def latents(seed=0):
    return np.random.default_rng(seed).normal(0, 3, SHAPE).astype(np.float32)


def fields_of(*aligned):
    """int16 (t, 3, 2, 3, 4): something for the groups that are."""
    fields = np.random.default_rng(1).integers(-20, 20, (len(aligned), 3, 2, 3, 4)).astype(np.int16)
    return fields * np.array(aligned, np.int16)[:, None, None, None, None]


@pytest.mark.parametrize("aligned", [(1, 1, 1), (0, 1, 0), (0, 0, 1), (0, 0, 0)])
def test_latents_and_fields_come_back(coder, aligned):
    fields = fields_of(*aligned)
    data = coder.encode(0, latents(), fields)
    assert np.array_equal(coder.decode_fields(data, SHAPE), fields)
    assert which_aligned(fields).tolist() == [bool(each) for each in aligned]
    back = coder.decode(0, data, SHAPE)
    plan = coder.chunks.coder.choose(coder.quantizer.scale(latents()), (), which_aligned(fields))
    assert np.array_equal(back, coder.quantizer.dequantize(plan.symbols))
    bits = coder.measure(0, data, SHAPE).sum()
    assert abs(bits - 8 * len(data)) < 0.02 * 8 * len(data) + 64


def test_where_no_group_is_aligned_fields_take_three_bytes(coder):
    moved, symbols = cut(coder.encode(0, latents(), fields_of(0, 0, 0)))
    assert moved == b""
    assert len(symbols) % 4 == 0


def test_whether_a_group_is_aligned_changes_what_is_expected_of_it(coder):
    """The flag reaches the prior: symbols read with the wrong one are others."""
    data = coder.encode(0, latents(), fields_of(0, 1, 1))
    _, symbols = cut(data)
    right, wrong = (
        coder.chunks.coder.decode(symbols, (3, 4, 6, 8), (), aligned)
        for aligned in (np.array([False, True, True]), None)
    )
    assert np.array_equal(right[0], wrong[0])  # nothing is expected of the first
    assert not np.array_equal(right, wrong)


@pytest.mark.parametrize("damage", [b"", b"\0", b"\xff\xff\xff", b"\xff\xff\xff" + bytes(40)])
def test_sizes_that_cannot_be_are_refused(coder, damage):
    with pytest.raises(CorruptFileError):
        cut(damage)
    assert SIZE_BYTES == 3


def test_four_instants_that_are_alike_are_one():
    weights = np.random.default_rng(0).integers(-30_000, 30_000, (FRAMES * NUMBERS, 5)).astype(np.int16)
    numbers = np.random.default_rng(1).integers(-9, 9, NUMBERS)
    luma, chroma = numbers[:LUMA], numbers[LUMA:]
    four = np.concatenate([np.tile(luma, FRAMES), np.tile(chroma, FRAMES)])
    assert np.array_equal(four @ weights.astype(np.int64), numbers @ of_instants(weights, 1))
    assert np.array_equal(of_instants(weights, FRAMES), weights)
