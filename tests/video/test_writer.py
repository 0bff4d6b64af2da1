from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tiny import moving_picture

from cvvae_cli.errors import ConfigError, OutputNotWritableError
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.matroska import ElementSplitter
from cvvae_cli.video.reader import ALL_KINDS, open_source
from cvvae_cli.video.sidestreams import SideReader, SideWriter
from cvvae_cli.video.writer import OutputOptions, VideoWriter, require_known_output, write_picture


def info_of(width=64, height=48):
    return VideoInfo(width, height, Fraction(25), Fraction(1, 12800), 10)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp4", None),
        (".mp4", "libx265"),
        (".mkv", "libsvtav1"),
        (".webm", None),
        (".mkv", "ffv1"),
        (".mov", None),
    ],
)
def test_every_container_and_codec_keeps_frames_and_times(tmp_path, suffix, codec):
    path = tmp_path / f"out{suffix}"
    rgb, pts = moving_picture(10, 96, 64), np.arange(10) * 512
    with VideoWriter(path, path, info_of(96, 64), OutputOptions(codec=codec), None) as video:
        for start in range(0, 10, 4):
            video.write(FrameBatch(rgb[start : start + 4], pts[start : start + 4]))
    with open_source(path) as back:
        batches = list(back)
        times = np.concatenate([b.pts for b in batches]) * float(back.info.time_base)
    assert np.abs(times - pts / 12800).max() < 0.0011
    assert np.abs(np.concatenate([b.rgb for b in batches]).astype(int) - rgb).mean() < 12


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 48), "yuv420p"), ((63, 48), "yuv444p"), ((64, 47), "yuv444p")]
)
def test_odd_sizes_are_kept_by_4_4_4(tmp_path, size, expected):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, path, info_of(*size), OutputOptions(), None) as video:
        video.write(FrameBatch(moving_picture(3, *size), np.arange(3) * 512))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.pix_fmt) == (*size, expected)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".webm", {"codec": "libx264"}), (".mp4", {"codec": "nonsense"})],
)
def test_what_a_container_cannot_hold_is_refused_before_the_first_frame(tmp_path, suffix, options):
    path = tmp_path / f"out{suffix}"
    with pytest.raises(OutputNotWritableError) as caught:
        VideoWriter(path, path, info_of(), OutputOptions(**options), None)
    assert caught.value.hint


def test_wrong_options_are_refused(tmp_path):
    path = tmp_path / "out.mkv"
    with pytest.raises(ConfigError, match="pixel format"):
        VideoWriter(path, path, info_of(), OutputOptions(pix_fmt="nonsense"), None)
    with pytest.raises(ConfigError, match="crf"):
        VideoWriter(path, path, info_of(), OutputOptions(codec="ffv1", crf=3), None)
    with pytest.raises(OutputNotWritableError):
        require_known_output(Path("out.docx"), 3)
    with pytest.raises(OutputNotWritableError, match="3 frames"):
        require_known_output(Path("out.png"), 3)


def test_one_frame_becomes_a_picture(tmp_path):
    rgb = moving_picture(1, 33, 17)
    batches = iter([FrameBatch(rgb, np.zeros(1, np.int64))])
    write_picture(tmp_path / "x.part", Path("x.png"), info_of(33, 17), batches)
    (tmp_path / "x.part").rename(tmp_path / "x.png")
    with open_source(tmp_path / "x.png") as back:
        assert np.array_equal(next(iter(back)).rgb, rgb)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("aac", "mp4"),
        ("aac", "mkv"),
        ("libopus", "mkv"),
        ("flac", "mkv"),
        ("pcm_s16le", "mkv"),
        ("aac", "mov"),
    ],
)
def test_audio_packets_come_through_byte_for_byte_and_in_time(tmp_path, codec, suffix):
    source = tmp_path / f"sound.{suffix}"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(codec, rate=48000, layout="stereo")
        for number, picture in enumerate(moving_picture(25, 64, 48)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            samples = np.random.default_rng(number).normal(0, 3000, (1, 1920 * 2)).astype(np.int16)
            sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            sound.sample_rate, sound.pts = 48000, number * 1920
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    parts = []
    with open_source(source) as reader:
        side = SideWriter(reader.side_source(ALL_KINDS))
        reader.listen(side.add)
        rgb = []
        for batch in reader:
            rgb.append(batch)
            parts += side.take()
        parts += side.finish()
        info = reader.info
    output = tmp_path / f"out.{suffix}"
    with VideoWriter(
        output, output, info, OutputOptions(), SideReader((data for _, data in parts), 1, ALL_KINDS)
    ) as video:
        for batch in rgb:
            video.write(batch)
    before, after = packets(source, "audio"), packets(output, "audio")
    assert [p[1] for p in before] == [p[1] for p in after]
    assert max(abs(a[0] - b[0]) for a, b in zip(before, after, strict=True)) <= 0.0011
    assert len(before) > 5
    times = [sorted(p[0] for p in packets(path, "video")) for path in (source, output)]
    assert max(abs(a - b) for a, b in zip(*times, strict=True)) <= 0.0011


def test_a_part_of_the_sound_starts_at_zero():
    step = 1024
    sink = ElementSplitter()
    with av.open(sink, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        for number in range(100):
            sound = av.AudioFrame.from_ndarray(
                np.full((1, step), number, np.int16), format="s16", layout="mono"
            )
            sound.sample_rate, sound.pts = 48000, number * step
            container.mux(stream.encode(sound))
    start, stop = Fraction(1, 2), Fraction(1)
    part = SideReader((data for _, data in sink.take()), 1, ALL_KINDS, start, stop)
    found = [
        (float(p.pts * p.time_base), int(np.frombuffer(bytes(p), np.int16)[0])) for p in part.until(None)
    ]
    expected = [n for n in range(100) if 0.5 <= round(n * step / 48, 0) / 1000 < 1]
    assert [number for _, number in found] == expected
    assert all(abs(time - (n * step / 48000 - 0.5)) <= 0.001 for time, n in found)


def packets(path, kind):
    """Time in seconds and bytes of every packet."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]
