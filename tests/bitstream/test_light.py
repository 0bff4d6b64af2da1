"""Files that hold the light of frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import (
    COARSE_TO_FINE,
    assert_all_is_measured,
    assert_an_interrupted_encode_goes_on,
    assert_parts_are_those_of_the_whole,
    frames_of,
    moving_picture,
)

from cvvae_cli import codec, latents
from cvvae_cli.bitstream.chunk import with_light, without_light
from cvvae_cli.bitstream.light import decode_light, encode_light
from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine.mirror import LEAST_SHOWN, shown_frames
from cvvae_cli.errors import ConfigError, CorruptFileError
from cvvae_cli.flow.light import LEAST, MOST, WHOLE
from cvvae_cli.interchange.exports import export_file
from cvvae_cli.options import EncodeOptions
from cvvae_cli.types import LatentChunk

OPTIONS = EncodeOptions(model=f"tiny-{COARSE_TO_FINE}", device="cpu", dtype="fp32", quality=9)
DIM = np.array([1, 1, 1, 1, 0.4, 0.4] * 8)[:46]
LIT = 13 + 16  # frames, after which light stays


@pytest.fixture
def clip():
    rgb = moving_picture(1, 44, 38, seed=3)
    rgb = np.stack([np.roll(rgb[0], number // 8, axis=1) for number in range(46)])
    rgb[:LIT] = (rgb[:LIT] * DIM[:LIT, None, None, None]).astype(np.uint8)
    return rgb


@pytest.fixture
def path(clip, tiny, lossless, tmp_path):
    """A file of 46 frames, four chunks; in the middle a period begins."""
    lossless(clip, "source.mkv")
    encode_file(tmp_path / "source.mkv", tmp_path / "lit.cvl", OPTIONS)
    return tmp_path / "lit.cvl"


def lights_of(path):
    with open_cvl(path) as cvl:
        return [chunk.light for chunk in latents.read_latents(cvl, latents.model_of(cvl.header)[1])]


def test_chunks_hold_the_light_of_their_frames_where_it_changes(path):
    first, second, *others = lights_of(path)
    assert others == [None, None]
    assert np.allclose(np.concatenate([first, second])[:, 0] / 4096, DIM[:LIT], atol=0.1)


def test_frames_are_dimmed_again(path, clip):
    """The network of the tiny models sees little; what of its frames is dim is still about as bright."""
    shown = frames_of(path)
    bright = frames_of(path, lambda chunk: replace(chunk, light=None))
    assert np.array_equal(shown[LIT + 8 :], bright[LIT + 8 :])
    errors = [np.square(clip[:LIT].astype(float) - each[:LIT]).mean() for each in (shown, bright)]
    assert errors[0] < 0.5 * errors[1]
    dim = DIM[:LIT] < 1
    means = [each[:LIT][dim].mean() for each in (clip, shown, bright)]
    assert abs(means[1] - means[0]) < 0.2 * means[0] < means[2] - means[0]


def test_what_is_dim_takes_fewer_bits(tiny, lossless, tmp_path, monkeypatch):
    rgb = moving_picture(1, 96, 64)[0]
    fade = np.linspace(1, 0.1, 29)
    lossless(
        np.stack([np.roll(rgb, n, 1) * each for n, each in enumerate(fade)]).astype(np.uint8), "source.mkv"
    )
    sizes = []
    for name in ("dim", "bright"):
        encode_file(tmp_path / "source.mkv", tmp_path / f"{name}.cvl", OPTIONS)
        with open_cvl(tmp_path / f"{name}.cvl") as cvl:
            assert all(light is not None for light in lights_of(tmp_path / f"{name}.cvl"))
            sizes.append(sum(len(cvl.read_chunk(n).symbols) for n in range(2)))
        monkeypatch.setattr("cvvae_cli.engine.mirror.shares", lambda light: np.ones(len(light)))
    assert sizes[0] < 0.97 * sizes[1], sizes


def test_of_a_frame_that_is_dimmed_as_much_counts_as_shows():
    chunk = LatentChunk(np.zeros((1, 3, 1, 1)), range(7), np.arange(7))
    assert shown_frames(chunk).tolist() == [1, 4, 2]
    light = np.tile(WHOLE, (7, 1))
    light[[1, 2, 5, 6], 0] = [2048, 1024, 0, 0]
    assert shown_frames(replace(chunk, light=light)).tolist() == [1, 2 + 1 / 4 + 1 / 16, LEAST_SHOWN]


def test_without_alignment_light_is_left_alone(path, tmp_path):
    encode_file(tmp_path / "source.mkv", tmp_path / "plain.cvl", replace(OPTIONS, align=False))
    assert lights_of(tmp_path / "plain.cvl") == [None] * 4


def test_a_part_is_that_of_the_whole(path):
    with open_cvl(path) as cvl:
        spec, weights = latents.model_of(cvl.header)
    engine = codec.make_engine(spec, weights.build, codec.choose_placement("cpu", "fp32"))
    parts = [*(range(n, n + 1) for n in (0, 1, 4, 5, 12, 13, 14, 28, 29, 30, 45)), range(11, 40)]
    assert assert_parts_are_those_of_the_whole(engine, path, parts) == 46


def test_an_interrupted_encode_goes_on_to_the_same_bytes(path):
    assert_an_interrupted_encode_goes_on(path, OPTIONS)


def test_what_a_chunk_takes_is_measured(path):
    assert_all_is_measured(path, chunks=4)


@pytest.mark.parametrize("count", [1, 3, 16, 60])
def test_light_comes_back(count):
    rng = np.random.default_rng(count)
    light = rng.integers(LEAST, MOST, (count, 2), endpoint=True, dtype=np.int16)
    light[:1], light[1:2] = MOST, LEAST
    data = encode_light(light)
    assert len(data) < 256
    assert np.array_equal(decode_light(data), light)
    plain = (5).to_bytes(3, "little") + b"field and more"
    whole, found = without_light(with_light(plain, light))
    assert whole == plain
    assert np.array_equal(found, light)
    assert with_light(plain, None) == plain
    assert without_light(plain) == (plain, None)


def test_damaged_light_is_refused():
    good = encode_light(np.tile(MOST, (4, 1)))
    beyond = encode_light(np.tile(MOST + np.array([1, 0], np.int16), (4, 1)))
    below = encode_light(np.tile(LEAST - np.array([1, 0], np.int16), (4, 1)))
    odd = encode_light(np.tile(MOST, (4, 1))[:, :1])[:-1]
    for data in (b"", good[:-1], b"\xff" + good, beyond, below, odd):
        with pytest.raises(CorruptFileError, match="light"):
            decode_light(data)
    with pytest.raises(CorruptFileError, match="light"):
        without_light(b"\x00\x00\x80")


def test_light_of_other_frames_is_refused(path, monkeypatch):
    own = decode_light
    monkeypatch.setattr("cvvae_cli.bitstream.chunk.decode_light", lambda data: own(data)[1:])
    with pytest.raises(CorruptFileError, match="not that of its frames"):
        lights_of(path)


def test_latents_of_frames_that_were_evened_out_are_not_exported(path, tmp_path):
    with pytest.raises(ConfigError, match="evened out"):
        export_file(path, tmp_path / "latents.safetensors")
    encode_file(tmp_path / "source.mkv", tmp_path / "plain.cvl", replace(OPTIONS, align=False))
    export_file(tmp_path / "plain.cvl", tmp_path / "latents.safetensors")
