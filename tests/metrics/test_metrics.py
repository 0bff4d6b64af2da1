"""Against independent implementations: scikit-image, FFmpeg's filters, the public `lpips` package."""

import json
import math
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
import torch
from lpips_trunks import random_frames, random_trunk
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cvvae_cli.errors import ConfigError
from cvvae_cli.metrics import METRICS, Borders, MetricOptions, Pair, psnr, require_metrics, ssim
from cvvae_cli.metrics.lpips import HEADS, LpipsNetwork
from cvvae_cli.metrics.psnr import psnr_of
from cvvae_cli.store import shipped

LPIPS = {"lpips", "lpips_vgg"}  # need a trunk
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
GOLDEN_LPIPS = json.loads((Path(__file__).parent / "lpips_golden.json").read_text())


def pairs():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 3, 40, 56, 3), np.uint8)
    photograph = np.stack([skimage.data.astronaut()[100:300, 80:300]] * 3)
    worse = np.clip(photograph + rng.normal(0, [[[[3]]], [[[10]]], [[[40]]]], photograph.shape), 0, 255)
    return {"noise": (noise[0], noise[1]), "photograph": (photograph, worse.astype(np.uint8))}


def measure(name, reference, decoded, options=None, batch=8):
    """A metric of a clip that comes in batches."""
    metric = METRICS[name](options or MetricOptions())
    for start in range(0, len(reference), batch):
        part = slice(start, start + batch)
        metric.add(Pair(reference[part], decoded[part], metric.options.device))
    return metric


@pytest.mark.parametrize("name", ["noise", "photograph"])
def test_psnr_is_that_of_scikit_image(name):
    reference, decoded = pairs()[name]
    expected = [
        peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(reference, decoded, strict=True)
    ]
    assert np.abs(psnr(reference, decoded) - expected).max() < 1e-3
    assert np.abs(measure("psnr_db", reference, decoded).per_frame() - expected).max() < 1e-3
    whole = peak_signal_noise_ratio(reference, decoded, data_range=255)
    assert measure("psnr_db_pooled", reference, decoded).value() == pytest.approx(whole, abs=1e-3)


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


