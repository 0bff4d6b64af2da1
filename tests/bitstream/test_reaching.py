"""Vectors that reach farther than those of older coders. Files with them: test_grouped.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bitstream.test_grouped import arrays, chosen
from bitstream.test_vectors import picture, shifted
from tiny import COARSE_TO_FINE, REACH, REACHING

from cvvae_cli.bitstream.anchors import CoarseToFineCoder, ReachingCoder
from cvvae_cli.bitstream.scene import Scene
from cvvae_cli.bitstream.vectors import BLOCK, LARGEST, Moving, search, useful
from cvvae_cli.errors import CorruptFileError, WeightsError
from cvvae_cli.flow.field import field_size
from cvvae_cli.types import Wanted

SHAPE = (2, 4, 9, 41)


def coder_that_moves_by(*vector, number=REACHING):
    """A coder that moves all blocks alike."""
    found = arrays(number)
    coder = (ReachingCoder if number == REACHING else CoarseToFineCoder).of_model(found, 85)
    rows, columns = (-(-length // BLOCK) for length in SHAPE[2:])
    field = np.broadcast_to(np.array(vector, np.int32)[:, None, None], (2, rows, columns))
    coder.search = lambda before, wanted: field.copy()
    return coder


@pytest.mark.parametrize("vector", [(0, LARGEST + 1), (-REACH, 2), (5, -REACH), (REACH, REACH)])
def test_symbols_and_vectors_come_back(vector):
    coder = coder_that_moves_by(*vector)
    plan = coder.choose(chosen(SHAPE), ())
    reader = ReachingCoder.of_model(arrays(REACHING), 85)
    assert np.array_equal(reader.decode(coder.pack(plan), SHAPE, ()), plan.symbols)
    assert (reader.vectors(SHAPE)[1] == np.array(vector)[:, None, None]).all()


@pytest.mark.parametrize(
    ("number", "vector"),
    [(REACHING, (0, REACH + 1)), (REACHING, (-REACH - 1, 0)), (COARSE_TO_FINE, (0, LARGEST + 1))],
)
def test_a_vector_that_reaches_too_far_is_refused(number, vector):
    coder = coder_that_moves_by(*vector, number=number)
    with pytest.raises(CorruptFileError, match="out of range"):
        coder.choose(chosen(SHAPE), ())


def test_with_the_same_vectors_the_bytes_are_those_of_the_coder_before():
    coders = [coder_that_moves_by(3, -100, number=number) for number in (COARSE_TO_FINE, REACHING)]
    one, other = (coder.pack(coder.choose(chosen(SHAPE), ())) for coder in coders)
    assert one == other


def test_unfit_integers_are_refused():
    good = arrays(REACHING)
    for reach in ([126], [4096], [300, 300], []):
        with pytest.raises(WeightsError, match="damaged"):
            ReachingCoder.of_model(good | {"prior.reach": np.array(reach, np.uint16)}, 50)
    with pytest.raises(WeightsError, match="reach"):
        ReachingCoder.of_model(arrays(COARSE_TO_FINE), 50)
    with pytest.raises(WeightsError, match="reach farther"):
        CoarseToFineCoder.of_model(good, 50)


def test_the_search_goes_as_far_as_is_useful():
    assert useful(1023, (480, 848)) == 424
    assert useful(1023, (2160, 3840)) == 1023
    assert useful(1023, (64, 64)) == useful(LARGEST, (2160, 3840)) == LARGEST
    source = picture(96, 640)
    start = torch.tensor([0, 200]).view(1, 2, 1, 1).expand(1, 2, 3, 20)
    target = shifted(source, 0, 203)
    far, near = (search(source, target, 1e-3, (start.clamp(-most, most),), most) for most in (320, LARGEST))
    assert (far[0, :, 1, 7:-1] == torch.tensor([0, 203])[:, None]).all()
    assert near.abs().max() <= LARGEST


def test_a_search_begins_from_far_motion_within_a_group():
    """Frames that follow their reference by 65 pixels a frame: 260 from group to group."""
    size = (96, 640)
    fields = np.zeros((1, 3, 2, *field_size(*size)), np.int16)
    fields[0, :, 1] = np.array([-260, -130, 130])[:, None, None]  # in half pixels
    still = np.zeros((1, 3, *size), np.float32)
    for reach, expected in ((REACH, 260), (LARGEST, LARGEST)):
        scene = Scene(Wanted(still, None, fields, None), None, reach)
        assert np.abs(scene.starts(0, 3, 20)[0][1]).max() == expected


def test_what_moves_shows_the_same_whatever_margin_is_kept():
    x = picture(64, 96)[:, None]
    vectors = torch.tensor([5, -9]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    cells = torch.ones(1, 8, 12).nonzero(as_tuple=True)
    shown = [Moving(x, 1, reach=reach).at(cells, vectors) for reach in (9, LARGEST)]
    assert torch.equal(*shown)
