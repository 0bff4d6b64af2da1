"""What single frames lack in the end."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from tiny import (
    CORRECTED,
    JOINED,
    assert_all_is_measured,
    assert_an_interrupted_encode_goes_on,
    assert_parts_are_those_of_the_whole,
    assert_the_encoder_sees_what_the_decoder_shows,
    frames_of,
    moving_picture,
    tiny_spec,
)

from cvvae_cli import codec, latents
from cvvae_cli.bitstream import correction_choice, cosine_choice
from cvvae_cli.bitstream.chunk import told_by
from cvvae_cli.bitstream.correction_choice import encode_left
from cvvae_cli.bitstream.corrections import COARSER, CorrectionCoder
from cvvae_cli.bitstream.cosines import COLOURS, SIDE, Added, in_blocks, transform
from cvvae_cli.bitstream.detail import step_of
from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import CvlReader, open_cvl
from cvvae_cli.errors import CorruptFileError
from cvvae_cli.metrics.psnr import psnr
from cvvae_cli.options import EncodeOptions

ROWS, COLUMNS = 6, 9  # of blocks
OPTIONS = EncodeOptions(model=f"tiny-{CORRECTED}", device="cpu", dtype="fp32", quality=9)
CLIP = moving_picture(62, 44, 38, seed=3)  # five chunks, in the middle of one a period begins


def random_frames(seed, share, count=5):
    """Choices that know nothing of pictures."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        changed = rng.random((ROWS, COLUMNS)) < share
        cosines = np.rint(rng.laplace(0, 2, (changed.sum(), 3, SIDE, SIDE))).astype(int)
        cosines[:, :, 5:] = 0
        yield Added(changed, cosines)


@pytest.mark.parametrize("level", [10, 47, 100])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_corrections_come_back(level, share):
    coder, frames = CorrectionCoder(level), list(random_frames(1, share))
    found = coder.decode(coder.encode(frames), range(7, 12), ROWS, COLUMNS)
    assert list(found) == [7, 8, 9, 10, 11]
    for correction, added in zip(found.values(), frames, strict=True):
        expected = coder.correction(added)
        assert np.array_equal(correction.changed, added.changed)
        assert np.array_equal(correction.colours, expected.colours)
        assert correction.colours.dtype == np.int16


def test_what_is_added_is_the_cosine_transform_in_colours():
    coder, (added,) = CorrectionCoder(64), random_frames(2, 0.4, count=1)
    step = COARSER * step_of(64)
    planes = transform().T @ (added.cosines * step) @ transform() / 2**24
    colours = np.einsum("pc,npyx->ncyx", COLOURS, planes)
    assert np.abs(coder.correction(added).colours - colours).max() <= 1.5


def test_where_nothing_lacks_nothing_is_coded():
    coder = CorrectionCoder(100)
    assert encode_left(coder, [np.zeros((3, 48, 72), np.float32)] * 3) == b""
    assert encode_left(coder, []) == b""
    assert coder.decode(b"", range(3), ROWS, COLUMNS) is None


def test_what_lacks_in_one_place_of_one_frame_is_coded_there():
    rng = np.random.default_rng(0)
    left = rng.normal(0, 3, (3, 3, 45, 70)).astype(np.float32)  # sides that no block divides
    left[1, :, 16:32, 40:56] += rng.normal(0, 1, (3, 4, 4)).repeat(4, 1).repeat(4, 2) * 60
    coder = CorrectionCoder(100)
    found = coder.decode(encode_left(coder, left), range(3), ROWS, COLUMNS)
    where = [list(zip(*np.nonzero(each.changed), strict=True)) for each in found.values()]
    assert where == [[], [(2, 5), (2, 6), (3, 5), (3, 6)], []]
    added = np.zeros((3, SIDE * ROWS, SIDE * COLUMNS))
    in_blocks(added)[found[1].changed] = found[1].colours / 16
    before, after = (
        np.square(each[:, 16:32, 40:56]).mean() for each in (left[1], left[1] - added[:, :45, :70])
    )
    assert after < 0.1 * before


