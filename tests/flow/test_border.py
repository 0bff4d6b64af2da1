"""What a group does not show is found in the one beside it."""

import pytest
import torch
from pictures import psnr, texture

from cvvae_cli.bitstream import vectors
from cvvae_cli.flow.border import (
    BLOCK,
    Painted,
    filled,
    followed_across,
    inwards,
    joined,
    kept_between,
    loses,
    refilled,
)
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


def page(down, right, seed=0):
    """Colours int16 (3, 96, 128) of a large page of tiles, so many pixels from its middle."""
    rng = torch.Generator().manual_seed(seed)
    tiles = torch.randint(-900, 900, (3, 80, 80), generator=rng).to(torch.int16)
    whole = tiles.repeat_interleave(4, 1).repeat_interleave(3, 2)
    return whole[:, 96 + down : 96 + down + SIZE[0], 40 + right : 40 + right + SIZE[1]].clone()


def painted(colours, opaque=None, vector=(0, 0)):
    opaque = torch.ones(SIZE, dtype=torch.bool) if opaque is None else opaque
    moves = torch.tensor(vector).view(2, 1, 1).expand(2, SIZE[0] // BLOCK, SIZE[1] // BLOCK)
    return Painted(colours, opaque, moves.clone())


def as_frame(colours):
    return colours[None].float() / 1000


def inside_when(down, right):
    """Places that a picture shows which lies so many pixels back."""
    return how_far_outside(constant(down, right)) == 0


def share_come_back(whole, followed, frame, shows):
    """How much of what was wrong where something `shows` is right; whatever changed there is right."""
    wrong, left = ((each - frame).abs().amax((0, 1)) > 1e-3 for each in (followed, whole))
    assert not (left & (whole != followed).any(1)[0] & shows).any()
    assert (wrong & shows).sum() > 20
    return 1 - float((left & shows).sum() / (wrong & shows).sum())


STEPS = [(12, 0), (-12, 0), (0, 8), (-4, -20), (28, 4)]  # from group to group


@pytest.mark.parametrize("step", STEPS)
def test_what_is_painted_comes_back_exactly_from_the_group_before(step):
    before, after = page(0, 0), page(*step)
    kept = kept_between(painted(before), painted(after, vector=(-step[0], -step[1])))
    frame = page(step[0] // 2, step[1] // 2)  # half a group earlier than the reference
    flow = constant(-(step[0] // 2), -(step[1] // 2))
    followed = moved(as_frame(after), flow)
    assert loses(flow, SIZE)
    assert not torch.allclose(followed, as_frame(frame), atol=1e-3)
    whole = refilled(followed, flow, SIZE, as_frame(before), kept, -1)
    shows = inside_when(step[0] // 2, step[1] // 2)  # what has not come in by then
    assert share_come_back(whole, followed, as_frame(frame), shows) > 0.85


@pytest.mark.parametrize("step", STEPS)
def test_and_from_the_group_after(step):
    before, after = page(0, 0), page(*step)
    kept = kept_between(painted(before), painted(after, vector=(-step[0], -step[1])))
    frame = page(step[0] // 4, step[1] // 4)
    flow = constant(step[0] // 4, step[1] // 4)
    followed = moved(as_frame(before), flow)
    whole = refilled(followed, flow, SIZE, as_frame(after), kept, 1)
    shows = inside_when(step[0] // 4 - step[0], step[1] // 4 - step[1])  # what has not left by then
    assert share_come_back(whole, followed, as_frame(frame), shows) > 0.85


def test_nothing_comes_back_that_is_not_known_to_be_the_same():
    before, after, flow = page(0, 0), page(12, 0), constant(-6, 0)
    followed = moved(as_frame(after), flow)

    def come_back(one, other):
        return refilled(followed, flow, SIZE, as_frame(before), kept_between(one, other), -1)

    bare = torch.zeros(SIZE, dtype=torch.bool)
    moves = {"vector": (-12, 0)}
    assert not torch.equal(come_back(painted(before), painted(after, **moves)), followed)
    for one, other in (
        (painted(before), painted(page(12, 0, seed=1), **moves)),  # another page
        (painted(before), painted(after)),  # which did not move so
        (painted(before, bare), painted(after, **moves)),
        (painted(before), painted(after, bare, **moves)),
    ):
        assert torch.equal(come_back(one, other), followed)


def test_only_what_is_opaque_comes_back():
    before, after, flow = page(0, 0), page(12, 0), constant(-6, 0)
    followed = moved(as_frame(after), flow)
    left = torch.zeros(SIZE, dtype=torch.bool)
    left[:, :64] = True
    kept = kept_between(painted(before, left), painted(after, left, (-12, 0)))
    whole = refilled(followed, flow, SIZE, as_frame(before), kept, -1)
    assert torch.allclose(whole[..., :64], as_frame(page(6, 0))[..., :64], atol=1e-3)
    assert torch.equal(whole[..., 64:], followed[..., 64:])


def test_blocks_are_those_of_vectors():
    assert BLOCK == vectors.BLOCK * vectors.CELL


def test_places_outside_and_the_way_in():
    place = torch.tensor([-3.0, 0.0, 4.5, 9.0, 10.5])
    assert inwards(place, 10).tolist() == [19.0, 0.0, 0.0, 0.0, -17.5]
    assert inwards(place, 10, torch.arange(5.0)).tolist() == [3.0, 0.0, 0.0, 0.0, -5.5]
    assert outside(place, torch.tensor([0.0, 0.0, 0.0, 12.0, 5.0]), (10, 10)).tolist() == [3, 0, 0, 3, 1.5]
