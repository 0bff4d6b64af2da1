"""Frames of a group are moved onto one and back."""

import numpy as np
import pytest
import torch
from pictures import panning, psnr, texture
from torch.nn import functional

from cvvae_cli.bitstream.flow import FlowCoder
from cvvae_cli.flow import align, estimate
from cvvae_cli.flow.field import LARGEST, SPACING, UNIT, dense, field_size, inverse, moved
from cvvae_cli.flow.refinement import WORTHLESS, estimated_bits, from_parts, thinned, to_parts
from cvvae_cli.flow.squares import blurred, neighbours
from cvvae_cli.train.flow import flow_frequencies


@pytest.mark.parametrize("steps", [(0, 2, 4, 6), (0, 5, 10, 15), (9, 3, 4, 12)])
def test_what_a_camera_pans_over_stands_still_after_it_is_aligned(steps):
    group = panning(steps)
    aligned, fields = align.align(group)
    inside = (slice(None), slice(None), slice(None), slice(16, -16), slice(24, -24))
    of_frame = aligned[inside].unbind(2)
    for number in (0, 1, 3):
        assert psnr(of_frame[number], of_frame[2]) > 30 > psnr(group[inside][:, :, number], of_frame[2])
    wanted = [UNIT * (steps[n] - steps[2]) for n in (0, 1, 3)]
    assert np.allclose(np.median(fields[0, :, 1], (1, 2)), wanted, atol=1)  # to the right
    assert np.abs(np.median(fields[0, :, 0], (1, 2))).max() <= 1
    assert psnr(align.restore(aligned, fields)[inside], group[inside]) > 30


def test_what_rests_stays_as_it_is():
    still = texture(40, 56)[:, None].expand(-1, 8, -1, -1)[None]
    aligned, fields = align.align(still)
    assert fields.shape == (2, 3, 2, 3, 4)
    assert not fields.any()
    assert torch.equal(aligned, still)
    assert align.restore(still, fields) is still


def test_the_reference_is_never_touched():
    group = torch.randn(1, 3, 4, 48, 64, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    fields = np.random.default_rng(0).integers(-20, 20, (1, 3, 2, 3, 4)).astype(np.int16)
    back = align.restore(group, fields)
    assert torch.equal(back[:, :, 2], group[:, :, 2])
    assert not torch.equal(back[:, :, 1], group[:, :, 1])


def test_groups_do_not_depend_on_those_beside_them():
    groups = torch.cat([panning((0, 2, 4, 6)), panning((0, 0, 3, 3))], 2)
    together, fields = align.align(groups)
    for number in range(2):
        alone, own = align.align(groups[:, :, 4 * number : 4 * number + 4])
        assert np.array_equal(own[0], fields[number])
        assert torch.allclose(alone, together[:, :, 4 * number : 4 * number + 4], atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (16, 200), (24, 40), (136, 72)])
def test_any_size_that_the_network_takes(size):
    video = torch.stack([texture(*size, seed) for seed in range(4)], 1)[None]  # four cuts: nothing fits
    aligned, fields = align.align(video)
    assert fields.shape == (1, 3, 2, *field_size(*size))
    assert np.abs(fields).max() <= LARGEST
    assert aligned.shape == align.restore(aligned, fields).shape == video.shape
    assert torch.isfinite(aligned).all()
    assert aligned.abs().max() <= 1


def test_an_inverse_field_leads_back():
    vectors = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(2)) * 4
    there, back = dense(vectors, 96, 128), inverse(vectors, 96, 128)
    home = moved(there, back, "bilinear") + back
    assert home[:, :, 16:-16, 16:-16].abs().median() < 0.1


def test_a_vector_that_lost_its_way_takes_one_that_fits_far_better():
    group = align.brightness(panning((14, 3, 8, 18)))
    matching = estimate.Matching(*(functional.avg_pool2d(x, 2) for x in of_frames(group)))
    wrong = torch.zeros(3, 2, 6, 8)
    right = wrong.clone()
    right[:, 1] = torch.tensor([6.0, -5.0, 10.0])[:, None, None]
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert torch.equal(estimate.best_of(matching, wrong, (right,))[inside], right[inside])
    assert torch.equal(estimate.best_of(matching, right, (wrong, right + 0.2)), right)


def of_frames(luma):
    """Of a group (1, 4, H, W): the reference, three times, and the other frames, (3, 1, H, W)."""
    return luma[0, 2].expand(3, 1, -1, -1), luma[0, [0, 1, 3], None]