def test_blocks_of_the_edge_are_corrected_too():
    left = np.zeros((3, 44, 68), np.float32)
    left[:, 40:, 64:] = 90
    coder = CorrectionCoder(100)
    found = coder.decode(encode_left(coder, [left]), range(1), ROWS, COLUMNS)
    assert found[0].changed.sum() == 1
    assert np.abs(found[0].colours / 16 - 90).max() < 10  # as if the edge went on


def test_a_bit_is_worth_more_at_low_quality():
    rng = np.random.default_rng(1)
    left = [rng.normal(0, 60, (3, 6, 9)).repeat(8, 1).repeat(8, 2).astype(np.float32)]
    sizes = [len(encode_left(CorrectionCoder(level), left)) for level in (40, 70, 100)]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_bits_are_those_of_the_tables():
    coder, spent = CorrectionCoder(70), []
    pack = coder.pack
    coder.pack = lambda plan: spent.append(plan) or pack(plan)
    data = coder.encode(random_frames(3, 0.6))
    bits = sum(coder.bits_of(guess, residuals).sum() for _, guess, residuals in spent[0].steps)
    assert abs(8 * len(data) - bits) < 0.01 * bits + 64


@pytest.mark.parametrize("damage", [lambda d: d[:-4], lambda d: d[:-1], lambda d: b"\xff" * 32])
def test_damaged_bytes_give_an_error_or_another_picture(damage):
    coder = CorrectionCoder(40)
    data = coder.encode(random_frames(4, 0.3))
    whole = coder.decode(data, range(5), ROWS, COLUMNS)
    try:
        found = coder.decode(damage(data), range(5), ROWS, COLUMNS)
    except CorruptFileError:
        return
    assert not all(np.array_equal(found[n].colours, whole[n].colours) for n in range(5))


def test_which_frames_a_chunk_tells_of():
    assert told_by(range(13)) == range(12)
    assert told_by(range(13, 29)) == range(12, 28)
    assert told_by(range(1)) == range(0)  # of a picture nothing
    assert told_by(range(13, 14)) == range(12, 13)


@pytest.fixture
def sparing(monkeypatch):
    """A random network lacks a lot everywhere: so that not all blocks are corrected, however bad it is."""
    monkeypatch.setattr(cosine_choice, "LAST_PRICE", 1000.0)


@pytest.fixture
def corrected(tiny, sparing, lossless, tmp_path):
    encode_file(lossless(CLIP), tmp_path / "whole.cvl", OPTIONS)
    return tmp_path / "whole.cvl"


def corrections_of(path):
    with open_cvl(path) as cvl:
        _, weights = latents.model_of(cvl.header)
        return [chunk.corrections for chunk in latents.read_latents(cvl, weights)]


def test_every_frame_but_the_last_may_be_corrected_and_the_better_for_it(corrected):
    told = corrections_of(corrected)
    assert [list(each) for each in told] == [
        list(range(12)),
        *([*range(at - 1, at + 15)] for at in (13, 29)),
        [*range(44, 60)],
        [60],
    ]
    shares = np.array([each.changed.mean() for chunk in told for each in chunk.values()])
    assert 0.1 < shares.mean() < 0.9, shares
    assert shares[[12, 28, 44]].min() > 0, shares  # the last of a chunk, which the next one brings
    plain, whole = frames_of(corrected, lambda chunk: replace(chunk, corrections=None)), frames_of(corrected)
    better = psnr(CLIP, whole) - psnr(CLIP, plain)
    assert (better[:-1][shares > 0] > 0).all(), better
    assert better.mean() > 0.5, better
    assert better[-1] == 0


def test_what_is_added_to_a_frame_is_added_to_no_other(corrected):
    plain = frames_of(corrected, lambda chunk: replace(chunk, corrections=None))
    for frame in (0, 12, 13, 28, 44):

        def only(chunk, frame=frame):
            kept = {n: each for n, each in (chunk.corrections or {}).items() if n == frame}
            return replace(chunk, corrections=kept)

        differs = (frames_of(corrected, only) != plain).any(axis=(1, 2, 3))
        assert np.flatnonzero(differs).tolist() == [frame]


@pytest.mark.parametrize("busy", [1, 10**9], ids=["groups of 1", "groups of 4"])
def test_the_encoder_sees_what_the_decoder_shows(corrected, tiny, monkeypatch, busy):
    assert_the_encoder_sees_what_the_decoder_shows(monkeypatch, corrected, CLIP, OPTIONS, busy)


