"""`cvvae compat`: its figures against cases whose answers are known."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import moving_picture

from cvvae_cli.bench import compat as compat_module
from cvvae_cli.bench.compat import Latents, LinearMap, Moments, apply, frechet, psi, sliced_wasserstein
from cvvae_cli.cli.app import main
from cvvae_cli.models.image_vae import TinyImageVae


def moments_of(rows):
    moments = Moments(rows.shape[1])
    for part in np.array_split(rows, 3):
        moments.add(part)
    return moments


def test_the_frechet_distance_is_that_of_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((500, 4)), rng.standard_normal((700, 4)) @ rng.standard_normal((4, 4)) + 0.3
    first, second = np.cov(a.T, bias=True), np.cov(b.T, bias=True)
    root = linalg.sqrtm(first @ second).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(first + second - 2 * root)
    assert frechet(moments_of(a), moments_of(b)) == pytest.approx(expected, rel=1e-6)
    assert frechet(moments_of(a), moments_of(a)) == pytest.approx(0, abs=1e-9)


def test_the_sliced_distance_of_a_shift_is_known():
    """Along one axis it is the shift; along random directions of the plane 2/pi of it on average."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((4000, 2))
    assert sliced_wasserstein(rows, rows) == pytest.approx(0, abs=1e-9)
    assert sliced_wasserstein(rows, rows + np.array([1.0, 0.0])) == pytest.approx(2 / np.pi, rel=0.1)


def test_positions_are_kept_up_to_a_limit_and_all_alike(monkeypatch):
    monkeypatch.setattr(compat_module, "MOST_KEPT", 300)
    rng = np.random.default_rng(5)
    latents = Latents(1)
    for number in range(10):
        latents.add(np.full((1, 2, 10, 10), number, np.float32), rng)
    assert latents.moments.count == 2000
    assert latents.moments.mean == pytest.approx([4.5])
    assert latents.sample.shape == (300, 1)
    counts = np.bincount(latents.sample[:, 0].astype(int), minlength=10)
    assert counts.min() >= 12
    assert counts.max() <= 55


def test_least_squares_finds_a_linear_map():
    rng = np.random.default_rng(2)
    true = rng.standard_normal((4, 2))
    fitted = LinearMap(3, 2)
    for _ in range(3):
        source = rng.standard_normal((3, 2, 5, 4)).astype(np.float32)
        fitted.add(source, apply(true, source))
    assert np.allclose(fitted.solve(), true, atol=1e-5)


def test_psi_of_pixels_is_rounded():
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert psi(frames, "average")[:, 0, 0, 0].tolist() == [0, 2]
    assert psi(frames, "slice")[:, 0, 0, 0].tolist() == [0, 4]
    assert psi(frames, "random")[1, 0, 0, 0] in (1, 2, 3, 4)


@pytest.fixture
def case(tmp_path, lossless):
    torch.manual_seed(0)
    pair = TinyImageVae(32, has_pool=True)
    (tmp_path / "vae").mkdir()
    for part in ("encoder", "decoder"):
        save_file(getattr(pair, part).state_dict(), tmp_path / "vae" / f"{part}.safetensors")
    (tmp_path / "data").mkdir()
    lossless(moving_picture(11, 68, 52), "data/clip.mkv")
    lossless(moving_picture(5, 64, 48, seed=1), "data/short.mkv")
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["cvvae", "compat", *map(str, arguments)])
    return main()


def test_the_command_reports_all_figures(case, monkeypatch, capsys):
    options = ["--dataset", case / "data", "--image-vae", case / "vae", "--model", "compact"]
    options += ["--resize", "48", "--metrics", "psnr_db,ssim,flicker"]
    assert run(monkeypatch, *options, "--json", "--report", case / "out") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"gain_db", "frechet", "frechet_baseline", "own_psnr_db", "image_vae_psnr_db"} <= set(found)
    assert [row["frames"] for row in found["rows"]] == [9, 5]
    summary = found["summary"]
    assert found["own_psnr_db"] == pytest.approx(summary["own"]["psnr_db"])
    assert found["own_psnr_db"] > 20  # compact reconstructs; the random image VAE does not
    assert set(summary["image_decoder"]) == {"random", "average", "slice", "first"}
    assert len(summary["latents"]["mean"]) == 32
    best = {
        k: max(v["psnr_db"] for v in summary[k].values()) for k in ("image_decoder", "image_decoder_baseline")
    }
    assert found["gain_db"] == pytest.approx(best["image_decoder"] - best["image_decoder_baseline"], abs=1e-3)
    text = (case / "out" / "index.html").read_text()
    assert "data:image/jpeg" in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert json.loads((case / "out" / "results.json").read_text())["frechet"] == found["frechet"]
    assert run(monkeypatch, *options, "--report", case / "out") == 1  # nothing is overwritten unasked
    assert run(monkeypatch, *options, "--report", case / "out", "--force") == 0
    assert "by least squares" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(case, monkeypatch, capsys):
    options = ["--dataset", case / "data", "--model", "compact"]
    assert run(monkeypatch, *options, "--image-vae", case / "nothing") == 1
    assert "no image VAE at" in capsys.readouterr().err
    pair = TinyImageVae(4, has_pool=False)
    (case / "small").mkdir()
    for part in ("encoder", "decoder"):
        save_file(getattr(pair, part).state_dict(), case / "small" / f"{part}.safetensors")
    assert run(monkeypatch, *options, "--image-vae", case / "small") == 1
    assert "32 channels of latents, the image VAE 4" in capsys.readouterr().err
