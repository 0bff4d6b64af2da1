"""How far one picture is shifted against another."""

import pytest
import torch

from cvvae_cli.flow.shift import shift_between


@pytest.fixture
def picture():
    torch.manual_seed(0)
    return torch.rand(1, 90, 140) * 255


@pytest.mark.parametrize("shift", [(0, 7), (-33, 2), (44, -60), (2, 0)])
def test_a_shift_is_found(picture, shift):
    target = picture.roll((-shift[0], -shift[1]), (1, 2))
    assert shift_between(target, picture, 127).tolist() == [list(shift)]
    assert shift_between(100 - target / 9, 5 - picture / 3, 127).tolist() == [list(shift)]  # in any unit


def test_most_of_what_moves_decides(picture):
    target = picture.clone()
    target[:, :60] = picture.roll((-5, 11), (1, 2))[:, :60]  # below it rests
    assert shift_between(target, picture, 127).tolist() == [[5, -11]]


def test_pairs_do_not_touch_each_other(picture):
    both = torch.cat([picture, picture.flip(2)])
    target = torch.cat([both[:1].roll(9, 1), both[1:].roll(-4, 2)])
    assert shift_between(target, both, 127).tolist() == [[-9, 0], [0, 4]]


def test_no_shift_is_larger_than_asked_for(picture):
    target = picture.roll(-40, 2)
    assert shift_between(target, picture, 8).abs().max() <= 8


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 40)])
def test_small_and_flat_pictures_have_some_shift(size):
    for target in (torch.zeros(1, *size), torch.rand(1, *size)):
        found = shift_between(target, torch.zeros(1, *size), 127)
        assert found.shape == (1, 2)
        assert (found.abs() < torch.tensor(size)).all()