def test_estimated_fields_keep_content_in_its_order():
    steep = torch.zeros(1, 2, 6, 8)
    steep[:, :, 2:4, 3:5] = 3 * SPACING
    smooth = estimate.unfolded(steep)
    change = max((n - smooth).abs().max() for n in neighbours(smooth))
    assert change < estimate.STEEPEST * SPACING < (steep[..., 3] - steep[..., 2]).abs().max()


def test_vectors_that_are_worth_nothing_are_left_out_and_those_worth_much_stay():
    fields = np.random.default_rng(3).integers(-30, 30, (3, 2, 5, 9)).astype(np.int32)
    costs = np.zeros((3, 3, 5, 9))
    assert not thinned(fields, costs).any()
    costs[:, :2] = 1e9
    assert np.array_equal(thinned(fields, costs), fields)
    assert np.array_equal(from_parts(to_parts(fields)), fields)


def test_a_steady_motion_never_goes_farther_than_a_file_may_hold():
    fields = np.full((3, 2, 5, 9), LARGEST, np.int32)
    costs = np.zeros((3, 3, 5, 9))
    costs[1, :2] = 1.0  # of the frame before the reference alone; the others are left as expected
    chosen = thinned(fields, costs, 1000.0)
    assert np.abs(chosen[1]).min() == np.abs(chosen).max() == LARGEST
    coder = FlowCoder(flow_frequencies([chosen[None]]))
    assert np.array_equal(coder.decode_fields(coder.encode_fields(chosen[None]), (1, 5, 9)), chosen[None])


def test_the_error_for_which_no_vector_is_coded_is_a_choice():
    fields = np.random.default_rng(3).integers(-30, 30, (3, 2, 5, 9)).astype(np.int32)
    costs = np.ones((3, 3, 5, 9))
    costs[:, 2] = 0
    kept = [np.count_nonzero(to_parts(thinned(fields, costs, error))) for error in (1.0, 3000.0, 9000.0)]
    assert kept[0] > 1.1 * kept[1] > 1.2 * kept[2] > 0
    assert np.array_equal(thinned(fields, costs), thinned(fields, costs, WORTHLESS))


@pytest.mark.parametrize(("place", "stride"), [(0, 16), (8, 8), (4, 4), (3, 1)])
def test_a_vector_counts_more_from_which_others_are_expected(place, stride):
    fields = np.zeros((3, 2, 17, 17), np.int32)
    fields[1, 1, place, place] = 2 * UNIT
    costs = np.ones((3, 3, 17, 17))
    costs[:, 2] = 0  # so that an error of two pixels to the right is 4 in each frame, 12 in all
    for worthless, is_kept in ((11.9 * stride, True), (12.1 * stride, False)):
        assert bool(thinned(fields, costs, worthless)[1, 1, place, place]) is is_kept


def test_of_frames_that_are_not_to_be_seen_fields_cost_little():
    _, fields = align.align(panning((0, 2, 4, 4)))
    ended = align.end_after(3, fields[0])
    assert np.array_equal(ended[:2], fields[0, :2])
    assert not to_parts(ended.astype(np.int32))[1].any()
    alone = align.end_after(1, np.zeros_like(fields[0]))
    assert not alone[0].any()  # the only frame that is seen stays where it is
    assert np.count_nonzero(alone) == 1
    for frames in (2, 4):
        assert np.array_equal(align.end_after(frames, fields[0]), fields[0])


def test_gradients_pass_through_what_is_moved_back():
    aligned, fields = align.align(panning((0, 2, 4, 6)))
    aligned.requires_grad_(True)
    align.restore(aligned, fields).square().sum().backward()
    assert (aligned.grad.abs().sum((0, 1, 3, 4)) > 0).all()


def test_what_rests_behind_something_that_moves_is_not_dragged_along():
    def gray(height, width, seed):
        return texture(height, width, seed)[:1].expand(3, -1, -1) * 1.5

    behind = gray(96, 160, 1)
    frames = []
    for step in range(4):
        frame = behind.clone()
        frame[:, 40:72, 32 + 4 * step : 80 + 4 * step] = gray(32, 48, 5)
        frames.append(frame)
    luma = align.brightness(torch.stack(frames, 1)[None])
    fields = align.find(luma)
    rests = np.abs(fields[0][..., [0, 1, 5], :]).max(1)
    assert (rests <= UNIT).mean() > 0.95  # far above and below
    square = fields[0, :, 1, 2:4, 3:5]
    assert np.allclose(np.median(square, (1, 2)), UNIT * 4 * np.array([2, 1, -1]), atol=2 * UNIT)


