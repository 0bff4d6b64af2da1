"""Files written by released versions decode for ever."""

import numpy as np
import pytest
from container.plain_reader import read
from safetensors.numpy import load_file
from tiny import COARSE_TO_FINE, EVERY, GOLDEN, GROUPED, JOINED, PYRAMID, REACH, REACHING

from cvvae_cli import latents
from cvvae_cli.bitstream.anchors import (
    BorrowingCoder,
    CoarseToFineCoder,
    CorrectedCoder,
    DetailedCoder,
    GroupedCoder,
    KeepingCoder,
    PaintedCoder,
    PyramidCoder,
    ReachingCoder,
)
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.cosines import COLOURS, in_blocks, turned
from cvvae_cli.bitstream.detail import has_any
from cvvae_cli.bitstream.exact import to_words
from cvvae_cli.bitstream.vectors import LARGEST
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine.stream import Engine
from cvvae_cli.flow.field import OTHERS
from cvvae_cli.flow.refinement import to_parts

MODELS = {
    "prior": 2,
    "motion": 3,
    "centered": 4,
    "anchored": 5,
    "aligned": 6,
    "linked": 7,
    "detailed": 8,
    "corrected": JOINED,
    "painted": JOINED,
    "borrowing": JOINED,
    "grouped": GROUPED,
    "pyramid": PYRAMID,
    "coarse-to-fine": COARSE_TO_FINE,
    "reaching": REACHING,
    "keeping": REACHING,
}  # the tiny model whose integers each but the first has
BORROWING = (
    BorrowingCoder,
    GroupedCoder,
    PyramidCoder,
    CoarseToFineCoder,
    ReachingCoder,
    KeepingCoder,
)  # coders that borrow
PAINTED = (PaintedCoder, *BORROWING)
CORRECTED = (CorrectedCoder, *PAINTED)
DETAILED = (DetailedCoder, *CORRECTED)
GOLDENS = sorted(path.stem for path in GOLDEN.glob("*.cvl"))


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_file_gives_its_latents_and_frames(tiny, engine, name):
    expected = np.load(GOLDEN / f"{name}.npz")
    with open_cvl(GOLDEN / f"{name}.cvl") as cvl:
        cvl.verify()
        spec, weights = latents.model_of(cvl.header)
        chunks = list(latents.read_latents(cvl, weights))
        width, height = cvl.header.size
        level, is_exact = cvl.header.level, cvl.header.coder.startswith("exact")
        sound = b"".join(cvl.side_data())
    values = np.concatenate([c.latents for c in chunks], axis=1)
    if is_exact:
        assert np.array_equal(values, expected["values"])
    else:
        gain, step = weights.gain_and_step(level)
        step = 1 / gain if step is None else step
        cells = expected["values"].astype(np.float32) / 2 ** ENTROPY_CODERS[spec.coder].symbol_bits
        dequantised = cells * step[None, :, None, None]
        assert np.allclose(values.transpose(1, 0, 2, 3), dequantised, rtol=1e-6)
    decoder = Engine(spec, weights.build, engine.placement)
    frames = np.concatenate([b.rgb for b in decoder.decode_stream(chunks, width, height)])[::EVERY]
    difference = np.abs(frames.astype(int) - expected["frames"])
    assert difference.max() <= 1  # floats differ in the last digits between machines
    assert sound.startswith(b"\x1a\x45\xdf\xa3")  # the side streams are Matroska


def assert_added(planes, colours):
    """Planes as the plain reader gives them are colours int16 (n, 3, H, W)."""
    whole = np.zeros(colours.shape, np.float32)
    for key, value in planes.items():
        whole[key] = value
    assert np.array_equal(np.rint(turned(whole, COLOURS.T)), colours)
    off = np.tensordot(whole, COLOURS, (1, 0)) - colours.transpose(0, 2, 3, 1)
    assert np.abs(off).max() < 0.501  # summed in another order, a half may fall to the other side


