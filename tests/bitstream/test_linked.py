"""Periods that begin from the first latent frame of the one before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import moving_picture

from cvvae_cli import codec, latents
from cvvae_cli.bitstream.anchors import LinkedCoder
from cvvae_cli.bitstream.chunk import FRESH, LINKED, MOST_LINKED, ChunkCoder
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.errors import CorruptFileError
from cvvae_cli.models.registry import Weights, find_model
from cvvae_cli.options import EncodeOptions

OPTIONS = EncodeOptions(model="tiny-7", device="cpu", dtype="fp32")
PERIOD = 4


@pytest.fixture(scope="module")
def coder():
    """That of the default model: the tiny one has never seen anything at rest."""
    spec = find_model("compact")
    return ENTROPY_CODERS[spec.coder].of_model(Weights(spec).arrays, 40)


@pytest.fixture
def always_links(monkeypatch):
    monkeypatch.setattr(
        ChunkCoder, "_links_well", lambda self, *_: bool(self._opening) and self._linked < MOST_LINKED
    )


def picture(seed):
    """A latent frame in cells, float32 (1, 32, 6, 8)."""
    return np.random.default_rng(seed).laplace(0, 1.5, (1, 32, 6, 8)).astype(np.float32)


def encoded(coder, periods):
    """The first chunks of periods, each a latent frame long, and what the reader makes of them in order."""
    writer, reader = ChunkCoder(coder, PERIOD), ChunkCoder(coder, PERIOD)
    chunks = [writer.encode(PERIOD * number, frame) for number, frame in enumerate(periods)]
    symbols = [reader.decode(PERIOD * number, data, (1, 32, 6, 8)) for number, data in enumerate(chunks)]
    return chunks, symbols


def begins(chunks):
    return [data[0] for data in chunks]


def test_what_has_not_changed_is_linked_and_costs_little(coder):
    chunks, symbols = encoded(coder, [picture(0)] * 3)
    assert begins(chunks) == [FRESH, LINKED, LINKED]
    assert max(map(len, chunks[1:])) < len(chunks[0]) / 2
    errors = [np.square(s / 16 - picture(0)).mean() for s in symbols]
    assert errors[2] < 1.1 * errors[0]


def test_what_is_another_picture_starts_fresh(coder):
    flat = 0.05 * picture(1)
    chunks, _ = encoded(coder, [picture(0), picture(0), flat, flat])
    assert begins(chunks) == [FRESH, LINKED, FRESH, LINKED]
    assert chunks[2] == encoded(coder, [flat])[0][0]


def test_after_the_most_links_a_period_starts_fresh(coder):
    chunks, _ = encoded(coder, [picture(0)] * (2 * MOST_LINKED + 3))
    assert begins(chunks) == [FRESH, *[LINKED] * MOST_LINKED] * 2 + [FRESH]


def test_anchors_are_those_of_the_last_fresh_start(coder):
    """Also where something moved in the first latent frame of a linked period."""
    moved = np.roll(picture(0), 1, 3)
    _, symbols = encoded(coder, [picture(0), moved, moved])
    assert not np.array_equal(symbols[1] & 15, symbols[0] & 15)
    opening = (symbols[1][0], symbols[0][0])
    data = coder.pack(coder.choose(moved, opening))
    assert np.array_equal(coder.decode(data, moved.shape, opening), symbols[2])


def test_a_beginning_that_cannot_be_is_refused(coder):
    chunks, _ = encoded(coder, [picture(0)] * 2)
    reader = ChunkCoder(coder, PERIOD)
    for first, data in [
        (0, chunks[1]),  # nothing to be linked to
        (0, b"\x02" + chunks[0][1:]),
        (PERIOD, b"\xff" + chunks[0][1:]),
        (PERIOD, b""),
    ]:
        with pytest.raises(CorruptFileError):
            reader.decode(first, data, (1, 32, 6, 8))
    with pytest.raises(CorruptFileError):  # read from the middle, without what it is linked to
        ChunkCoder(coder, PERIOD).decode(PERIOD, chunks[1], (1, 32, 6, 8))


def test_what_a_chunk_takes_is_measured_with_its_beginning(coder):
    chunks, _ = encoded(coder, [picture(0)] * 2)
    reader = ChunkCoder(coder, PERIOD)
    for number, data in enumerate(chunks):
        bits = reader.measure(PERIOD * number, data, (1, 32, 6, 8)).sum()
        assert abs(bits - 8 * len(data)) < 0.02 * 8 * len(data) + 64


@pytest.fixture
def linked_file(tiny, always_links, lossless, tmp_path):
    """Of seven periods of eight latent frames, those of one fresh start and another linked."""
    encode_file(lossless(moving_picture(200, 48, 40, seed=3)), tmp_path / "linked.cvl", OPTIONS)
    return tmp_path / "linked.cvl"


def test_a_part_is_read_as_in_the_whole_from_few_latent_frames(linked_file, monkeypatch):
    decoded = []
    decode = LinkedCoder.decode
    monkeypatch.setattr(
        LinkedCoder,
        "decode",
        lambda self, data, shape, *rest: decoded.append(shape[0]) or decode(self, data, shape, *rest),
    )
    with open_cvl(linked_file) as cvl:
        _, weights = latents.model_of(cvl.header)
        whole = list(latents.read_latents(cvl, weights))
        assert len(whole) == 13
        for number, expected in enumerate(whole):
            decoded.clear()
            (found,) = latents.read_latents(cvl, weights, range(number, number + 1))
            assert np.array_equal(found.latents, expected.latents)
            assert found.frames == expected.frames
            links = number // 2 % (MOST_LINKED + 1)
            assert decoded == [*[1] * links, *[4] * (number % 2), found.latents.shape[1]]


def test_an_interrupted_encode_goes_on_to_the_same_links(linked_file, lossless, tmp_path):
    whole, source = linked_file.read_bytes(), tmp_path / "source.mkv"
    for cut in np.linspace(600, len(whole) - 1, 9).astype(int).tolist():
        output = tmp_path / "out.cvl"
        (tmp_path / "out.cvl.part").write_bytes(whole[:cut])
        encode_file(source, output, replace(OPTIONS, resume=True))
        assert output.read_bytes() == whole
        output.unlink()


def test_a_job_with_other_alignment_is_not_gone_on_with(linked_file, tmp_path):
    (tmp_path / "out.cvl.part").write_bytes(linked_file.read_bytes()[:2000])
    with pytest.raises(codec.ConfigError, match="another source or options"):
        encode_file(tmp_path / "source.mkv", tmp_path / "out.cvl", replace(OPTIONS, resume=True, align=False))
