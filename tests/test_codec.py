"""The hall with the tiny model: parts of a file equal the whole."""

from fractions import Fraction

import numpy as np
import pytest
from tiny import moving_picture

from cvvae_cli import access, latents
from cvvae_cli.codec import decode_file, encode_file
from cvvae_cli.container.reader import CvlReader, open_cvl
from cvvae_cli.errors import ConfigError
from cvvae_cli.options import DecodeOptions, EncodeOptions
from cvvae_cli.video.reader import open_source
from cvvae_cli.video.writer import OutputOptions

FRAMES = 83
TIMES = np.cumsum(np.random.default_rng(0).integers(20, 90, FRAMES))  # milliseconds, variable rate


@pytest.fixture
def cvl(tiny, lossless, tmp_path):
    """A file of 83 frames with 22 latent frames: the coder starts fresh at latents 0, 8 and 16."""
    source = lossless(moving_picture(FRAMES, 40, 32), pts=TIMES)
    encode_file(source, tmp_path / "clip.cvl", EncodeOptions(model=tiny.name, dtype="fp32", device="cpu"))
    return tmp_path / "clip.cvl"


@pytest.fixture
def reader(cvl, engine):
    """A function from a range of frames to RGB and pts."""
    with open_cvl(cvl) as file:
        _, weights = latents.model_of(file.header)

        def read(frames=None):
            batches = list(access.decode_frames(file, weights, engine, frames))
            return np.concatenate([b.rgb for b in batches]), np.concatenate([b.pts for b in batches])

        yield read


def test_any_range_of_frames_equals_the_whole_decode(reader):
    rgb, pts = reader()
    assert len(rgb) == FRAMES
    assert np.array_equal(pts, TIMES)
    rng = np.random.default_rng(1)
    for _ in range(50):
        start = int(rng.integers(FRAMES))
        stop = int(rng.integers(start + 1, FRAMES + 1))
        part, times = reader(range(start, stop))
        assert np.array_equal(part, rgb[start:stop])
        assert np.array_equal(times, TIMES[start:stop])


def test_reading_a_part_reads_no_more_than_its_period(cvl, reader, monkeypatch):
    read = []
    original = CvlReader.read_chunk
    monkeypatch.setattr(CvlReader, "read_chunk", lambda self, i: read.append(i) or original(self, i))
    reader(range(70, 75))
    assert read == [2, 3, 4]  # fresh at 2, network from 3, frames from 4


def test_the_cost_of_a_part_does_not_grow_with_its_place(tiny, engine, lossless, tmp_path, monkeypatch):
    """Records read and groups computed for 8 frames, near the start and near the end of a long file."""
    still = np.repeat(moving_picture(1, 32, 32), 1300, axis=0)
    source, path = lossless(still, "long.mkv"), tmp_path / "long.cvl"
    encode_file(source, path, EncodeOptions(model="tiny-1", dtype="fp32"))
    work = {"records": 0, "groups": 0}

    def counting(kind, function):
        def run(*arguments):
            work[kind] += 1
            return function(*arguments)

        return run

    with open_cvl(path) as file:
        _, weights = latents.model_of(file.header)
        monkeypatch.setattr(CvlReader, "_record_at", counting("records", CvlReader._record_at))
        monkeypatch.setattr(engine, "_decode", counting("groups", engine._decode))
        costs = []
        for start in (128 + 5, 1280 + 5):  # the same place of the period, which is 8 latents or 32 frames
            work.update(records=0, groups=0)
            assert sum(map(len, access.decode_frames(file, weights, engine, range(start, start + 8)))) == 8
            costs.append(dict(work))
    assert costs[0] == costs[1]


def decode(cvl, output, **options):
    return decode_file(
        cvl, output, DecodeOptions(output=OutputOptions(codec="ffv1"), dtype="fp32", **options)
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start_frame": 10, "frames": 7}, range(10, 17)),
        ({"start_frame": 80, "frames": 100}, range(80, 83)),
        ({"frames": 1}, range(1)),
        ({"start_seconds": Fraction(int(TIMES[30] - TIMES[0]), 1000), "frames": 4}, range(30, 34)),
        ({"start_seconds": Fraction(int(TIMES[30] - TIMES[0]) - 1, 1000), "frames": 4}, range(30, 34)),
        ({"start_seconds": Fraction(int(TIMES[30] - TIMES[0]) + 1, 1000), "frames": 4}, range(31, 35)),
        ({"duration_seconds": Fraction(int(TIMES[12] - TIMES[0]), 1000)}, range(12)),
    ],
)
def test_a_part_is_written_from_time_zero(cvl, reader, tmp_path, options, expected):
    report = decode(cvl, tmp_path / "part.mkv", **options)
    assert report.frames == len(expected)
    with open_source(tmp_path / "part.mkv") as video:
        batches = list(video)
    whole, _ = reader()
    assert np.array_equal(np.concatenate([b.rgb for b in batches]), whole[expected.start : expected.stop])
    times = TIMES[expected.start : expected.stop] - TIMES[expected.start]
    assert np.array_equal(np.concatenate([b.pts for b in batches]), times)


@pytest.mark.parametrize("options", [{"start_frame": FRAMES}, {"start_seconds": Fraction(10**6)}])
def test_a_part_that_is_not_there_is_refused(cvl, tmp_path, options):
    with pytest.raises(ConfigError, match="no frame"):
        decode(cvl, tmp_path / "part.mkv", **options)
    assert not list(tmp_path.glob("part*"))


def test_one_frame_of_a_video_becomes_a_picture(cvl, reader, tmp_path):
    decode_file(cvl, tmp_path / "frame.png", DecodeOptions(start_frame=50, frames=1, dtype="fp32"))
    with open_source(tmp_path / "frame.png") as picture:
        assert np.array_equal(next(iter(picture)).rgb, reader(range(50, 51))[0])


@pytest.mark.gpu
def test_a_file_that_a_gpu_made_holds_the_same_latents_on_the_cpu(tiny, lossless, tmp_path):
    """The coder with a prior, its stages in threads: encoded there, read here and there."""
    source, path = lossless(moving_picture(FRAMES, 40, 32)), tmp_path / "clip.cvl"
    encode_file(source, path, EncodeOptions(model="tiny-2", device="cuda"))
    with open_cvl(path) as file:
        _, weights = latents.model_of(file.header)
        here, there = (
            np.concatenate([c.latents for c in latents.read_latents(file, weights, device=device)], axis=1)
            for device in ("cpu", "cuda")
        )
    assert np.array_equal(here, there)
    report = decode_file(path, tmp_path / "out.mkv", DecodeOptions(device="cuda"))
    assert report.frames == FRAMES
