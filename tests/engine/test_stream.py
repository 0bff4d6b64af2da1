"""The same numbers on every path: whole, in pieces, in tiles, from the middle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CPU
from tiny import batches_of, moving_picture, random_network

from cvvae_cli.engine import memory
from cvvae_cli.engine.device import Placement
from cvvae_cli.engine.stream import Engine, EngineOptions
from cvvae_cli.errors import ConfigError, NonFiniteError
from cvvae_cli.models.registry import Weights

CLIP = moving_picture(45, 72, 56)


def encode(engine, rgb, first_latent=0, batch=8):
    chunks = list(engine.encode_stream(batches_of(rgb, batch), first_latent))
    return chunks, np.concatenate([c.latents for c in chunks], axis=1)


def decode(engine, chunks, width=72, height=56):
    return np.concatenate([b.rgb for b in engine.decode_stream(chunks, width, height)])


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def whole_latents(engine, rgb):
    video = torch.from_numpy(rgb).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return engine.network.encode(video.contiguous())[0].numpy()


@pytest.mark.parametrize("piece", [1, 3, 16])
def test_pieces_of_any_length_equal_the_whole_clip(tiny, piece):
    engine = Engine(replace(tiny, chunk_latents=piece), Weights(tiny).build, CPU)
    chunks, latents = encode(engine, CLIP)
    whole = whole_latents(engine, CLIP)
    assert latents.shape == whole.shape
    assert relative(latents, whole) < 1e-5
    video = engine.network.decode(torch.from_numpy(whole)[None])[0].permute(1, 2, 3, 0).numpy()
    expected = np.clip(np.rint((video + 1) * 127.5), 0, 255)
    assert np.abs(decode(engine, chunks) - expected).max() <= 1


@pytest.mark.parametrize("tile", [8, 16, 24, 40])
def test_tiles_with_halo_equal_the_whole_picture(tiny, tile):
    whole = Engine(tiny, Weights(tiny).build, CPU)
    tiled = Engine(tiny, Weights(tiny).build, CPU, EngineOptions(tile_pixels=tile))
    (chunks, a), (_, b) = encode(whole, CLIP), encode(tiled, CLIP)
    assert relative(b, a) < 1e-5
    difference = np.abs(decode(tiled, chunks).astype(int) - decode(whole, chunks))
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


def test_what_does_not_fit_is_refused_before_work_starts(tiny, monkeypatch):
    """With what it needs; who knows better says so."""
    chunks, _ = encode(Engine(tiny, Weights(tiny).build, CPU), CLIP)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    engine = Engine(tiny, Weights(tiny).build, CPU)
    with pytest.raises(ConfigError, match=r"72x56 pixels need about 0\.0 GB, 0\.0 GB are there"):
        encode(engine, CLIP)
    with pytest.raises(ConfigError, match="need about"):
        decode(engine, chunks)
    roomy = Engine(tiny, Weights(tiny).build, CPU, EngineOptions(max_memory_bytes=10**7))
    assert len(decode(roomy, encode(roomy, CLIP)[0])) == len(CLIP)


def test_two_runs_are_bit_identical(engine):
    (chunks, a), (_, b) = encode(engine, CLIP), encode(engine, CLIP, batch=3)
    assert np.array_equal(a, b)
    assert np.array_equal(decode(engine, chunks), decode(engine, chunks))


def test_a_start_in_the_middle_is_bit_identical_after_the_context(engine, tiny):
    chunks, latents = encode(engine, CLIP)
    start = 4  # a point of the grid; its first frame is 13
    _, late = encode(engine, CLIP[13:], first_latent=start)
    context = tiny.encode_context
    assert np.array_equal(late[:, context:], latents[:, start + context :])
    assert not np.array_equal(late[:, :context], latents[:, start : start + context])
    frames, from_middle = decode(engine, chunks), decode(engine, chunks[1:])
    skipped = tiny.geometry.frames * tiny.decode_context
    assert np.array_equal(from_middle[skipped:], frames[13 + skipped :])


@pytest.mark.parametrize("busy", [1, 100, 10**9], ids=["groups of 1", "groups of 2", "groups of 4"])
@pytest.mark.parametrize("wanted", [range(1), range(20, 45), range(17, 18), range(30, 38), range(44, 45)])
def test_a_range_is_bit_identical_to_the_whole_and_skips_what_it_can(engine, monkeypatch, busy, wanted):
    monkeypatch.setattr("cvvae_cli.engine.stream.BUSY_POSITIONS", busy)
    chunks, _ = encode(engine, CLIP)
    whole = decode(engine, chunks)
    full, primed = [], []
    run, prime = engine._decode, engine.network.prime_decode
    monkeypatch.setattr(engine, "_decode", lambda x, m: full.append(x.shape[2]) or run(x, m))
    monkeypatch.setattr(
        engine.network, "prime_decode", lambda x, m, to_go: primed.append(to_go) or prime(x, m, to_go)
    )
    pixels = np.concatenate([b.rgb for b in engine.decode_stream(chunks, 72, 56, wanted)])
    assert np.array_equal(pixels, whole[wanted.start : wanted.stop])
    group = {1: 1, 100: 2, 10**9: 4}[busy]
    latents = range(-(-wanted.start // 4), -(-(wanted.stop - 1) // 4) + 1)
    assert sum(full) <= len(latents) + 2 * (group - 1)
    assert len(primed) * group <= engine.spec.decode_context + group - 1


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 13, 14, 17])
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (64, 40)])
def test_every_number_of_frames_and_every_size_comes_back(engine, frames, size):
    rgb = moving_picture(frames, *size)
    chunks, latents = encode(engine, rgb)
    assert latents.shape[1] == 1 + -(-(frames - 1) // 4)
    assert decode(engine, chunks, *size).shape == rgb.shape
    assert [c.frames.stop for c in chunks][-1] == frames


def test_timestamps_travel_with_their_frames(engine):
    pts = np.cumsum(np.random.default_rng(0).integers(1, 100, 45))
    batches = [replace(b, pts=pts[i * 8 : i * 8 + len(b)]) for i, b in enumerate(batches_of(CLIP))]
    chunks = list(engine.encode_stream(batches))
    back = np.concatenate([b.pts for b in engine.decode_stream(chunks, 72, 56)])
    assert np.array_equal(back, pts)


def encode_aligned(engine, rgb, first_latent=0, batch=8):
    return list(engine.encode_stream(batches_of(rgb, batch), first_latent, worthless=120.0))


@pytest.mark.parametrize("busy", [1, 10**9], ids=["groups of 1", "groups of 4"])
def test_aligned_chunks_hold_what_moved_wherever_a_job_starts(engine, tiny, monkeypatch, busy):
    monkeypatch.setattr("cvvae_cli.engine.stream.BUSY_POSITIONS", busy)
    chunks, late = encode_aligned(engine, CLIP), encode_aligned(engine, CLIP[13:], 4, batch=3)
    fields = np.concatenate([c.fields for c in chunks])
    assert fields.dtype == np.int16
    assert fields.shape == (12, 3, 2, 4, 5)
    assert fields.any()
    assert np.array_equal(np.concatenate([c.fields for c in late]), fields[4:])
    whole, from_middle = (np.concatenate([c.latents for c in part], 1) for part in (chunks, late))
    assert np.array_equal(from_middle[:, tiny.encode_context :], whole[:, 4 + tiny.encode_context :])
    frames = decode(engine, chunks)
    assert not np.array_equal(frames, decode(engine, [replace(c, fields=None) for c in chunks]))
    for wanted in (range(1), range(17, 31), range(44, 45)):
        part = np.concatenate([b.rgb for b in engine.decode_stream(chunks, 72, 56, wanted)])
        assert np.array_equal(part, frames[wanted.start : wanted.stop])


@pytest.mark.parametrize("frames", [42, 43, 44, 45])
def test_what_is_left_to_choose_in_the_last_group_changes_no_frame_that_is_seen(engine, frames):
    """The last group holds one to four frames; with one it is an aligned group, expected from one instant."""
    chunks = encode_aligned(engine, CLIP[:frames])
    decoded = decode(engine, chunks)
    assert decoded.shape == CLIP[:frames].shape
    last = chunks[-1].fields[-1]
    as_found = last.copy()
    as_found[-1] = 0
    found = [
        *chunks[:-1],
        replace(chunks[-1], fields=np.concatenate([chunks[-1].fields[:-1], as_found[None]])),
    ]
    assert frames == 45 or np.array_equal(decode(engine, found), decoded)
    assert last.any() or frames != 42
    assert not last[:2].any() or frames != 42


def test_aligned_latents_of_what_rests_are_those_of_any_other(engine):
    still = np.repeat(CLIP[:1], 9, 0)
    (plain, _), aligned = encode(engine, still), encode_aligned(engine, still)
    assert plain[0].fields is None
    for a, b in zip(aligned, plain, strict=True):
        assert not a.fields.any()
        assert np.array_equal(a.latents, b.latents)
    assert np.array_equal(decode(engine, aligned), decode(engine, plain))


class Overflowing(torch.nn.Module):
    """Gives infinity in every number type but fp32."""

    def compute_in(self, dtype):
        self.network.compute_in(dtype)
        return self

    def __init__(self, network, always=False):
        super().__init__()
        self.network = network
        self.always = always

    def encode_groups(self, groups, memory=None):
        y = self.network.encode_groups(groups, memory)
        return y / 0 if self.always or self.network.dtype != torch.float32 else y


def test_a_chunk_that_is_not_finite_is_computed_again_in_fp32(tiny):
    engine = Engine(
        tiny, lambda: Overflowing(random_network()), Placement(torch.device("cpu"), torch.bfloat16)
    )
    exact = Engine(tiny, random_network, CPU)
    _, latents = encode(engine, CLIP)
    assert engine.fell_back
    assert relative(latents, encode(exact, CLIP)[1]) < 0.02


def test_what_stays_infinite_in_fp32_is_an_error(tiny):
    engine = Engine(tiny, lambda: Overflowing(random_network(), always=True), CPU)
    with pytest.raises(NonFiniteError, match="frames 0 to 12"):
        encode(engine, CLIP)


def test_bf16_is_close_to_fp32(tiny):
    rough = Engine(tiny, random_network, Placement(torch.device("cpu"), torch.bfloat16))
    exact = Engine(tiny, random_network, CPU)
    assert relative(encode(rough, CLIP)[1], encode(exact, CLIP)[1]) < 0.01


def test_half_precision_spares_the_linear_path(tiny):
    """A large latent keeps its fraction: bf16 would round 100.3 to 100.5."""
    network = random_network().compute_in(torch.bfloat16)
    torch.nn.init.zeros_(network.encoder.head.weight)
    torch.nn.init.zeros_(network.encoder.head.bias)
    network.linear_encode.bias.data += 100.3
    groups = torch.zeros(1, 3, 4, 16, 16)
    exact = network.linear_encode.bias.view(1, -1, 1, 1, 1)
    assert torch.allclose(network.encode_groups(groups), exact.expand(1, 4, 1, 2, 2), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_gives_the_latents_of_the_cpu(tiny, dtype):
    gpu = Engine(tiny, random_network, Placement(torch.device("cuda"), dtype))
    limit = 1e-3 if dtype == torch.float32 else 0.03
    assert relative(encode(gpu, CLIP)[1], encode(Engine(tiny, random_network, CPU), CLIP)[1]) < limit


def test_memory_does_not_grow_with_the_length(engine):
    """Peak of what numpy allocates, for streams that nobody keeps, whose last chunks are as long."""
    import tracemalloc

    def peak(frames):
        source = (b for _ in range(frames // 40) for b in batches_of(CLIP[:40]))
        tracemalloc.start()
        for batch in engine.decode_stream(engine.encode_stream(source), 72, 56):
            del batch
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(40)
    assert peak(640) <= 1.1 * peak(80)