@pytest.mark.parametrize("name", GOLDENS)
def test_a_reader_written_from_the_specification_gives_the_same_symbols(tiny, name):
    number = MODELS.get(name.removeprefix("v1.0-"), 1)
    arrays = load_file(GOLDEN / f"tiny-{number}.safetensors")
    if number >= JOINED:  # what it lacks is that of the base
        arrays = load_file(GOLDEN / "tiny-8.safetensors") | arrays
    tables = {k.removeprefix("coder.").removeprefix("prior."): v.tolist() for k, v in arrays.items()}
    header, symbols, fields, details, covered, corrections, borrowed, lights = read(
        (GOLDEN / f"{name}.cvl").read_bytes(), tables
    )
    expected = np.load(GOLDEN / f"{name}.npz")["values"]
    if fields:
        with open_cvl(GOLDEN / f"{name}.cvl") as cvl:
            chunks = latents.read_latents(cvl, latents.model_of(cvl.header)[1])
            found = np.concatenate([chunk.fields for chunk in chunks])
        vectors = np.moveaxis(found, 2, -1).tolist()
        assert fields == {
            (t, OTHERS[k], y, x): tuple(vectors[t][k][y][x])
            for t, k, y, x in np.ndindex(*found[:, :, 0].shape)
        }
    if borrowed:
        with open_cvl(GOLDEN / f"{name}.cvl") as cvl:
            chunks = latents.read_latents(cvl, latents.model_of(cvl.header)[1])
            found = {(4 * n + t, k): v for n, c in enumerate(chunks) for (t, k), v in c.borrowed.items()}
        assert borrowed == {
            (t, OTHERS[k], y, x): tuple(vectors[:, y, x].tolist())
            for (t, k), vectors in found.items()
            for y, x in np.ndindex(*vectors.shape[1:])
        }
    if details:
        with open_cvl(GOLDEN / f"{name}.cvl") as cvl:
            chunks = latents.read_latents(cvl, latents.model_of(cvl.header)[1])
            found = [chunk.detail for chunk in chunks]
        assert_added(details, np.concatenate([detail.colours for detail in found]))
        opaque = np.concatenate([detail.opaque for detail in found])
        assert covered == set(zip(*(places.tolist() for places in np.nonzero(opaque)), strict=True))
    if corrections:
        with open_cvl(GOLDEN / f"{name}.cvl") as cvl:
            chunks = latents.read_latents(cvl, latents.model_of(cvl.header)[1])
            every = {n: each for chunk in chunks for n, each in chunk.corrections.items()}
        assert list(every) == list(range(37))
        found = np.zeros((37, 3, 40, 56), np.int16)
        for number, each in every.items():
            in_blocks(found[number])[each.changed] = each.colours
        assert_added(corrections, found)
    if lights:
        with open_cvl(GOLDEN / f"{name}.cvl") as cvl:
            chunks = latents.read_latents(cvl, latents.model_of(cvl.header)[1])
            found = [
                (n, v)
                for c in chunks
                if c.light is not None
                for n, v in zip(c.frames, c.light.tolist(), strict=True)
            ]
        assert lights == {number: tuple(values) for number, values in found}
        assert len(set(lights.values())) > 2
    kind = ENTROPY_CODERS.get(header["coder"])
    assert bool(lights) == (kind in (CoarseToFineCoder, ReachingCoder, KeepingCoder))
    assert bool(details) == (kind in DETAILED)
    assert bool(corrections) == (kind in CORRECTED)
    assert bool(covered) == (kind in PAINTED)
    assert bool(borrowed) == (kind in BORROWING)
    if "exact" in name:
        expected = to_words(expected, "bf16").transpose(1, 0, 2, 3)
    assert header["size"] == [52, 34]
    assert symbols == {key: int(value) for key, value in np.ndenumerate(expected)}


@pytest.mark.parametrize("name", [name for name in GOLDENS if "exact" not in name])
def test_the_golden_files_use_what_the_format_has(tiny, name):
    with open_cvl(GOLDEN / f"{name}.cvl") as cvl:
        symbols = np.load(GOLDEN / f"{name}.npz")["values"].astype(int)
        assert "context" not in name or np.abs(np.diff(symbols, axis=0)).max() > 2 * 127  # escapes
        is_whole = symbols % 16 == 0
        assert "centered" not in name or 0.02 < is_whole.mean() < 0.98  # some parts move, some rest
        if "aligned" in name:
            chunks = latents.read_latents(cvl, latents.model_of(cvl.header)[1])
            parts = to_parts(np.concatenate([c.fields for c in chunks]))
            shares = [(parts[:, k] != 0).mean() for k in range(3)]
            assert 0.02 < min(shares) <= max(shares) < 0.98, shares  # every part is used, and left out
        if "linked" in name or "detailed" in name:
            coder = latents.latent_coder(cvl.header, latents.model_of(cvl.header)[1])
            starts = [(first, cvl.read_chunk(first // 4).symbols) for first in (0, 8, 16, 24)]
            begins = [coder.is_fresh(*start) for start in starts]
            assert begins == [True, *((False, True) if "detailed" in name else (True, False)), True]
        if "painted" in name:
            chunks = list(latents.read_latents(cvl, latents.model_of(cvl.header)[1]))
            blocks = np.concatenate([in_blocks(each.detail.opaque) for each in chunks], axis=2)
            shares = blocks.mean((3, 4))
            assert all((shares == k).mean() > 0.1 for k in (0, 1)), shares
            assert ((shares > 0) & (shares < 1)).mean() > 0.03  # what moved lies beside what did not
        if ENTROPY_CODERS[cvl.header.coder] in BORROWING:
            chunks = latents.read_latents(cvl, latents.model_of(cvl.header)[1])
            found = {(4 * n + t, k): v for n, c in enumerate(chunks) for (t, k), v in c.borrowed.items()}
            assert sorted(found) == [(3, 0), (4, 2), (6, 0), (6, 1)]  # of cuts after frames 1, 3 and 2
            assert all(vectors.any() for vectors in found.values())
        if "corrected" in name or "painted" in name:
            chunks = latents.read_latents(cvl, latents.model_of(cvl.header)[1])
            shares = [each.changed.mean() for chunk in chunks for each in chunk.corrections.values()]
            assert 0.02 < np.mean(shares) < 0.9, shares
        if "detailed" in name:
            chunks = list(latents.read_latents(cvl, latents.model_of(cvl.header)[1]))
            shown = [has_any(picture).mean() for chunk in chunks for picture in chunk.detail.colours]
            assert 0.02 < min(shown) < 0.9 < max(shown) < 0.99, shown
        if "reaching" in name:
            coder = latents.latent_coder(cvl.header, latents.model_of(cvl.header)[1])
            list(latents.decoded_chunks(cvl, coder, range(1)))
            lengths = np.abs(coder.coder.vectors((4, 4, 5, 7)))[1:]
            assert LARGEST < np.quantile(lengths, 0.7) < lengths.max() <= REACH
        assert "anchored" not in name or 0.1 < is_whole[0].mean() < 0.9  # some areas have offsets, some not
        assert cvl.num_latents > cvl.header.period  # the coder starts fresh in the middle
        assert cvl.num_latents % cvl.header.chunk  # the last chunk is short
