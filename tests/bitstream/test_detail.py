"""What pictures lack, remembered beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import (
    CORRECTED,
    PAINTED,
    assert_all_is_measured,
    assert_memories_come_back,
    moving_picture,
    page,
    same,
)

from cvvae_cli import codec, latents
from cvvae_cli.access import decode_frames
from cvvae_cli.bitstream import cosine_choice
from cvvae_cli.bitstream.cosine_choice import cosines_of
from cvvae_cli.bitstream.cosines import COLOURS, LARGEST_COSINE, SIDE, in_blocks, transform
from cvvae_cli.bitstream.detail import Change, DetailCoder, Memory, has_any, step_of
from cvvae_cli.bitstream.detail_choice import DetailChooser, lasting
from cvvae_cli.codec import decode_file, encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine import mirror
from cvvae_cli.engine.stream import Engine
from cvvae_cli.errors import CorruptFileError
from cvvae_cli.metrics.psnr import psnr
from cvvae_cli.options import EncodeOptions
from cvvae_cli.types import Lacking

ROWS, COLUMNS = 6, 9  # of blocks
STILL = np.zeros((2, 2, 3), np.int32)
OPTIONS = EncodeOptions(model="tiny-8", device="cpu", dtype="fp32")


def random_changes(seed, share=0.3, size=3.0):
    """A choice that knows nothing of pictures."""
    rng = np.random.default_rng(seed)

    def choose(number, memory):
        changed = rng.random((ROWS, COLUMNS)) < share
        cosines = np.rint(rng.laplace(0, size, (changed.sum(), 3, SIDE, SIDE))).astype(int)
        cosines[:, :, 4:] = 0
        shown = changed | (rng.random((ROWS, COLUMNS)) < 0.5) & has_any(memory.picture)
        return Change(changed, cosines, shown)

    return choose


def lacking(pictures, following=8):
    """Of four latent frames, of mid-grey pictures."""
    spreads = np.zeros((4, ROWS, COLUMNS))
    return Lacking(pictures, pictures / np.float32(127.5), np.full(4, 4), following, spreads)


@pytest.mark.parametrize("level", [10, 47, 100])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_memories_come_back_whole_and_in_parts(level, share):
    coder, vectors = DetailCoder(level), [STILL, STILL + 3, STILL - np.array([40, 1])[:, None, None]]
    choices = (random_changes(seed, share) for seed in range(2))
    assert_memories_come_back(coder, Memory.empty(ROWS, COLUMNS), vectors, choices)


def test_large_numbers_are_coded_and_too_large_ones_refused():
    coder, memory = DetailCoder(40), Memory.empty(ROWS, COLUMNS)
    changed = np.ones((ROWS, COLUMNS), bool)
    cosines = np.zeros((ROWS * COLUMNS, 3, SIDE, SIDE), int)
    cosines[::2, 0, 7, 7] = LARGEST_COSINE
    data, memories = coder.encode(memory, [STILL], lambda *_: Change(changed, cosines, changed))
    assert same(coder.decode(data, memory, [STILL])[0], memories[0])
    detail = DetailCoder(40)
    detail.added = lambda memory, *_: memory
    cosines[0, 0, 7, 7] += 1
    encode = DetailCoder.cosines

    def unchecked(self, count, wanted, first_table=0):
        steps = encode(self, count, wanted, first_table)
        answer = next(steps)
        while True:
            try:
                answer = steps.send((yield answer))
            except (StopIteration, CorruptFileError):
                return cosines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetailCoder, "cosines", unchecked)
        data, _ = detail.encode(memory, [STILL], lambda *_: Change(changed, cosines, changed))
    with pytest.raises(CorruptFileError, match="out of range"):
        coder.decode(data, memory, [STILL])


def test_where_nothing_is_shown_nothing_is_coded_and_the_picture_moves_on():
    coder, memory = DetailCoder(40), Memory.empty(ROWS, COLUMNS)
    _, (memory,) = coder.encode(memory, [STILL], random_changes(0, 1.0))
    nothing = np.zeros((ROWS, COLUMNS), bool)
    hide = Change(nothing, np.zeros((0, 3, SIDE, SIDE), int), nothing)
    data, (after,) = coder.encode(memory, [STILL + 5], lambda *_: hide)
    assert data == b""
    assert not after.shown.any()
    assert np.array_equal(after.picture[:, 5:, 5:], memory.picture[:, :-5, :-5])
    assert np.array_equal(
        after.picture[:, :5, 5:], memory.picture[:, :1, :-5].repeat(5, 1)
    )  # the edge goes on
    assert same(coder.decode(b"", memory, [STILL + 5])[0], after)


def test_bits_are_those_of_the_tables():
    coder, spent = DetailCoder(70), []
    pack = coder.pack
    coder.pack = lambda plan: spent.append(plan) or pack(plan)
    data, _ = coder.encode(Memory.empty(ROWS, COLUMNS), [STILL] * 4, random_changes(3, 0.6))
    bits = sum(coder.bits_of(guess, residuals).sum() for _, guess, residuals in spent[0].steps)
    assert abs(8 * len(data) - bits) < 0.01 * bits + 64


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-4], lambda d: d[:-1], lambda d: b"", lambda d: b"\xff" * 32]
)
def test_damaged_bytes_give_an_error_or_another_picture(damage):
    coder, memory = DetailCoder(40), Memory.empty(ROWS, COLUMNS)
    data, memories = coder.encode(memory, [STILL] * 2, random_changes(4))
    try:
        found = coder.decode(damage(data), memory, [STILL] * 2)
    except CorruptFileError:
        return
    assert not all(map(same, found, memories))


def test_the_integers_are_the_cosine_transform():
    assert np.abs(transform() @ transform().T / 2**24 - np.eye(SIDE)).max() < 5e-4
    rng = np.random.default_rng(0)
    picture = rng.normal(0, 40, (3, SIDE * ROWS, SIDE * COLUMNS)).astype(np.float32)
    cosines = cosines_of(in_blocks(picture))
    assert np.isclose((cosines**2).sum(), (picture**2).sum(), rtol=1e-4)
    coder = DetailCoder(100)
    steps = np.rint(cosines * 16 / coder.step).astype(int).reshape(-1, 3, SIDE, SIDE)
    changed = np.ones((ROWS, COLUMNS), bool)
    added = coder.added(Memory.empty(ROWS, COLUMNS), changed, steps).picture
    error = ((added / 16 - picture) ** 2).mean()
    assert 0.5 < error / ((coder.step / 16) ** 2 / 12) < 1.1
    assert np.allclose(COLOURS @ COLOURS.T, np.eye(3), atol=1e-6)
    assert [step_of(level) for level in (10, 15, 20, 100)] == [1216, 1123, 1030, 272]


def test_what_lacks_for_long_is_coded_and_what_passes_is_not():
    """The same detail: in all frames of a chunk, or another in each."""
    rng = np.random.default_rng(0)
    stays = np.repeat(rng.normal(0, 24, (1, 3, SIDE * ROWS, SIDE * COLUMNS)), 4, 0).astype(np.float32)
    passes = rng.normal(0, 24, stays.shape).astype(np.float32)
    sizes, left = [], []
    for pictures in (stays, passes):
        coder = DetailCoder(70)
        chooser = DetailChooser(coder, lacking(pictures), [STILL] * 4)
        data, memories = coder.encode(Memory.empty(ROWS, COLUMNS), [STILL] * 4, chooser.choose)
        sizes.append(len(data))
        shown = np.stack([memory.colours() for memory in memories]) / 16
        left.append(((pictures - shown) ** 2).mean() / (pictures**2).mean())
    assert left[0] < 0.6
    assert sizes[1] == 0


def test_the_longer_it_will_stay_the_more_is_coded():
    pictures = np.random.default_rng(0).normal(0, 16, (1, 3, SIDE * ROWS, SIDE * COLUMNS)).repeat(4, 0)
    sizes = []
    for following in (0, 4, 8):
        coder = DetailCoder(70)
        chooser = DetailChooser(coder, lacking(pictures.astype(np.float32), following), [STILL] * 4)
        sizes.append(len(coder.encode(Memory.empty(ROWS, COLUMNS), [STILL] * 4, chooser.choose)[0]))
    assert sizes[0] < 0.8 * sizes[1] < 0.8 * sizes[2]


def test_what_lasts():
    assert np.allclose(lasting(np.array([0, 0.5, 1]), 3), [0, 0.875, 3])
    assert np.array_equal(lasting(np.ones((2, 2)), 0), np.zeros((2, 2)))


def test_detail_follows_what_moves():
    rng = np.random.default_rng(1)
    wide = rng.normal(0, 25, (3, SIDE * ROWS, SIDE * COLUMNS + 60)).astype(np.float32)
    pictures = np.stack([wide[..., 30 - 6 * t : 30 - 6 * t + SIDE * COLUMNS] for t in range(4)])
    sizes = []
    for right in (6, 0):
        field = STILL + np.array([0, right])[:, None, None]
        coder = DetailCoder(70)
        chooser = DetailChooser(coder, lacking(pictures), [STILL, *[field] * 3])
        data, memories = coder.encode(Memory.empty(ROWS, COLUMNS), [STILL, *[field] * 3], chooser.choose)
        shown = np.stack([memory.colours() for memory in memories]) / 16
        sizes.append((((pictures - shown) ** 2).mean() / (pictures**2).mean(), len(data)))
    assert sizes[0][0] < 0.7
    assert sizes[0][0] < 0.7 * sizes[1][0]


def test_letters_at_rest_are_far_sharper(lossless, tmp_path):
    """Of the default model: what a file with detail takes more, x264 would not get for it either."""
    rgb = page(17, 192, 96)
    source, found = lossless(rgb), {}
    for detail in (True, False):
        path = tmp_path / f"{detail}.cvl"
        report = encode_file(source, path, EncodeOptions(quality=6, detail=detail, device="cpu"))
        with open_cvl(path) as cvl:
            spec, weights = latents.model_of(cvl.header)
            engine = Engine(spec, weights.build, codec.choose_placement("cpu", "fp32"))
            frames = np.concatenate([batch.rgb for batch in decode_frames(cvl, weights, engine)])
        found[detail] = psnr(rgb, frames).mean(), report.bits_per_pixel
    assert found[True][0] > found[False][0] + 8
    assert found[True][1] < 6 * found[False][1]


@pytest.fixture(
    params=["tiny-8", "tiny-9", "tiny-11", f"tiny-{CORRECTED}", f"tiny-{PAINTED}"],
    ids=["plain", "refined", "across", "corrected", "painted"],
)
def options(request):
    return replace(OPTIONS, model=request.param)


@pytest.fixture
def detailed(tiny, options, monkeypatch, lossless, tmp_path):
    """A file of seven chunks, three periods, in all of which some blocks are shown and some are not."""
    monkeypatch.setattr(cosine_choice, "LAST_PRICE", cosine_choice.FIRST_PRICE)
    encode_file(lossless(moving_picture(100, 48, 40, seed=3)), tmp_path / "whole.cvl", options)
    return tmp_path / "whole.cvl"


def test_an_interrupted_encode_goes_on_to_the_same_detail(detailed, options, tmp_path):
    whole = detailed.read_bytes()
    for cut in np.linspace(700, len(whole) - 1, 9).astype(int).tolist():
        output = tmp_path / "out.cvl"
        (tmp_path / "out.cvl.part").write_bytes(whole[:cut])
        encode_file(tmp_path / "source.mkv", output, replace(options, resume=True))
        assert output.read_bytes() == whole, cut
        output.unlink()


def test_a_part_shows_the_detail_of_the_whole(detailed):
    with open_cvl(detailed) as cvl:
        spec, weights = latents.model_of(cvl.header)
        chunks = list(latents.read_latents(cvl, weights))
        shown = [(chunk.detail.colours != 0).mean() for chunk in chunks]
        assert 0.02 < min(shown) <= max(shown) < 0.98, shown
        for number, expected in enumerate(chunks):
            (found,) = latents.read_latents(cvl, weights, range(number, number + 1))
            assert np.array_equal(found.detail.colours, expected.detail.colours)
            assert np.array_equal(found.detail.opaque, expected.detail.opaque)
        engine = Engine(spec, weights.build, codec.choose_placement("cpu", "fp32"))
        whole = np.concatenate([batch.rgb for batch in decode_frames(cvl, weights, engine)])
        for part in (range(1), range(30, 31), range(44, 61), range(99, 100)):
            frames = np.concatenate([batch.rgb for batch in decode_frames(cvl, weights, engine, part)])
            assert np.array_equal(frames, whole[part.start : part.stop])


def test_what_a_chunk_takes_is_measured_with_its_detail(detailed):
    assert_all_is_measured(detailed, chunks=7)


def test_without_detail_a_file_is_another_job_and_smaller(detailed, options, tmp_path):
    (tmp_path / "out.cvl.part").write_bytes(detailed.read_bytes()[:2000])
    plain = replace(options, detail=False)
    with pytest.raises(codec.ConfigError, match="another source or options"):
        encode_file(tmp_path / "source.mkv", tmp_path / "out.cvl", replace(plain, resume=True))
    encode_file(tmp_path / "source.mkv", tmp_path / "out.cvl", replace(plain, force=True))
    assert (tmp_path / "out.cvl").stat().st_size < detailed.stat().st_size
    with open_cvl(tmp_path / "out.cvl") as cvl:
        _, weights = latents.model_of(cvl.header)
        assert all(chunk.detail is None for chunk in latents.read_latents(cvl, weights))
    decode_file(tmp_path / "out.cvl", tmp_path / "out.mkv")


def test_which_frames_count_in_a_chunk():
    assert mirror.shown(range(0, 13)) == [slice(3, 4), *[slice(0, 4)] * 3]
    assert mirror.shown(range(13, 19)) == [slice(0, 4), slice(0, 2)]
    assert mirror.counts(range(0, 1)).tolist() == [1]
