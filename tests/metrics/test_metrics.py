"""Against scikit-image, an independent implementation."""

import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cvvae_cli.metrics import METRICS, psnr, ssim


def pairs():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 3, 40, 56, 3), np.uint8)
    photograph = np.stack([skimage.data.astronaut()[100:260, 80:300]] * 3)
    worse = np.clip(photograph + rng.normal(0, [[[[3]]], [[[10]]], [[[40]]]], photograph.shape), 0, 255)
    return {"noise": (noise[0], noise[1]), "photograph": (photograph, worse.astype(np.uint8))}


@pytest.mark.parametrize("name", ["noise", "photograph"])
def test_psnr_is_that_of_scikit_image(name):
    reference, decoded = pairs()[name]
    expected = [
        peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(reference, decoded, strict=True)
    ]
    assert np.abs(psnr(reference, decoded) - expected).max() < 1e-3


@pytest.mark.parametrize("name", ["noise", "photograph"])
def test_ssim_is_that_of_scikit_image(name):
    reference, decoded = pairs()[name]
    expected = [
        structural_similarity(
            a,
            b,
            data_range=255,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(reference, decoded, strict=True)
    ]
    assert np.abs(ssim(reference, decoded) - expected).max() < 1e-4


def test_identical_frames_are_perfect():
    frames = pairs()["noise"][0]
    assert np.isinf(psnr(frames, frames)).all()
    assert np.allclose(ssim(frames, frames), 1)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_gives_a_value_per_frame(name):
    values = METRICS[name](*pairs()["photograph"])
    assert values.shape == (3,)
    assert values[0] > values[1] > values[2]
