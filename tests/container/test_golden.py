"""Files written by released versions decode for ever."""

import numpy as np
import pytest
from container.plain_reader import read
from safetensors.numpy import load_file
from tiny import EVERY, GOLDEN

from cvvae_cli import latents
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.container.reader import open_cvl

GOLDENS = sorted(path.stem for path in GOLDEN.glob("*.cvl"))


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_file_gives_its_symbols_and_frames(tiny, engine, name):
    expected = np.load(GOLDEN / f"{name}.npz")
    with open_cvl(GOLDEN / f"{name}.cvl") as cvl:
        cvl.verify()
        _, weights = latents.model_of(cvl.header)
        chunks = list(latents.read_latents(cvl, weights))
        width, height = cvl.header.size
    symbols = np.concatenate([Quantizer(weights.gain()).quantize(c.latents) for c in chunks])
    assert np.array_equal(symbols, expected["symbols"])
    frames = np.concatenate([b.rgb for b in engine.decode_stream(chunks, width, height)])[::EVERY]
    difference = np.abs(frames.astype(int) - expected["frames"])
    assert difference.max() <= 1  # floats differ in the last digits between machines


@pytest.mark.parametrize("name", GOLDENS)
def test_a_reader_written_from_the_specification_gives_the_same_symbols(name):
    arrays = load_file(GOLDEN / "tiny-1.safetensors")
    tables = {k.removeprefix("coder."): v.tolist() for k, v in arrays.items() if k.startswith("coder.")}
    header, symbols = read((GOLDEN / f"{name}.cvl").read_bytes(), tables)
    expected = np.load(GOLDEN / f"{name}.npz")["symbols"]
    assert header["size"] == [52, 34]
    assert symbols == {key: int(value) for key, value in np.ndenumerate(expected)}


def test_the_golden_file_uses_what_the_format_has(tiny):
    with open_cvl(GOLDEN / f"{GOLDENS[0]}.cvl") as cvl:
        symbols = np.load(GOLDEN / f"{GOLDENS[0]}.npz")["symbols"].astype(int)
        assert np.abs(np.diff(symbols, axis=0)).max() > 2 * 127  # escapes
        assert cvl.num_latents > cvl.header.period  # the coder starts fresh in the middle
        assert cvl.num_latents % cvl.header.chunk  # the last chunk is short
