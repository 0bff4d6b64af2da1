"""Differences between rate-distortion curves."""

import numpy as np
import pytest

from cvvae_cli.bench.rates import at_quality, bd_quality, bd_rate
from cvvae_cli.bench.summary import summarize
from cvvae_cli.cli.bench import show

CURVE = [(0.01, 28.0), (0.02, 31.0), (0.05, 35.0), (0.1, 38.0)]


def row(clip: str, model: str, rate: float, psnr_db: float | None, pooled: float | None = None):
    """Of one setting; which one, its rate says."""
    found = {"clip": clip, "model": model, "quality": rate, "frames": 9}
    return found | {"bits_per_pixel": rate, "psnr_db": psnr_db, "psnr_db_pooled": pooled}


def test_clips_with_frames_equal_to_their_source_are_named_and_compared_by_the_mean_error_or_left_out():
    rates = {"ours": 0.02, "x264": 0.01}
    rows = [row("lawn", model, n * rate, 30 + n) for model, rate in rates.items() for n in (1, 2, 3)]
    rows += [
        row("black", model, n * rate, 30 + n if model == "ours" else None)
        for model, rate in rates.items()
        for n in (1, 2)
    ]
    rows += [  # one setting of the four has such a frame
        row("fade", model, n * rate, None if (model, n) == ("x264", 1) else 50 - 9 * n, 30 + n)
        for model, rate in rates.items()
        for n in (1, 2)
    ]
    (found,) = summarize(rows, "x264")["bd"]
    assert found["bd_rate"] == pytest.approx(1.0)
    assert found["bd_rate_of_clips"] == {"lawn": pytest.approx(1.0), "fade": pytest.approx(1.0)}
    assert found["clips_of_pooled_psnr"] == ["fade"]
    assert found["clips_left_out"] == ["black"]


def test_a_curve_is_as_good_as_itself():
    assert bd_rate(CURVE, CURVE) == pytest.approx(0)
    assert bd_quality(CURVE, CURVE[::-1]) == pytest.approx(0)


def test_twice_the_bits_at_every_quality_are_plus_100_percent():
    assert bd_rate(CURVE, [(2 * rate, quality) for rate, quality in CURVE]) == pytest.approx(1)


def test_one_decibel_more_at_every_rate_is_one_decibel():
    assert bd_quality(CURVE, [(rate, quality + 1) for rate, quality in CURVE]) == pytest.approx(1)


def test_a_straight_line_has_the_difference_that_can_be_worked_out():
    rates = np.array([0.01, 0.02, 0.04, 0.08])
    first = list(zip(rates, 30 + 3 * np.log2(rates / 0.01), strict=True))
    second = list(zip(rates, 31.5 + 3 * np.log2(rates / 0.01), strict=True))
    assert bd_rate(first, second) == pytest.approx(2**-0.5 - 1)
    assert bd_quality(first, second) == pytest.approx(1.5)


def test_curves_without_a_common_part_have_no_difference():
    assert bd_rate(CURVE, [(0.01, 50.0), (0.1, 60.0)]) is None
    assert bd_rate(CURVE, CURVE[:1]) is None
    assert bd_quality(CURVE, [(1.0, 30.0), (2.0, 33.0)]) is None


def test_the_rate_at_a_quality_lies_between_points_and_not_beyond():
    assert at_quality(CURVE, 29.5) == pytest.approx((0.01 * 0.02) ** 0.5)
    assert at_quality(CURVE, 50) is None


def test_what_overlaps_is_shown_beside_what_does_not(capsys):
    rows = [row("lawn", model, n / 100, 30 + n) for model in ("ours", "x264") for n in (1, 2, 3)]
    rows += [row("bars", "ours", n / 100, 60 + n) for n in (1, 2)]
    rows += [row("bars", "x264", n / 100, 20 + n) for n in (1, 2)]
    show(summarize(rows, "x264"), ["model"], [["ours"]])
    assert "no mean of BD-rates" in (shown := capsys.readouterr().out)
    assert "(lawn +0%, bars does not overlap)" in shown
