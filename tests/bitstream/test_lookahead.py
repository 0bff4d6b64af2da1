import numpy as np
import pytest

from cvvae_cli.bitstream import residuals
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.lookahead import AHEAD, look_ahead
from cvvae_cli.models.registry import Weights, find_model

PRICE = 0.06


def noisy(mean, noise, frames=4, seed=0):
    """Latents (t, C, h, w) of one mean, each frame with its own noise."""
    rng = np.random.default_rng(seed)
    return (mean + rng.normal(0, noise, (frames, *mean.shape))).astype(np.float32)


def picture(seed=1):
    return np.random.default_rng(seed).normal(0, 2, (4, 8, 6))


def test_what_rests_stands_for_its_mean_and_its_bits_are_cheap():
    scaled = noisy(picture(), 0.02)
    aims, prices = look_ahead(scaled, PRICE)
    assert np.allclose(aims[0], scaled.mean(0), atol=0.01)
    assert prices[:-1].max() < 0.55 * PRICE


def test_what_changes_is_left_as_it_is_and_its_bits_are_dear():
    scaled = np.stack([picture(seed) for seed in range(4)]).astype(np.float32)
    aims, prices = look_ahead(scaled, PRICE)
    assert np.allclose(aims, scaled, atol=1e-6)
    assert prices.min() > 1.24 * PRICE


def test_each_place_is_judged_by_itself():
    scaled = noisy(picture(), 0.02)
    scaled[1:, :, :, 3:] += 3
    _, prices = look_ahead(scaled, PRICE)
    assert prices[0, :, :, :3].max() < 0.55 * PRICE
    assert prices[0, :, :, 3:].min() > 1.24 * PRICE
    assert prices[1].max() < 0.55 * PRICE


def test_of_the_last_frame_nothing_is_known():
    scaled = noisy(picture(), 0.02)
    for part in (scaled, scaled[:1]):
        aims, prices = look_ahead(part, PRICE)
        assert np.array_equal(aims[-1], part[-1])
        assert np.allclose(prices[-1], 1.25 * PRICE)


def test_frames_further_away_do_not_matter():
    scaled = noisy(picture(), 0.02, frames=AHEAD + 3)
    changed = scaled.copy()
    changed[AHEAD + 1 :] += 5
    for one, other in zip(look_ahead(scaled, PRICE), look_ahead(changed, PRICE), strict=True):
        assert np.array_equal(one[0], other[0])
        assert not np.array_equal(one[1], other[1])


def test_latents_are_not_written_to():
    scaled = noisy(picture(), 0.02)
    before = scaled.copy()
    look_ahead(scaled, PRICE)
    assert np.array_equal(scaled, before)


@pytest.mark.parametrize("frames", [0, 1, 4])
def test_at_no_price_latents_stand_for_themselves(frames):
    scaled = noisy(picture(), 0.02, frames)
    aims, prices = look_ahead(scaled, 0.0)
    assert np.array_equal(aims, scaled)
    assert prices.shape == scaled.shape
    assert not prices.any()


@pytest.mark.parametrize("level", [10, 55, 100])
def test_noise_over_what_rests_spoils_less_for_fewer_bits(level, monkeypatch):
    """Than with one price of bits everywhere, a lower one; with the coder of the default model."""
    spec = find_model("compact")
    coder = ENTROPY_CODERS[spec.coder].of_model(Weights(spec).arrays, level)
    rng = np.random.default_rng(3)
    beneath = rng.laplace(0, 1, (32, 16, 24))
    scaled = (beneath + rng.normal(0, 0.1, (4, *beneath.shape))).astype(np.float32)

    def error_and_bits():
        plan = coder.choose(scaled, ())
        decoded = plan.symbols * 0.5**coder.symbol_bits
        return ((decoded - beneath) ** 2).mean(), coder.bits_by_channel(plan).sum()

    error, bits = error_and_bits()
    monkeypatch.setattr(residuals, "look_ahead", lambda cells, _: (cells, np.full_like(cells, 0.04)))
    plain_error, plain_bits = error_and_bits()
    assert error < plain_error
    assert bits < plain_bits
