"""Frames across a cut are left to the group beside."""

import numpy as np
import pytest
import torch
from pictures import psnr, texture

from cvvae_cli.engine.borrowing import Borrowing
from cvvae_cli.flow.borrow import borrow
from cvvae_cli.flow.field import FIRST, LAST, OTHERS, REFERENCE, SECOND, moved_by

HEIGHT, WIDTH = 96, 128


def scene(frames, seed, speed=2):
    """A texture of its own that pans, (3, T, H, W) in [-1, 1]."""
    whole = texture(HEIGHT, WIDTH + speed * frames, seed, grain=16)
    return torch.stack([whole[:, :, speed * n : speed * n + WIDTH] for n in range(frames)], 1)


def film(*lengths, speed=2):
    """Scenes one after the other as groups (N, 3, 4, H, W)."""
    frames = torch.cat([scene(n, seed, speed) for seed, n in enumerate(lengths, 1)], 1)
    return frames.unflatten(1, (-1, 4)).transpose(0, 1)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((5, 7), {(1, FIRST)}),
        ((6, 6), {(1, FIRST), (1, SECOND)}),
        ((7, 5), {(1, LAST)}),
        ((4, 8), set()),  # between groups
        ((12,), set()),
        ((3, 9), {(0, LAST)}),
        ((2, 10), set()),  # nothing is known of what was before
        ((11, 1), set()),  # nor of what comes after
        ((7, 2, 3), {(1, LAST)}),  # of two frames, one is the other, not each
    ],
)
def test_what_lies_across_a_cut_is_borrowed(lengths, expected):
    groups = film(*lengths)
    left, borrowed = borrow(groups, None, None)
    assert set(borrowed) == expected
    for (number, part), vectors in borrowed.items():
        assert torch.equal(left[number, :, OTHERS[part]], groups[number, :, REFERENCE])
        frame = groups[number - 1, :, -1] if part != LAST else groups[number + 1, :, 0]
        inside = (..., slice(16, -16), slice(24, -24))
        there = moved_by(frame[None], vectors)[0]
        assert psnr(there[inside], groups[number, :, OTHERS[part]][inside]) > 30  # it moved
        left[number, :, OTHERS[part]] = groups[number, :, OTHERS[part]]
    assert torch.equal(left, groups)  # nothing else is touched


def test_what_is_given_is_left_alone():
    groups = film(5, 7)
    before = groups.clone()
    borrow(groups, None, None)
    assert torch.equal(groups, before)


def test_frames_beside_are_the_neighbours_of_the_first_and_the_last_group():
    groups = film(2, 9, 1)
    _, borrowed = borrow(groups, scene(1, 1)[:, 0], scene(2, 3)[:, 1])
    assert set(borrowed) == {(0, FIRST), (0, SECOND), (2, LAST)}
    _, borrowed = borrow(groups, scene(1, 8)[:, 0], scene(2, 9)[:, 1])  # other scenes
    assert borrowed == {}


def test_a_flash_is_no_cut():
    groups = film(12)
    groups[1, :, 1] = 1 - groups[1, :, 1].abs() / 4
    assert borrow(groups, None, None)[1] == {}


def test_fast_motion_is_no_cut():
    assert borrow(film(12, speed=23), None, None)[1] == {}


def test_a_chunk_gives_its_groups_piece_by_piece():
    groups = film(5, 9, 6)  # cuts after frames 1 of group 1 and 2 of group 3
    whole = groups.transpose(0, 1).flatten(1, 2)[None]
    together = Borrowing(120.0, 5, None)
    expected = together(whole, None)
    assert set(together.found) == {(1, FIRST), (3, FIRST), (3, SECOND)}
    apart = Borrowing(120.0, 5, None)
    parts = [apart(whole[:, :, at : at + 4], whole[0, :, min(at + 4, 19)]) for at in range(0, 20, 4)]
    assert torch.equal(torch.cat(parts, 2), expected)
    assert set(apart.found) == set(together.found)
    for key, vectors in together.found.items():
        assert np.array_equal(vectors, apart.found[key])


def test_groups_that_only_fill_up_lend_nothing():
    groups = film(7, 1, 4)  # the last frame of group 1 is of another scene, and so is all that follows
    groups[2] = groups[1, :, -1:]
    whole = groups.transpose(0, 1).flatten(1, 2)[None]
    chunk = Borrowing(120.0, 2, None)
    assert torch.equal(chunk(whole, None), whole)
    assert chunk.found == {}


def test_in_what_is_borrowed_nothing_moves_whatever_alignment_makes_of_it():
    video = film(5, 7).transpose(0, 1).flatten(1, 2)[None]
    chunk = Borrowing(120.0, 3, None)
    chunk(video, None)
    assert set(chunk.found) == {(1, FIRST)}
    fields = np.ones((3, 3, 2, 6, 8), np.int16)
    before = video.clone()
    chunk.rest(video, fields)
    assert not fields[1, FIRST].any()
    fields[1, FIRST] = 1
    assert fields.all()
    before[:, :, 4] = before[:, :, 6]
    assert torch.equal(video, before)