def test_pictures_are_matched_at_half_pixels_as_interpolation_gives_them():
    generator = torch.Generator().manual_seed(7)
    source, target = (255 * torch.rand(6, 1, 24, 40, generator=generator) for _ in range(2))
    source = source[::3].repeat_interleave(3, 0)  # the references of two groups
    vectors = 60 * torch.randn(6, 2, 3, 5, generator=generator)
    matching = estimate.Matching(source, target)
    size = SPACING // estimate.TRIAL_SCALE
    steps = (vectors * UNIT).round().clamp(-LARGEST, LARGEST) / UNIT / estimate.TRIAL_SCALE
    flow = steps.repeat_interleave(size, 2).repeat_interleave(size, 3)
    errors = functional.avg_pool2d((moved(source, flow, "bilinear") - target).square(), size)
    expected = torch.log2(1 + (errors + blurred(errors)) / (2 * estimate.VISIBLE))
    assert torch.allclose(matching.misfits(vectors), expected, atol=1e-3)


def test_a_picture_at_every_second_pixel_is_that_at_all_of_them():
    picture, flow = (
        texture(40, 56)[None],
        3 * torch.randn(1, 2, 40, 56, generator=torch.Generator().manual_seed(8)),
    )
    assert torch.allclose(
        moved(picture, flow[:, :, ::2, ::2], stride=2), moved(picture, flow)[:, :, ::2, ::2], atol=1e-5
    )


def test_a_group_that_gains_nothing_stays_as_it_is():
    pan, seed = panning((0, 3, 6, 9)), torch.Generator().manual_seed(4)
    noise = torch.randn(1, 3, 4, 96, 128, generator=seed).clamp(-1, 1)
    video = torch.cat([noise, pan], 2)
    aligned, fields = align.align(video)
    assert fields[1].any()
    assert not fields[0].any()
    assert torch.equal(aligned[:, :, :4], noise)


def test_what_moves_before_flat_ground_is_aligned_though_it_is_small():
    group = torch.full((1, 3, 4, 160, 256), 0.2)
    for number in range(4):
        group[:, :, number, 56:88, 64 + 5 * number : 96 + 5 * number] = texture(32, 32)
    aligned, fields = align.align(group)
    assert fields.any()
    assert psnr(aligned[:, :, 0], group[:, :, 2]) > psnr(group[:, :, 0], group[:, :, 2]) + 5


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_group_with_a_cut_stays_as_it_is(cut):
    shot = panning((0, 0, 0, 0))
    group = torch.cat([shot[:, :, :cut], -shot[:, :, cut:].flip(3)], 2)
    aligned, fields = align.align(group)
    assert not fields.any()
    assert torch.equal(aligned, group)


def test_bits_of_fields_are_estimated_near_what_they_take():
    _, fields = align.align(panning((0, 2, 7, 9), 240, 320))
    flow = FlowCoder(flow_frequencies([fields]))
    taken, about = 8 * len(flow.encode_fields(fields)), estimated_bits(fields[0])
    assert fields.any()
    assert about / 2.5 < taken < 2.5 * about + 64


def test_what_a_frame_does_not_show_takes_no_bits_for_it_is_as_in_the_reference():
    aligned, fields = align.align(panning((0, 5, 10, 15)))
    assert fields.any()
    entered = aligned[..., -7:]  # of the first frames, 10 and 5 pixels before the reference
    assert psnr(entered[:, :, 0], entered[:, :, 2]) > 50
    left = aligned[..., :4]  # of the last, 5 after it
    assert psnr(left[:, :, 3], left[:, :, 2]) > 50


def test_what_comes_from_the_groups_beside_is_not_lost():
    group = panning((0, 30, 60, 90))  # most of the picture leaves
    luma = align.brightness(group)
    fields = np.zeros((1, 3, 2, 6, 8), np.int16)
    fields[0, :, 1] = np.array([-60, -30, 30])[:, None, None] * UNIT
    aligned = align.brightness(align.onto_reference(group, fields)[0])
    known = align.textured(luma), align.unlike_reference(luma)
    lost, filled = (
        align.worth(luma, *known, aligned, fields, is_filled=is_filled)[0] for is_filled in (False, True)
    )
    assert filled > lost + 0.05
