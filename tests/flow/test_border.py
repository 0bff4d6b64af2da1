"""What a group does not show is found in the one beside it."""

import pytest
import torch
from pictures import psnr, texture

from cvvae_cli.flow.border import filled, followed_across, inwards, joined, loses
from cvvae_cli.flow.field import led_to, moved, outside

SIZE = (96, 128)


def scene(down, right, seed=0):
    """A frame (1, 3, 96, 128) of a large picture, so many pixels from its middle."""
    h, w = SIZE
    return texture(h + 80, w + 80, seed, grain=12)[
        None, :, 40 + down : 40 + down + h, 40 + right : 40 + right + w
    ]


def constant(down, right):
    return torch.tensor([float(down), float(right)]).view(1, 2, 1, 1).expand(1, 2, *SIZE)


@pytest.mark.parametrize("step", [(0, 4), (0, -5), (3, 0), (-4, 3), (2, 6)])
def test_what_left_the_picture_comes_back(step):
    last, frame, reference = (scene(n * step[0], n * step[1]) for n in (-1, 0, 2))
    flow = constant(-2 * step[0], -2 * step[1])  # of the frame, from the reference
    lost = how_far_outside(flow) > 2
    followed = moved(reference, flow)
    across = followed_across(last, followed)
    assert across.belief > 0.95
    assert loses(flow, SIZE)
    whole = filled(followed, flow, SIZE, last, across.back, across.belief)
    repeated, found = (psnr(each[0][:, lost], frame[0][:, lost]) for each in (followed, whole))
    assert found > max(28, repeated + 6)
    stays = how_far_outside(flow) == 0
    assert torch.equal(whole[0][:, stays], followed[0][:, stays])


def how_far_outside(flow):
    return outside(*led_to(flow), SIZE)[0]


def test_the_ways_across_lead_there_and_back():
    across = followed_across(scene(0, 0), scene(2, 5))
    inside = (0, slice(None), slice(24, -24), slice(24, -24))
    for way, wanted in ((across.back, (2, 5)), (across.there, (-2, -5))):
        assert (way[inside] - torch.tensor(wanted).view(2, 1, 1)).abs().mean() < 0.3
    twice = joined(across.back, across.there)
    assert twice[inside].abs().mean() < 0.1


def test_nothing_is_taken_from_another_scene():
    last, first = scene(0, 0), scene(0, 4, seed=5)
    across = followed_across(last, first)
    assert across.belief < 0.1
    flow = constant(0, 8)
    whole = filled(first, flow, SIZE, last, across.back, across.belief)
    assert (whole - first).abs().max() < 0.1 * (last - first).abs().max()


def test_what_moves_inside_loses_nothing():
    assert not loses(constant(0, 0), SIZE)
    assert loses(constant(0, 0), (96, 120))  # the true picture is smaller
    still = scene(0, 0)
    assert torch.equal(filled(still, constant(0, 0), SIZE, scene(9, 9), constant(1, 1), 1.0), still)


def test_what_the_source_does_not_show_stays_as_it_is():
    frame = scene(0, 0)
    whole = filled(frame, constant(0, 20), SIZE, scene(5, 5), constant(0, 200), 1.0)
    assert torch.equal(whole, frame)


def test_places_outside_and_the_way_in():
    place = torch.tensor([-3.0, 0.0, 4.5, 9.0, 10.5])
    assert inwards(place, 10).tolist() == [19.0, 0.0, 0.0, 0.0, -17.5]
    assert outside(place, torch.tensor([0.0, 0.0, 0.0, 12.0, 5.0]), (10, 10)).tolist() == [3, 0, 0, 3, 1.5]
