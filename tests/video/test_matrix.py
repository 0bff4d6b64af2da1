"""Every kind of source, from the reader to the writer, without the network between them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from video.sources import (
    COLORS,
    FRAMES,
    HEIGHT,
    WIDTH,
    Kind,
    frames_of,
    matrix,
    packets_of,
    pairwise,
    write_source,
)

from cvvae_cli.cli.app import main
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.reader import ALL_KINDS, open_source
from cvvae_cli.video.sidestreams import SideReader, SideWriter
from cvvae_cli.video.writer import OutputOptions, VideoWriter

MATRIX = matrix()


def through(source, output, **options):
    """What `encode` and `decode` do, with the latents left out."""
    with open_source(source) as reader:
        found = reader.side_source(ALL_KINDS)
        side = SideWriter(found) if found else None
        if side:
            reader.listen(side.add)
        batches = list(reader)
        pieces = side.take() + side.finish() if side else []
        info, count = reader.info, len(found.describe())
    beside = SideReader((data for _, data in pieces), count, ALL_KINDS) if side else None
    with VideoWriter(output, output, info, OutputOptions(**options), beside) as writer:
        for batch in batches:
            writer.write(FrameBatch(batch.rgb, batch.pts))
    return info, batches


@pytest.mark.parametrize("kind", MATRIX, ids=str)
def test_frames_times_sound_size_and_colour_come_through(tmp_path, kind: Kind):
    source = write_source(tmp_path / f"source.{kind.suffix}", kind)
    output = tmp_path / f"out.{kind.suffix}"
    info, batches = through(source, output)
    times, _, first = frames_of(source)
    assert len(times) == FRAMES
    pts = np.concatenate([b.pts for b in batches])
    assert [int(p) * info.time_base for p in pts] == times  # just what PyAV reports
    assert info.rotation == -first.rotation % 360 == -kind.rotation % 360
    assert (info.width, info.height) == upright_size(kind)
    assert (batches[0].rgb.dtype, info.depth) == ((np.uint16, 10) if kind.depth == 10 else (np.uint8, 8))

    assert_same(source, output, kind)


PAIRS = pairwise(MATRIX)


@pytest.mark.parametrize("kind", PAIRS, ids=str)
def test_the_whole_command_keeps_them_too(tmp_path, monkeypatch, capsys, kind: Kind):
    source = write_source(tmp_path / f"source.{kind.suffix}", kind)
    output = tmp_path / f"out.{kind.suffix}"
    for command in (["encode", source, tmp_path / "clip.cvl"], ["decode", tmp_path / "clip.cvl", output]):
        monkeypatch.setattr("sys.argv", ["cvvae", *map(str, command), "--device", "cpu"])
        assert main() == 0, capsys.readouterr().err
    assert_same(source, output, kind)


def assert_same(source, output, kind: Kind):
    """The output has the source's frames at its times, its size, colour tags and sound."""
    times, base, _ = frames_of(source)
    after, new_base, picture = frames_of(output)
    assert len(after) == FRAMES
    assert all(abs(a - b) <= max(base, new_base) for a, b in zip(times, after, strict=True))
    assert (picture.width, picture.height) == upright_size(kind)
    tags = (picture.color_primaries, picture.color_trc, picture.colorspace, picture.color_range)
    if kind.codec == "prores_ks":  # FFmpeg writes it untagged; then H.264 does not say limited, its default
        assert tuple(map(int, tags)) in {(2, 2, 2, 0), (2, 2, 2, 1)}
    else:
        assert tuple(map(int, tags)) == COLORS[kind.depth]

    sounds, kept = packets_of(source, "audio"), packets_of(output, "audio")
    assert len(sounds) == len(kept) == kind.audios
    for before, now in zip(sounds, kept, strict=True):
        assert b"".join(data for _, data in before) == b"".join(data for _, data in now)
        if kind.suffix == "mov":  # PCM in MOV is one run of samples, which a reader cuts as it likes
            continue
        assert [data for _, data in before] == [data for _, data in now]
        assert all(abs(a - b) <= Fraction(1, 999) for (a, _), (b, _) in zip(before, now, strict=True))


def upright_size(kind: Kind):
    return (HEIGHT, WIDTH) if kind.rotation % 180 else (WIDTH, HEIGHT)


def test_ten_bits_survive(tmp_path):
    """A ramp of 1024 levels in a lossless file comes back with nearly all of its levels."""
    ramp = np.repeat(np.linspace(0, 65_535, 1024).astype(np.uint16)[None, None, :, None], 64, axis=1)
    source = tmp_path / "ramp.mkv"
    info = VideoInfo(1024, 64, Fraction(25), Fraction(1, 1000), 1, depth=10)
    with VideoWriter(source, source, info, OutputOptions(codec="ffv1"), None) as writer:
        writer.write(FrameBatch(np.repeat(ramp, 3, axis=3), np.zeros(1, np.int64)))
    with open_source(source) as reader:
        rgb = next(iter(reader)).rgb
    assert rgb.dtype == np.uint16
    assert np.abs(rgb.astype(int) - ramp).max() <= 1
    assert (np.diff(rgb[0, 0, :, 0].astype(int)) > 0).all()
