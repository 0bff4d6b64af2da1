"""Exact latents, and the files of other programs."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from tiny import moving_picture

from cvvae_cli.bitstream.exact import ExactCoder
from cvvae_cli.codec import decode_file, encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.errors import ConfigError, CorruptFileError, UnknownModelError, UnreadableSourceError
from cvvae_cli.interchange.exports import export_file
from cvvae_cli.interchange.imports import import_file
from cvvae_cli.latents import model_of, read_latents
from cvvae_cli.models.registry import MODELS, Weights
from cvvae_cli.options import DecodeOptions, EncodeOptions
from cvvae_cli.video.reader import open_source

TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SPECIAL = [0.0, -0.0, 1e-40, -1e-40, 65504.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", TORCH)
def test_every_kind_of_number_survives_as_torch_rounds_it(dtype):
    values = np.concatenate([SPECIAL, np.random.default_rng(0).normal(0, 20, 86)]).astype(np.float32)
    latents = values.reshape(4, 2, 3, 4)
    coder = ExactCoder(dtype)
    back = coder.decode(0, coder.encode(0, latents), latents.shape)
    expected = torch.from_numpy(latents).to(TORCH[dtype]).float().numpy()
    assert back.view(np.uint32).tolist() == expected.view(np.uint32).tolist() or np.array_equal(
        back, expected, equal_nan=True
    )


def test_a_number_beyond_fp16_is_refused():
    with pytest.raises(ConfigError, match="fp16"):
        ExactCoder("fp16").encode(0, np.full((1, 1, 1, 1), 70_000, np.float32))


@pytest.mark.parametrize("dtype", TORCH)
def test_damaged_exact_latents_are_reported(dtype):
    latents = np.random.default_rng(0).normal(0, 5, (4, 2, 6, 8)).astype(np.float32)
    coder = ExactCoder(dtype)
    data = coder.encode(0, latents)
    for cut in range(0, len(data), 7):
        with pytest.raises(CorruptFileError):
            coder.decode(0, data[:cut], latents.shape)
    with pytest.raises(CorruptFileError):
        coder.decode(0, data + b"\0", latents.shape)
    with pytest.raises(CorruptFileError):
        coder.decode(0, data, (4, 2, 6, 9))


@pytest.fixture
def clip(lossless):
    times = np.cumsum(np.random.default_rng(5).integers(20, 60, 30))
    return lossless(moving_picture(30, 48, 40), pts=times)


@pytest.fixture
def encoded(tiny, clip, tmp_path):
    """A function from a number type to a file of exact latents."""

    def encode(dtype):
        path = tmp_path / f"{dtype}.cvl"
        encode_file(clip, path, EncodeOptions(model="tiny-1", dtype="fp32", exact=dtype, force=True))
        return path

    return encode


def latents_of(path, spec):
    with open_cvl(path) as cvl:
        chunks = list(read_latents(cvl, Weights(spec)))
    return np.concatenate([c.latents for c in chunks], axis=1), np.concatenate([c.pts for c in chunks])


def network_latents(engine, clip):
    with open_source(clip) as video:
        return np.concatenate([c.latents for c in engine.encode_stream(video)], axis=1)


@pytest.mark.parametrize("dtype", TORCH)
def test_exact_files_hold_the_latents_of_the_network_bit_for_bit(tiny, engine, clip, encoded, dtype):
    latents, _ = latents_of(encoded(dtype), tiny)
    expected = torch.from_numpy(network_latents(engine, clip)).to(TORCH[dtype]).float().numpy()
    assert np.array_equal(latents, expected)


@pytest.mark.parametrize("dtype", TORCH)
def test_exact_latents_are_smaller_than_safetensors(tiny, encoded, tmp_path, dtype):
    path = encoded(dtype)
    export_file(path, tmp_path / "out.safetensors")
    with open_cvl(path) as cvl:
        assert cvl.symbol_bytes() < 0.95 * load_file(tmp_path / "out.safetensors")["latents"].nbytes


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("dtype", TORCH)
def test_export_and_import_give_the_same_file_back(tiny, encoded, tmp_path, suffix, dtype):
    path = encoded(dtype)
    output = tmp_path / f"latents.{suffix}"
    if (suffix, dtype) == ("npz", "bf16"):
        with pytest.raises(ConfigError, match="bf16"):
            export_file(path, output)
        assert sorted(p.suffix for p in tmp_path.iterdir()) == [".cvl", ".mkv"]
        return
    report = export_file(path, output)
    assert (report.frames, report.latent_shape, report.dtype) == (30, (4, 9, 5, 6), dtype)
    latents, pts = latents_of(path, tiny)
    if suffix == "npz":
        stored = np.load(output)
        assert np.array_equal(stored["latents"], latents)
        assert np.array_equal(stored["pts"], pts)
    else:
        stored = load_file(output)
        assert stored["latents"].dtype == TORCH[dtype]
        assert np.array_equal(stored["latents"].float().numpy(), latents)
        assert np.array_equal(stored["pts"].numpy(), pts)
    assert import_file(output, tmp_path / "again.cvl") == 30
    assert (tmp_path / "again.cvl").read_bytes() == path.read_bytes()
    decode_file(tmp_path / "again.cvl", tmp_path / "out.mkv", DecodeOptions(dtype="fp32"))


def test_latents_of_a_lossy_file_are_exported_and_kept_exactly(tiny, clip, tmp_path):
    encode_file(clip, tmp_path / "lossy.cvl", EncodeOptions(model="tiny-2", quality=8, dtype="fp32"))
    assert export_file(tmp_path / "lossy.cvl", tmp_path / "x.safetensors").dtype == "fp32"
    import_file(tmp_path / "x.safetensors", tmp_path / "exact.cvl")
    with open_cvl(tmp_path / "exact.cvl") as cvl:
        assert (cvl.header.coder, cvl.header.level) == ("exact-fp32", None)
    latents, pts = latents_of(tmp_path / "lossy.cvl", MODELS["tiny-2"])
    same, times = latents_of(tmp_path / "exact.cvl", MODELS["tiny-2"])
    assert np.array_equal(same, latents)
    assert np.array_equal(times, pts)


def test_the_cache_of_musubi_is_written_and_read(tiny, encoded, tmp_path):
    path = encoded("bf16")
    export_file(path, tmp_path / "clip.safetensors", layout="musubi", architecture="tiny-1")
    tensors = load_file(tmp_path / "clip.safetensors")
    assert list(tensors) == ["latents_9x5x6_bfloat16"]
    assert tensors["latents_9x5x6_bfloat16"].shape == (4, 9, 5, 6)
    with safetensors.safe_open(tmp_path / "clip.safetensors", "pt") as file:
        assert file.metadata() == {
            "architecture": "tiny-1",
            "width": "48",
            "height": "40",
            "frame_count": "30",
            "format_version": "1.0.1",
        }
    assert import_file(tmp_path / "clip.safetensors", tmp_path / "back.cvl", frame_rate=Fraction(25)) == 30
    latents, _ = latents_of(path, tiny)
    back, pts = latents_of(tmp_path / "back.cvl", tiny)
    assert np.array_equal(back, latents)
    assert pts.tolist() == list(range(30))
    with open_cvl(tmp_path / "back.cvl") as cvl:
        assert (cvl.header.time_base, cvl.header.coder) == ((1, 25), "exact-bf16")


def test_latents_of_a_model_that_is_not_known_are_kept_but_not_decoded(tmp_path):
    latents = torch.randn(16, 5, 6, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    metadata = {"architecture": "wan", "width": "64", "height": "48", "frame_count": "17"}
    save_file({"latents_5x6x8_bfloat16": latents}, tmp_path / "wan.safetensors", metadata)
    assert import_file(tmp_path / "wan.safetensors", tmp_path / "wan.cvl") == 17
    with open_cvl(tmp_path / "wan.cvl") as cvl:
        cvl.verify()
        assert (cvl.header.model, cvl.header.latent, cvl.header.weights) == ("wan", (16, 4, 8), "unknown")
        coder = ExactCoder("bf16")
        parts = [coder.decode(0, cvl.read_chunk(i).symbols, (16, n, 6, 8)) for i, n in enumerate((4, 1))]
    assert np.array_equal(np.concatenate(parts, 1), latents.float().numpy())
    with pytest.raises(UnknownModelError):
        decode_file(tmp_path / "wan.cvl", tmp_path / "out.mkv")


def test_scaled_latents_are_those_of_the_diffusion_model(tiny, encoded, tmp_path, monkeypatch):
    from cvvae_cli.models import registry

    scaled = replace(tiny, scaling_factor=0.5, shift_factor=2.0)
    monkeypatch.setitem(registry.MODELS, "tiny-1", scaled)
    path = encoded("fp32")
    export_file(path, tmp_path / "scaled.safetensors", scaled=True)
    latents, _ = latents_of(path, tiny)
    assert np.allclose(load_file(tmp_path / "scaled.safetensors")["latents"].numpy(), (latents - 2) / 2)
    import_file(tmp_path / "scaled.safetensors", tmp_path / "back.cvl")
    assert np.allclose(latents_of(tmp_path / "back.cvl", tiny)[0], latents, atol=1e-5)


def test_a_file_that_does_not_fit_is_refused(tiny, tmp_path):
    def refused(error, tensors, **options):
        save_file(tensors, tmp_path / "x.safetensors", options.pop("metadata", None))
        with pytest.raises(error):
            import_file(tmp_path / "x.safetensors", tmp_path / "x.cvl", **options)
        assert not list(tmp_path.glob("x.cvl*"))

    zeros = torch.zeros(4, 3, 5, 6)
    refused(ConfigError, {"latents": zeros})  # of which model?
    refused(ConfigError, {"latents": zeros}, model="tiny-1", frames=20)
    refused(ConfigError, {"latents": torch.zeros(5, 3, 5, 6)}, model="tiny-1")
    refused(ConfigError, {"latents": zeros}, model="somebody's")  # of which size?
    refused(UnreadableSourceError, {"a": zeros, "b": zeros.clone()}, model="tiny-1")
    refused(UnreadableSourceError, {"latents": torch.zeros(2, 4, 3, 5, 6)}, model="tiny-1")
    refused(CorruptFileError, {"latents": zeros}, metadata={"cvvae_header": "{]"})


HEADS = [
    b"",
    b"\xff" * 8,
    (2**40).to_bytes(8, "little") + b"{}",
    (2).to_bytes(8, "little") + b"[]",
    *(
        len(text).to_bytes(8, "little") + text + b"\0" * 64
        for text in (
            b'{"latents":{"dtype":"F32","shape":[1,1,1,1],"data_offsets":[0,400]}}',
            b'{"latents":{"dtype":"F32","shape":[-1,1,1,1],"data_offsets":[0,4]}}',
            b'{"latents":{"dtype":"F32","shape":[9999999999,1,1,1],"data_offsets":[0,4]}}',
            b'{"latents":{"dtype":"F32","shape":3,"data_offsets":[0,4]}}',
            b'{"latents":7}',
            b"[" * 50_000,
        )
    ),
]


@pytest.mark.parametrize("data", HEADS, ids=range(len(HEADS)))
def test_a_hostile_safetensors_file_is_reported(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CorruptFileError):
        import_file(tmp_path / "x.safetensors", tmp_path / "x.cvl", model="tiny-1")


def test_the_commands(cvvae, clip, tmp_path):
    assert cvvae("encode", clip, "exact.cvl", "--exact", "bf16").returncode == 0
    done = cvvae("export", "exact.cvl", "latents.safetensors", "--json")
    assert json.loads(done.stdout)["latent_shape"] == [32, 9, 5, 6]
    done = cvvae("import", "latents.safetensors", "again.cvl", "--json")
    assert json.loads(done.stdout)["frames"] == 30
    assert (tmp_path / "again.cvl").read_bytes() == (tmp_path / "exact.cvl").read_bytes()
    done = cvvae("encode", clip, "other.cvl", "--exact", "int8")
    assert done.returncode == 1
    assert done.stderr.startswith("error: latents cannot be kept as 'int8'")


def test_latents_of_aligned_frames_are_not_exported_but_those_of_no_align_are(tiny, clip, tmp_path):
    options = EncodeOptions(model="tiny-6", quality=8, dtype="fp32", device="cpu")
    encode_file(clip, tmp_path / "aligned.cvl", options)
    with pytest.raises(ConfigError, match="moved onto each other") as error:
        export_file(tmp_path / "aligned.cvl", tmp_path / "out.npz")
    assert "--no-align" in error.value.hint
    assert not (tmp_path / "out.npz").exists()
    encode_file(clip, tmp_path / "plain.cvl", replace(options, align=False))
    assert export_file(tmp_path / "plain.cvl", tmp_path / "out.npz").frames == 30
    with open_cvl(tmp_path / "plain.cvl") as cvl:
        _, weights = model_of(cvl.header)
        assert not any(chunk.fields.any() for chunk in read_latents(cvl, weights))