def ffmpeg_metric(name, reference, decoded, key):
    """The metadata that a filter of FFmpeg puts on each frame."""
    graph = av.filter.Graph()
    height, width = reference.shape[1:3]
    sources = [
        graph.add("buffer", f"video_size={width}x{height}:pix_fmt=rgb24:time_base=1/25", name=side)
        for side in ("decoded", "reference")
    ]
    compare, sink = graph.add(name), graph.add("buffersink")
    planar = [graph.add("format", "gbrp") for _ in sources]
    for number, source in enumerate(sources):
        source.link_to(planar[number])
        planar[number].link_to(compare, 0, number)
    compare.link_to(sink)
    graph.configure()
    values = []
    for number, pictures in enumerate(zip(decoded, reference, strict=True)):
        for source, picture in zip(sources, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            source.push(frame)
    for source in sources:
        source.push(None)
    for _ in reference:
        values.append(float(sink.pull().metadata[key]))
    return np.array(values)


def test_psnr_and_ssim_agree_with_the_filters_of_ffmpeg():
    reference, decoded = pairs()["photograph"]
    their_psnr = ffmpeg_metric("psnr", reference, decoded, "lavfi.psnr.psnr_avg")
    their_ssim = ffmpeg_metric("ssim", reference, decoded, "lavfi.ssim.All")
    assert np.abs(psnr(reference, decoded) - their_psnr).max() < 0.01
    assert np.abs(ssim(reference, decoded) - their_ssim).max() < 0.07  # 8x8 windows of equal weight


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_that_of_the_public_package(net):
    network = LpipsNetwork(net, random_trunk(net), load_file(shipped(HEADS)))
    x, y = (torch.from_numpy(f).permute(0, 3, 1, 2) / 127.5 - 1 for f in random_frames())
    assert network(x, y).tolist() == pytest.approx(GOLDEN_LPIPS[net], rel=1e-4)
    assert network(x, x).abs().max() == 0


def test_ms_ssim_of_one_scale_more_is_smoother():
    """Fine noise is lost on the coarse scales, a shift of brightness is not: MS-SSIM must tell them apart."""
    reference = np.stack([skimage.data.astronaut()[:256, :256]])
    rng = np.random.default_rng(0)
    noisy = np.clip(reference + rng.normal(0, 20, reference.shape), 0, 255).astype(np.uint8)
    assert measure("ms_ssim", reference, noisy).value() > measure("ssim", reference, noisy).value() + 0.2
    assert measure("ms_ssim", reference, reference).value() == pytest.approx(1, abs=1e-6)


def test_ms_ssim_is_the_product_of_the_scales_of_scikit_image():
    reference = np.stack([skimage.data.astronaut()[:256, :256]]).astype(np.uint8)
    decoded = np.clip(reference.astype(int) // 16 * 16 + 5, 0, 255).astype(np.uint8)
    x, y = reference[0].astype(np.float64), decoded[0].astype(np.float64)
    expected = 1.0
    options = {"data_range": 255, "channel_axis": 2, "gaussian_weights": True, "sigma": 1.5}
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        # K1 so large that the luminance term is one leaves contrast and structure
        k1 = 0.01 if scale == 4 else 1e6
        value = structural_similarity(x, y, K1=k1, use_sample_covariance=False, **options)
        expected *= value**weight
        x, y = (z.reshape(len(z) // 2, 2, -1, 2, 3).mean(axis=(1, 3)) for z in (x, y))
    assert measure("ms_ssim", reference, decoded).value() == pytest.approx(expected, abs=2e-4)


def test_identical_clips_are_perfect():
    frames = np.stack([skimage.data.astronaut()[:200, :200]] * 40)
    best = {"psnr_db": math.inf, "psnr_db_pooled": math.inf, "psnr_y_db": math.inf, "ssim": 1, "ms_ssim": 1}
    best |= {"flicker": 0, "difference_psnr_db": math.inf, "seam": 1}
    for name, value in best.items():
        assert measure(name, frames, frames).value() == pytest.approx(value, abs=1e-6), name
    trunk = LpipsNetwork("alex", random_trunk("alex"), load_file(shipped(HEADS)))
    x = torch.from_numpy(frames[:1]).permute(0, 3, 1, 2) / 127.5 - 1
    assert trunk(x, x).item() == 0


def gray_clip(offsets):
    """A moving gradient and the same with one brightness offset per frame."""
    frames = len(offsets)
    source = np.stack(
        [np.roll(np.tile(np.arange(60, 188, dtype=np.uint8), (64, 1)), t, axis=1) for t in range(frames)]
    )
    source = np.repeat(source[..., None], 3, axis=-1)
    return source, (source + np.asarray(offsets)[:, None, None, None]).clip(0, 255).astype(np.uint8)


def test_a_jump_every_16_frames_flickers_more_than_the_same_error_spread_evenly():
    t = np.arange(96)
    jumps = np.where(t // 16 % 2, 8, -8)
    triangle = np.abs(t % 32 - 16) - 8
    spread = np.round(triangle / np.sqrt(np.mean(triangle**2.0)) * 8).astype(int)
    rng = np.random.default_rng(0)
    source, jumping = gray_clip(jumps)
    _, even = gray_clip(spread)
    noisy = (source + rng.normal(0, 8, source.shape)).clip(0, 255).astype(np.uint8)
    assert psnr(source, jumping).mean() == pytest.approx(psnr(source, noisy).mean(), abs=0.5)
    for other in (even, noisy):
        assert measure("flicker", source, jumping).value() > 1.5 * measure("flicker", source, other).value()
        assert measure("seam", source, jumping).value() > 3 * measure("seam", source, other).value()
    known = MetricOptions(borders=Borders(16, 16))
    beside = MetricOptions(borders=Borders(16, 3))
    assert measure("seam", source, jumping, known).value() > 1e3
    assert measure("seam", source, jumping, beside).value() == 0


def test_a_constant_error_does_not_flicker():
    source, brighter = gray_clip(np.full(20, 9))
    assert measure("flicker", source, brighter).value() == 0


def test_flicker_is_its_formula():
    source, decoded = gray_clip([0, 3, 3, -1])
    metric = measure("flicker", source, decoded, batch=3)
    assert metric.per_frame()[1:] == pytest.approx([3, 0, 4], abs=1e-4)
    assert math.isnan(metric.per_frame()[0])
    assert metric.value() == pytest.approx(math.sqrt((9 + 0 + 16) / 3), abs=1e-4)
    expected = psnr_of(np.array((9 + 0 + 16) / 3))
    assert measure("difference_psnr_db", source, decoded).value() == pytest.approx(expected, abs=1e-3)


def test_seams_between_tiles_are_seen_where_they_are():
    source = np.repeat(np.full((4, 64, 96, 1), 100, np.uint8), 3, axis=-1)
    decoded = source.copy()
    decoded[:, :, 48:] += 6
    rng = np.random.default_rng(0)
    decoded += rng.integers(0, 3, decoded.shape, np.uint8)
    there = measure("tile_seam", source, decoded, MetricOptions(borders=Borders(columns=(48,))))
    elsewhere = measure("tile_seam", source, decoded, MetricOptions(borders=Borders(columns=(32,))))
    assert there.value() > 5 * elsewhere.value()
    assert measure("tile_seam", source, decoded).value() is None


def test_short_and_small_clips_have_no_value_where_none_is_defined():
    source, decoded = gray_clip([0, 3, 0])
    assert measure("seam", source, decoded).value() is None
    assert measure("flicker", source[:1], decoded[:1]).value() is None
    assert measure("ms_ssim", source, decoded).value() is None
    assert measure("ssim", source[:, :8, :8], decoded[:, :8, :8]).value() is None


def test_vmaf_sees_frames_one_by_one_as_the_library_sees_all():
    vmaf_torch = pytest.importorskip("vmaf_torch", reason="vmaf-torch is not installed")
    source = np.stack([np.roll(skimage.data.astronaut()[:200, :240], 3 * t, axis=1) for t in range(5)])
    decoded = (source // 24 * 24 + 10).astype(np.uint8)
    y = [
        torch.from_numpy(x.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32))[:, None]
        * (219 / 255)
        + 16
        for x in (source, decoded)
    ]
    with torch.no_grad():
        expected = vmaf_torch.VMAF()(*y).flatten().numpy()
    got = measure("vmaf", source, decoded, batch=2)
    assert got.per_frame() == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name", [name for name in METRICS if name not in LPIPS | {"vmaf", "tile_seam", "seam"}]
)
def test_batches_do_not_matter_and_worse_is_worse(name, device):
    source, decoded = pairs()["photograph"]
    source, decoded = np.concatenate([source] * 3), np.concatenate([decoded] * 3)
    worse = (decoded // 64 * 64).astype(np.uint8)
    options = MetricOptions(device=torch.device(device))
    one = measure(name, source, decoded, options, batch=9)
    many = measure(name, source, decoded, options, batch=2)
    assert one.per_frame().shape == (9,)
    assert np.allclose(one.per_frame(), many.per_frame(), equal_nan=True, rtol=1e-6)
    bad = measure(name, source, worse, options).value()
    assert (bad < one.value()) if METRICS[name].higher_is_better else (bad != one.value())


def test_an_unknown_metric_is_refused_and_the_known_ones_named():
    with pytest.raises(ConfigError) as caught:
        require_metrics(["psnr_db", "nonsense"])
    assert "ssim" in caught.value.hint
