"""Windows and tiles: streamed equals whole, for every length and size, and from any place."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CPU
from tiny import batches_of, moving_picture

from cvvae_cli.engine.base import EngineOptions
from cvvae_cli.engine.load import with_geometry
from cvvae_cli.engine.memory import bytes_of_tile
from cvvae_cli.engine.plan import pad_frames
from cvvae_cli.engine.windows import WindowEngine, decode_tensor, encode_tensor, run_tiles
from cvvae_cli.errors import ConfigError, NonFiniteError
from cvvae_cli.models.autoencoder import WindowedAutoencoder
from cvvae_cli.models.registry import ModelSpec
from cvvae_cli.types import LatentGeometry, WindowGeometry

GEOMETRY = LatentGeometry(3, 4, 8)


class Averages(WindowedAutoencoder):
    """A quick stand-in whose result depends on its window as the paper's networks do: on its mean."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def encode_moments(self, video):
        first, rest = video[:, :, :1], video[:, :, 1:]
        groups = torch.nn.functional.avg_pool3d(rest, (4, 8, 8)) if rest.shape[2] else rest[..., ::8, ::8]
        mean = torch.cat([torch.nn.functional.avg_pool3d(first, (1, 8, 8)), groups], dim=2)
        mean = mean + 0.1 * video.mean()
        return torch.cat([mean, torch.zeros_like(mean)], dim=1)

    def decode(self, latents):
        x = latents + 0.1 * latents.mean()
        frames = torch.cat([x[:, :, :1], x[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)
        return frames.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)


def engine_of(windows=None, **options):
    spec = ModelSpec(
        name="averages",
        geometry=GEOMETRY,
        build=lambda config: Averages(),
        weights_file="",
        weights_sha256="",
        chunk_latents=4,
        coder="exact-fp32",
        period=4,
        encode_context=8,
        decode_context=8,
        encode_halo=0,
        decode_halo=0,
        windows=windows or WindowGeometry(tile=4, stride=3),
        decode_ahead=8,
        width=3,
    )
    options = EngineOptions(**options)
    spec = with_geometry(spec, options)
    return WindowEngine(spec, lambda: Averages().eval(), CPU, options)


def as_video(rgb, length):
    padded = pad_frames(rgb, 0, length, 8)
    return torch.from_numpy(padded).float().div(127.5).sub(1).permute(3, 0, 1, 2)[None]


@pytest.mark.parametrize("overlap", [0, 4, 8])
@pytest.mark.parametrize("frames", [1, 2, 5, 13, 16, 17, 18, 33, 37, 50])
@torch.inference_mode()
def test_streamed_is_whole_for_every_length(frames, overlap):
    engine = engine_of(temporal_overlap=overlap)
    rgb = moving_picture(frames, 52, 34)
    chunks = list(engine.encode_stream(batches_of(rgb, 7)))
    latents = np.concatenate([c.latents for c in chunks], axis=1)
    count = GEOMETRY.num_latents(frames)
    whole = encode_tensor(engine.network.encode, as_video(rgb, 4 * count - 3), engine.windows, GEOMETRY)
    assert latents.shape == (3, count, 5, 7)
    assert np.allclose(latents, whole[0], atol=1e-6)
    assert [c.latents.shape[1] for c in chunks[:-1]] == [4] * (len(chunks) - 1)
    assert [f for c in chunks for f in c.frames] == list(range(frames))
    assert [p for c in chunks for p in c.pts] == [512 * n for n in range(frames)]
    video = decode_tensor(engine.network.decode, whole, engine.windows, GEOMETRY)
    expected = video[0].permute(1, 2, 3, 0).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    batches = list(engine.decode_stream(chunks, 52, 34))
    decoded = np.concatenate([b.rgb for b in batches])
    assert decoded.shape == rgb.shape
    assert np.abs(decoded.astype(int) - expected.numpy()[:frames, :34, :52]).max() <= 1
    assert [p for b in batches for p in b.pts] == [512 * n for n in range(frames)]


@pytest.mark.parametrize("overlap", [0, 4, 12])
def test_a_range_of_frames_is_that_of_the_whole(overlap):
    engine = engine_of(temporal_overlap=overlap)
    rgb = moving_picture(90, 40, 24)
    chunks = list(engine.encode_stream(batches_of(rgb)))
    whole = np.concatenate([b.rgb for b in engine.decode_stream(chunks, 40, 24)])
    rng = np.random.default_rng(0)
    for start in rng.integers(0, 89, 12).tolist():
        stop = min(90, start + int(rng.integers(1, 20)))
        first = max(0, GEOMETRY.latent_of(start) // 4 - 2)
        last = -(-min(24, GEOMETRY.latent_of(stop - 1) + 1 + engine.spec.decode_ahead) // 4)
        part = list(engine.decode_stream(chunks[first:last], 40, 24, range(start, stop)))
        assert np.array_equal(np.concatenate([b.rgb for b in part]), whole[start:stop]), (start, stop)
        assert [p for b in part for p in b.pts] == [512 * n for n in range(start, stop)]


@pytest.mark.parametrize("overlap", [0, 4, 12])
def test_encoding_in_the_middle_gives_the_same_latents(overlap):
    engine = engine_of(temporal_overlap=overlap)
    rgb = moving_picture(90, 40, 24)
    whole = list(engine.encode_stream(batches_of(rgb)))
    for first in (1, 2, 3):
        start = GEOMETRY.frames_of(range(4 * first, 4 * first + 4)).start
        part = list(engine.encode_stream(batches_of(rgb[start:], first_pts=512 * start), 4 * first))
        for a, b in zip(part[2:], whole[first + 2 :], strict=True):
            assert np.array_equal(a.latents, b.latents)
            assert (a.frames, list(a.pts)) == (b.frames, list(b.pts))


def test_tiles_blend_linearly_from_the_top_then_from_the_left():
    """Tiles that say which they are: along a row of two, the weight of the second grows by 1/overlap."""
    seen = []

    def number(x):
        seen.append(x.shape[-2:])
        return torch.full_like(x, float(len(seen) - 1))

    out = run_tiles(number, torch.zeros(1, 1, 1, 4, 7), WindowGeometry(tile=4, stride=3), 1, 1)
    assert out[0, 0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    out = run_tiles(number, torch.zeros(1, 1, 1, 8, 8), WindowGeometry(tile=6, stride=4), 1, 1)
    assert seen[2:] == [(6, 6), (6, 4), (4, 6), (4, 4)]
    tiles = 2 + torch.arange(4.0)
    mixed = torch.lerp(tiles[0], tiles[1], 0.5)  # at column 5 of the upper row
    below = torch.lerp(tiles[0], tiles[2], 0.5)  # at row 5 of the left column
    assert out[0, 0, 0, 0].tolist() == [2, 2, 2, 2, 2, mixed, 3, 3]
    assert out[0, 0, 0, :, 0].tolist() == [2, 2, 2, 2, 2, below, 4, 4]
    corner = torch.lerp(below, torch.lerp(mixed, tiles[3], 0.5), 0.5)  # neighbours as already mixed
    assert out[0, 0, 0, 5, 5] == corner


def test_what_does_not_fit_is_refused_before_it_starts_with_the_tile_that_would():
    needed = bytes_of_tile(3, 4, 17, 5, 7)
    rgb = moving_picture(17, 52, 34)
    engine = engine_of(WindowGeometry(), max_memory_bytes=needed)
    assert list(engine.encode_stream(batches_of(rgb)))
    engine = engine_of(WindowGeometry(tile=40, stride=30), max_memory_bytes=bytes_of_tile(3, 4, 17, 20, 20))
    with pytest.raises(ConfigError, match="needs about") as caught:
        list(engine.encode_stream(batches_of(moving_picture(17, 256, 256))))
    assert "--tile 160" in caught.value.hint
    assert engine_of(tile_pixels=64).windows == WindowGeometry(tile=8, stride=6)


@torch.inference_mode()
def test_layer_by_layer_over_the_whole_picture_tiles_make_no_difference():
    from cvvae_cli.models.cvvae_sd3 import CvVaeSd3, Sd3Config
    from cvvae_cli.models.cvvae_sd21 import CvVaeSd21, Sd21Config
    from cvvae_cli.models.half3d import in_bands

    torch.manual_seed(0)
    for network in (
        CvVaeSd21(Sd21Config(ch=32, ch_mult=(1, 1, 1, 1))).eval(),
        CvVaeSd3(Sd3Config(block_out_channels=(32, 32, 32, 32))).eval(),
    ):
        x = torch.randn(1, 3, 5, 88, 56)
        latents = network.encode(x)
        video = network.decode(latents)
        for rows in (1, 5, 16):
            in_bands(network, rows)
            assert torch.allclose(network.encode(x), latents, atol=1e-4)
            assert torch.allclose(network.decode(latents), video, atol=1e-4)
        in_bands(network, None)
        tiled = encode_tensor(network.encode, x, WindowGeometry(tile=8, stride=6), GEOMETRY)
        assert not torch.allclose(tiled, latents, atol=1e-2)  # norms over tiles are not those of the whole


@pytest.mark.parametrize("overlap", [3, 16, -4])
def test_an_overlap_that_cannot_be_is_refused(overlap):
    with pytest.raises(ConfigError, match="share"):
        engine_of(temporal_overlap=overlap)


def test_numbers_that_are_not_finite_are_an_error():
    engine = engine_of(WindowGeometry())
    engine.network.encode_moments = lambda video: torch.full((1, 6, 1, 5, 7), torch.nan)
    with pytest.raises(NonFiniteError, match="frames 0 to 0"):
        list(engine.encode_stream(batches_of(moving_picture(1, 52, 34))))


@pytest.fixture
def narrow(tmp_path, monkeypatch, cvvae):
    """Random weights of both networks, narrow, imported under names of their own."""
    from safetensors.torch import save_file

    from cvvae_cli.models.cvvae_sd3 import CvVaeSd3, Sd3Config
    from cvvae_cli.models.cvvae_sd21 import CvVaeSd21, Sd21Config

    monkeypatch.setenv("CVVAE_WEIGHTS", str(tmp_path / "weights"))
    torch.manual_seed(0)
    networks = {
        "narrow-sd21": CvVaeSd21(Sd21Config(ch=32, ch_mult=(1, 1, 1, 1))),
        "narrow-sd3": CvVaeSd3(Sd3Config(block_out_channels=(32, 32, 32, 32))),
    }
    for name, network in networks.items():
        save_file(
            {n: t.contiguous() for n, t in network.state_dict().items()}, tmp_path / f"{name}.safetensors"
        )
        done = cvvae("weights", "import", f"{name}.safetensors", "--as", name, "--dtype", "fp32")
        assert done.returncode == 0, done.stderr
    return list(networks)


@pytest.mark.parametrize("number", [0, 1])
def test_the_commands_take_the_papers_networks(cvvae, narrow, tmp_path, lossless, number):
    model = narrow[number]
    source = lossless(moving_picture(38, 92, 70))
    options = ("--model", model, "--dtype", "fp32", "--tile", "64", "--temporal-overlap", "4", "--json")
    encoded = cvvae("encode", source, "a.cvl", *options)
    assert encoded.returncode == 0, encoded.stderr
    assert json.loads(encoded.stdout)["model"] == model
    assert cvvae("verify", "a.cvl", "--deep").returncode == 0
    header = json.loads(cvvae("info", "a.cvl", "--json").stdout)
    assert header["frames"] == 38
    for name, part in (("whole.mkv", ()), ("part.mkv", ("--start-frame", "21", "--frames", "9"))):
        done = cvvae("decode", "a.cvl", name, "--codec", "ffv1", "--dtype", "fp32", *part)
        assert done.returncode == 0, done.stderr
    from cvvae_cli.video.reader import open_source

    frames = []
    for name in ("whole.mkv", "part.mkv"):
        with open_source(tmp_path / name) as video:
            frames.append(np.concatenate([b.rgb for b in video]))
    assert frames[0].shape == (38, 70, 92, 3)
    assert np.array_equal(frames[1], frames[0][21:30])
    whole = cvvae("encode", source, "w.cvl", "--model", model, "--dtype", "fp32", "--no-tiles")
    assert whole.returncode == 0, whole.stderr
    assert cvvae("verify", "w.cvl", "--deep").returncode == 0
    done = cvvae("encode", source, "b.cvl", *options)
    assert (tmp_path / "a.cvl").read_bytes() == (tmp_path / "b.cvl").read_bytes()


def test_the_bench_measures_seams_where_each_models_windows_and_tiles_begin(cvvae, narrow, lossless):
    """With every overlap its own windows, and beside them a codec at those of the first."""
    source = lossless(moving_picture(38, 92, 70))
    done = cvvae(
        *("bench", "--dataset", source, "--model", narrow[0], "--dtype", "fp32", "--tile", "64"),
        *("--temporal-overlap", "0", "--temporal-overlap", "4", "--baseline", "x264:ultrafast:30"),
        *("--metrics", "seam,tile_seam", "--no-cache", "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {row["model"]: row for row in found["rows"]}
    assert list(rows) == [narrow[0], f"{narrow[0]}+4", "x264:ultrafast"]
    assert all(row[name] > 0 for row in rows.values() for name in ("seam", "tile_seam"))
    borders = found["protocol"]["borders"]
    assert [(b["period"], b["first"]) for b in borders.values()] == [(16, 17), (12, 13)]


def test_an_interrupted_encode_goes_on_to_the_same_bytes(narrow, tmp_path, lossless):
    from cvvae_cli import codec
    from cvvae_cli.container.reader import open_cvl
    from cvvae_cli.options import EncodeOptions

    source = lossless(moving_picture(60, 48, 40))
    options = EncodeOptions(model=narrow[0], device="cpu", dtype="fp32", temporal_overlap=4)
    whole, again = tmp_path / "whole.cvl", tmp_path / "again.cvl"
    codec.encode_file(source, whole, options)
    data = whole.read_bytes()
    with open_cvl(whole) as cvl:
        ends = [cvl.end_of_chunk(n) for n in range(len(cvl.index))]
    for end in ends[:-1]:
        (tmp_path / "again.cvl.part").write_bytes(data[: end + 5])
        codec.encode_file(source, again, replace(options, resume=True, force=True))
        assert again.read_bytes() == data


def test_imported_weights_are_checked_at_every_load(cvvae, narrow, tmp_path, clip):
    path = tmp_path / "weights" / "narrow-sd21.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for command in (("encode", clip, "x.cvl", "--model", "narrow-sd21"), ("weights", "verify")):
        done = cvvae(*command)
        assert done.returncode == 1
        assert "damaged" in done.stderr


def test_missing_and_unfit_weights_are_one_sentence(cvvae, narrow, tmp_path, clip, monkeypatch):
    from safetensors.torch import load_file, save_file

    done = cvvae("encode", clip, "x.cvl", "--model", "cvvae-sd3")
    assert done.returncode == 1
    assert "cvvae weights pull cvvae-sd3" in done.stderr
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    done = cvvae("weights", "pull", "cvvae-sd3")
    assert done.returncode == 1
    assert "cvvae weights import PATH --as cvvae-sd3" in done.stderr
    tensors = load_file(tmp_path / "narrow-sd21.safetensors")
    del tensors["decoder.conv_out.bias"]
    save_file(tensors, tmp_path / "lacking.safetensors")
    (tmp_path / "text.pth").write_text("text")
    for name, message in (
        ("lacking.safetensors", "decoder.conv_out.bias is missing"),
        ("text.pth", "no checkpoint"),
        ("none.bin", "does not exist"),
    ):
        done = cvvae("weights", "import", name, "--as", "mine")
        assert done.returncode == 1
        assert message in done.stderr
    assert (
        "imported already"
        in cvvae("weights", "import", "narrow-sd3.safetensors", "--as", "narrow-sd3").stderr
    )


def test_a_release_is_pulled_from_a_hub_with_bin_files(cvvae, narrow, tmp_path, monkeypatch, clip):
    """A local hub in Hugging Face's layout; the checkpoint is a pickle with names that a trainer wrapped."""
    import http.server
    import threading
    from functools import partial

    from safetensors.torch import load_file

    folder = tmp_path / "hub" / "AILab-CVC" / "CV-VAE" / "resolve" / "main" / "vae3d"
    folder.mkdir(parents=True)
    tensors = load_file(tmp_path / "narrow-sd21.safetensors")
    wrapped = {"state_dict": {f"first_stage_model.{n}": t for n, t in tensors.items()}}
    torch.save(wrapped, folder / "diffusion_pytorch_model.bin")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "hub")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        monkeypatch.setenv("CVVAE_CACHE", str(tmp_path / "cache"))
        done = cvvae("weights", "pull", "cvvae-sd21")
        hub.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "weights" / "cvvae-sd21.safetensors")
    assert cvvae("encode", clip, "x.cvl", "--model", "cvvae-sd21").returncode == 0
    listed = {row["name"]: row for row in json.loads(cvvae("weights", "list", "--json").stdout)}
    assert listed["cvvae-sd21"]["state"] == "imported, cvvae-sd21, fp16"
    assert listed["cvvae-sd3"]["sha256"] is None
