"""What lies beside the video, what a container cannot hold, and odd sources."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from tiny import moving_picture
from video.sources import packets_of
from video.test_matrix import through

from cvvae_cli.errors import OutputNotWritableError, UnreadableSourceError
from cvvae_cli.video.matroska import ElementSplitter
from cvvae_cli.video.reader import ALL_KINDS, open_source
from cvvae_cli.video.sidestreams import SideReader, SideWriter
from cvvae_cli.video.writer import OutputOptions, VideoWriter

FONT = b"font" * 3000
LINES = {200: "first", 1000: "zweite Zeile — ü", 1600: "third"}


def jpeg():
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(moving_picture(1, 32, 32)[0], format="rgb24")
    frame = frame.reformat(format="yuvj420p")
    frame.pts = 0
    return b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])


def rich_source(path, *, font=False, cover=False, subtitles="mov_text", sound=True):
    """A clip of two seconds with chapters and tags, and what is asked for."""
    with av.open(str(path), "w") as container:
        container.metadata.update({"title": "A title", "comment": "ä comment"})
        marks = [("one", 0, 1000), ("two", 1000, 2000)]
        container.set_chapters(
            [
                {"id": n, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                for n, (title, a, b) in enumerate(marks, 1)
            ]
        )
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=48_000, layout="mono") if sound else None
        if audio:
            audio.metadata.update({"language": "swe", "title": "Commentary"})
        texts = container.add_mux_stream(subtitles) if subtitles else None
        if texts:
            texts.time_base = Fraction(1, 1000)
            texts.metadata["language"] = "deu"
        if font:
            container.add_attachment("a font.ttf", "font/ttf", FONT)
        picture = None
        if cover and path.suffix == ".mkv":
            container.add_attachment("cover.jpg", "image/jpeg", jpeg())
        elif cover:
            picture = container.add_mux_stream("mjpeg", width=32, height=32)
            picture.disposition = av.stream.Disposition.attached_pic
        container.start_encoding()
        for rgb in moving_picture(50, 64, 48):
            container.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(video.encode(None))
        if audio:
            for number in range(100):
                samples = np.random.default_rng(number).normal(0, 0.1, (1, 960)).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48_000, number * 960
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        for time, text in LINES.items() if texts else ():
            data = text.encode()
            packet = av.Packet(len(data).to_bytes(2, "big") + data if subtitles == "mov_text" else data)
            packet.stream, packet.time_base = texts, Fraction(1, 1000)
            packet.pts = packet.dts = time
            packet.duration = 300
            container.mux(packet)
        if picture:
            packet = av.Packet(jpeg())
            packet.stream, packet.pts, packet.dts = picture, 0, 0
            container.mux(packet)
    return path


def described(path):
    """What lies beside the video, in plain values."""
    with av.open(str(path)) as container:
        chapters = [
            (c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"])
            for c in container.chapters()
        ]
        tags = {k.lower(): v for k, v in container.metadata.items() if k.lower() in ("title", "comment")}
        labels = [
            (s.type, s.metadata.get("language"), s.metadata.get("title") if path.suffix == ".mkv" else None)
            for s in container.streams
            if s.type in ("audio", "subtitle")
        ]
        files = [(s.name, s.mimetype, bytes(s.data)) for s in container.streams.attachments]
        covers = [s for s in container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
        pictures = [bytes(next(p for p in container.demux(s) if p.size)) for s in covers]
    return chapters, tags, labels, files, pictures


def lines_of(path):
    """Times in ms and texts of the subtitles."""
    packets = packets_of(path, "subtitle")[0]
    texts = [(round(time * 1000), data) for time, data in packets]
    if path.suffix in (".mp4", ".mov"):
        texts = [(time, data[2 : 2 + int.from_bytes(data[:2], "big")]) for time, data in texts]
    return {time: text.decode() for time, text in texts if text}


@pytest.mark.parametrize("target", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(("suffix", "subtitles"), [("mp4", "mov_text"), ("mkv", "subrip")])
def test_subtitles_chapters_tags_and_covers_come_through(tmp_path, suffix, subtitles, target):
    source = rich_source(tmp_path / f"source.{suffix}", cover=True, subtitles=subtitles)
    output = tmp_path / f"out.{target}"
    if target == "mov":  # FFmpeg writes neither covers nor most languages there
        with pytest.raises(OutputNotWritableError, match="cover"):
            through(source, output)
        source = rich_source(tmp_path / f"plain.{suffix}", subtitles=subtitles)
    through(source, output)
    before, after = described(source), described(output)
    assert after[0] == before[0] == [("one", 0, 1), ("two", 1, 2)]
    assert after[1] == before[1] == {"title": "A title", "comment": "ä comment"}
    if target != "mov":
        assert [label[:2] for label in after[2]] == [("audio", "swe"), ("subtitle", "deu")]
    if suffix == target == "mkv":
        assert after[2] == before[2]
    assert after[4] == before[4]
    assert lines_of(output) == lines_of(source) == LINES
    assert [d for _, d in packets_of(source, "audio")[0]] == [d for _, d in packets_of(output, "audio")[0]]


def test_a_font_comes_through(tmp_path):
    source = rich_source(tmp_path / "source.mkv", font=True, subtitles="subrip")
    through(source, tmp_path / "out.mkv")
    assert described(tmp_path / "out.mkv")[3] == [("a font.ttf", "font/ttf", FONT)]


def test_chapters_and_tags_need_no_stream(tmp_path):
    source = rich_source(tmp_path / "source.mp4", subtitles=None, sound=False)
    through(source, tmp_path / "out.mp4")
    assert described(tmp_path / "out.mp4")[:3] == described(source)[:3]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.subtitles


@pytest.mark.parametrize(
    ("target", "what", "option"),
    [
        ("out.webm", "audio", "--no-audio"),
        ("out.avi", "subtitle", "--no-subtitles"),
        ("out.mp4", "attachment a font.ttf", "--no-attachments"),
    ],
)
def test_what_a_container_cannot_hold_is_refused_before_work_starts(tmp_path, target, what, option):
    source = rich_source(tmp_path / "source.mkv", font=True, subtitles="subrip")
    with pytest.raises(OutputNotWritableError, match=f"cannot hold the {what}") as caught:
        through(source, tmp_path / target)
    assert option in caught.value.hint
    assert ".mkv" in caught.value.hint


def test_kinds_can_be_left_out(tmp_path):
    source = rich_source(tmp_path / "source.mkv", font=True, cover=True, subtitles="subrip")
    with open_source(source) as reader:
        for kinds in ({"audio"}, {"subtitle"}, {"attachment"}, set()):
            found = reader.side_source(frozenset(kinds))
            assert {s.kind for s in found.describe()} == kinds


def side_of(source):
    with open_source(source) as reader:
        found = reader.side_source(ALL_KINDS)
        count = len(found.describe())
        side = SideWriter(found)
        reader.listen(side.add)
        for _ in reader:
            pass
        return side.take() + side.finish(), count


def test_a_part_has_its_chapters_and_packets_from_zero(tmp_path):
    pieces, count = side_of(rich_source(tmp_path / "source.mkv", subtitles="subrip"))
    part = SideReader((d for _, d in pieces), count, ALL_KINDS, Fraction(1, 2), Fraction(3, 2))
    chapters = [(c["metadata"]["title"], c["start"], c["end"]) for c in part.chapters]
    assert chapters == [("one", 0, 500), ("two", 500, 1000)]
    packets = list(part.until(None))
    times = [p.pts * p.time_base for p in packets]
    assert min(times) >= 0
    assert max(times) < 1
    assert [bytes(p).decode() for p in packets if p.stream.type == "subtitle"] == ["zweite Zeile — ü"]


def test_a_stream_that_was_cut_before_its_first_packet_still_has_its_chapters(tmp_path):
    pieces, count = side_of(rich_source(tmp_path / "source.mkv", subtitles="subrip"))
    head = [data for time, data in pieces if time is None]
    left = SideReader(iter(head[:1]), count, ALL_KINDS)
    assert [s.type for s in left.streams] == ["audio", "subtitle"]
    assert [c["metadata"]["title"] for c in left.chapters] == ["one", "two"]
    assert list(left.until(None)) == []


def test_the_stream_is_cut_where_clusters_begin(tmp_path):
    pieces, _ = side_of(rich_source(tmp_path / "source.mp4"))
    times = [time for time, _ in pieces]
    assert times[0] is None  # the head
    assert all(data.startswith(b"\x1f\x43\xb6\x75") == (time is not None) for time, data in pieces)
    assert [t for t in times if t is not None] == sorted(t for t in times if t is not None)
    assert times[1] == 0


def test_the_splitter_takes_its_bytes_one_by_one(tmp_path):
    pieces, _ = side_of(rich_source(tmp_path / "source.mp4"))
    splitter, found = ElementSplitter(), []
    for byte in b"".join(data for _, data in pieces):
        splitter.write(bytes([byte]))
        found += splitter.take()
    merged = [piece for piece in found if piece[0] is not None]
    assert merged == [piece for piece in pieces if piece[0] is not None]
    assert b"".join(d for _, d in found) == b"".join(d for _, d in pieces)


def write_interlaced(path):
    with av.open(str(path), "w") as container:
        options = {"x264-params": "interlaced=1", "preset": "ultrafast"}
        video = container.add_stream("libx264", rate=25, options=options)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        video.codec_context.flags |= 1 << 18  # interlaced DCT
        for rgb in moving_picture(10, 64, 64):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def test_interlaced_video_is_refused_or_joined(tmp_path):
    source = write_interlaced(tmp_path / "interlaced.mkv")
    with pytest.raises(UnreadableSourceError, match="interlaced") as caught:
        list(open_source(source))
    assert "--deinterlace" in caught.value.hint
    with open_source(source, deinterlace=True) as video:
        batches = list(video)
        times = np.concatenate([b.pts for b in batches]) * video.info.time_base
    assert times.tolist() == [Fraction(n, 25) for n in range(10)]
    assert np.concatenate([b.rgb for b in batches]).shape == (10, 64, 64, 3)


def test_the_shape_of_pixels_survives(tmp_path):
    source = tmp_path / "wide.mp4"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for rgb in moving_picture(3, 64, 48):
            container.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(video.encode(None))
    info, _ = through(source, tmp_path / "out.mp4")
    assert info.pixel_aspect == Fraction(4, 3)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_an_edit_list_hides_what_players_hide(tmp_path):
    """B-frames make MP4 start before zero and an edit list cut that off: the reader shows what PyAV shows."""
    source = tmp_path / "edited.mp4"
    with av.open(str(source), "w", options={"use_editlist": "1"}) as container:
        video = container.add_stream("libx264", rate=25, options={"bf": "3"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number, rgb in enumerate(moving_picture(20, 64, 48)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number - 4, Fraction(1, 25)  # four frames before zero
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    with av.open(str(source)) as container:
        expected = [f.pts for f in container.decode(video=0)]
    with open_source(source) as video:
        found = np.concatenate([b.pts for b in video]).tolist()
    assert found == expected


def test_missing_timestamps_are_filled_by_the_rate(tmp_path):
    source = tmp_path / "bare.h264"
    with av.open(str(source), "w", format="h264") as container:
        video = container.add_stream("libx264", rate=25, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for rgb in moving_picture(8, 64, 48):
            container.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(video.encode(None))
    with open_source(source) as video:
        times = np.concatenate([b.pts for b in video]) * video.info.time_base
    assert len(times) == 8
    assert (np.diff(times) > 0).all()


def test_a_second_video_and_data_are_named_as_left_out(tmp_path, caplog):
    import logging

    logging.getLogger("cvvae").propagate = True
    source = tmp_path / "two.mkv"
    with av.open(str(source), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for rgb in moving_picture(3, 64, 48):
            for stream in streams:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    through(source, tmp_path / "out.mkv")
    assert "left out: video stream 1" in caplog.text


def test_an_output_of_other_options_is_refused_in_a_sentence(tmp_path):
    info = open_source(rich_source(tmp_path / "source.mkv", subtitles=None, sound=False)).info
    for options in ({"codec": "prores_ks"}, {"codec": "libvpx-vp9", "pix_fmt": "yuv420p10le"}):
        with pytest.raises(OutputNotWritableError):
            VideoWriter(tmp_path / "out.mp4", tmp_path / "out.mp4", info, OutputOptions(**options), None)