def test_a_part_is_that_of_the_whole(corrected, tiny):
    spec = tiny_spec(CORRECTED)
    engine = codec.make_engine(spec, latents.Weights(spec).build, codec.choose_placement("cpu", "fp32"))
    parts = range(3), range(12, 13), range(13, 15), range(28, 29), range(29, 46), range(44, 45), range(60, 62)
    assert assert_parts_are_those_of_the_whole(engine, corrected, parts) == len(CLIP)


def test_an_interrupted_encode_goes_on_to_the_same_corrections(corrected):
    assert_an_interrupted_encode_goes_on(corrected, OPTIONS)


def test_without_detail_there_are_no_corrections(corrected, tmp_path):
    encode_file(tmp_path / "source.mkv", tmp_path / "plain.cvl", replace(OPTIONS, detail=False))
    assert corrections_of(tmp_path / "plain.cvl") == [None] * 5
    assert (tmp_path / "plain.cvl").stat().st_size < corrected.stat().st_size


def test_below_the_least_level_there_are_none(corrected, tmp_path, monkeypatch):
    monkeypatch.setattr(correction_choice, "LEAST_CORRECTED", 91)
    encode_file(tmp_path / "source.mkv", tmp_path / "plain.cvl", OPTIONS)
    assert corrections_of(tmp_path / "plain.cvl") == [None] * 5


def test_what_a_chunk_takes_is_measured_with_its_corrections(corrected):
    assert_all_is_measured(corrected, chunks=5)


def test_corrections_that_claim_more_than_there_is_are_refused(corrected):
    data = bytearray(corrected.read_bytes())
    with CvlReader(io.BytesIO(bytes(data))) as cvl:
        coder = latents.latent_coder(cvl.header, latents.model_of(cvl.header)[1])
        chunk, size = cvl.read_chunk(0), cvl.header.geometry.latent_size(*cvl.header.size)
    shape, symbols = (4, len(chunk.latents), *size), bytearray(chunk.symbols)
    at = 0
    for _ in range(2):  # fields and detail
        at += 3 + int.from_bytes(symbols[at : at + 3], "little")
    symbols[at : at + 3] = b"\xff\xff\xff"
    with pytest.raises(CorruptFileError, match="cut"):
        coder.decode_corrections(bytes(symbols), shape, range(13))
    with pytest.raises(CorruptFileError, match="cut"):
        coder.decode(0, bytes(symbols), shape)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (41, 30)])
@pytest.mark.parametrize("frames", [1, 2, 5, 13, 14, 15])
def test_every_number_of_frames_and_every_size(tiny, sparing, lossless, tmp_path, frames, size):
    rgb = moving_picture(frames, *size)
    encode_file(lossless(rgb), tmp_path / "a.cvl", OPTIONS)
    assert frames_of(tmp_path / "a.cvl").shape == rgb.shape


def test_sixteen_bits_are_corrected_as_eight_are(tiny, sparing):
    spec = tiny_spec(CORRECTED)
    engine = codec.make_engine(spec, latents.Weights(spec).build, codec.choose_placement("cpu", "fp32"))
    found = []
    for rgb in (CLIP[:20], CLIP[:20].astype(np.uint16) * 257):
        chunks = engine.encode_stream(
            [codec.FrameBatch(rgb, np.arange(20))], keeps_means=True, keeps_frames=True
        )
        mirror = codec.Mirror(engine, 90, rgb.shape[1:3])
        left = []
        for chunk in chunks:
            reflection = mirror.of(chunk)
            reflection.lacking(chunk.latents)
            left.extend(reflection.left(None))
        found.append(np.stack(left))
    assert len(found[0]) == 19
    assert np.abs(found[0] - found[1]).max() < 0.01


def test_the_joined_model_alone_has_none(tiny, sparing, lossless, tmp_path):
    encode_file(lossless(CLIP[:20]), tmp_path / "a.cvl", replace(OPTIONS, model=f"tiny-{JOINED}"))
    assert corrections_of(tmp_path / "a.cvl") == [None] * 2
