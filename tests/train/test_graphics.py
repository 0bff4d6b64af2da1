"""Drawn scenes: text and flat shapes beside what cameras took."""

import random

import pytest
import torch

from cvvae_cli.train.config import DataSection
from cvvae_cli.train.data import ClipSampler
from cvvae_cli.train.graphics import Layer, composed, flat, glyph, graphics
from cvvae_cli.video.sources import Sources


@pytest.mark.parametrize("frames", [1, 5])
def test_a_scene_is_a_pure_function_of_its_seed(frames):
    scenes = [graphics(random.Random(seed), frames, 48) for seed in (1, 1, 2)]
    assert all(
        scene.shape == (frames, 3, 48, 48) and 0 <= scene.min() <= scene.max() <= 1 for scene in scenes
    )
    assert torch.equal(scenes[0], scenes[1])
    assert not torch.equal(scenes[0], scenes[2])


def test_scenes_rest_move_and_hold_full_colours():
    scenes = [graphics(random.Random(seed), 5, 48) for seed in range(100)]
    resting = sum(torch.equal(scene, scene[:1].expand_as(scene)) for scene in scenes)
    saturated = sum(bool((scene.amax(1) - scene.amin(1) == 1).any()) for scene in scenes)
    assert 25 < resting < 75
    assert saturated > 30


def test_a_layer_moves_by_its_speed_from_its_first_frame_on_and_is_cut_at_the_edge():
    ground = torch.zeros(3, 4, 6)
    layer = Layer(
        flat((1.0, 0.5, 0.0), 2, 2), torch.tensor([[1.0, 1.0], [1.0, 0.5]]), (1, 3), (1, 2), first=1
    )
    assert composed(ground, [layer], 0).sum() == 0
    there = composed(ground, [layer], 1)
    assert there[0].tolist() == [[0] * 6, [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0.5, 0], [0] * 6]
    assert there[1, 1, 3] == 0.5
    assert composed(ground, [layer], 2)[0].tolist() == [
        [0] * 6,
        [0] * 6,
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1],
    ]
    assert composed(ground, [layer], 3).sum() == 0
    assert ground.sum() == 0


def test_a_letter_has_strokes_and_space():
    for seed in range(50):
        letter = glyph(random.Random(seed))
        assert letter.shape == (7, 5)
        assert 3 <= letter.sum() < 35


def test_the_recipe_says_how_many_samples_are_drawn():
    nothing_to_read = Sources((), ())
    sampler = ClipSampler(nothing_to_read, DataSection(graphics_share=1.0, cut_share=0.5), seed=3)
    batch = sampler.batch(0, 4, 5, 32)
    assert batch.shape == (4, 3, 5, 32, 32)
    assert batch.min() >= -1
    assert batch.max() <= 1
    assert torch.equal(batch, sampler.batch(0, 4, 5, 32))
    with pytest.raises(IndexError):  # of no photos
        ClipSampler(nothing_to_read, DataSection(), seed=3).batch(0, 4, 5, 32)
