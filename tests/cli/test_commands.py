"""The command as a process: what a user types, and what comes out where."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from tiny import GOLDEN, moving_picture

from cvvae_cli.container.reader import CvlReader
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.video.reader import open_source

ENCODE_KEYS = [
    "frames",
    "width",
    "height",
    "input_bytes",
    "output_bytes",
    "video_bytes",
    "side_bytes",
    "bits_per_pixel",
    "seconds",
    "encode_fps",
    "peak_memory_bytes",
    "model",
    "weights_sha256",
    "quality",
    "device",
    "dtype",
]
DECODE_KEYS = [
    "frames",
    "width",
    "height",
    "output_bytes",
    "seconds",
    "decode_fps",
    "peak_memory_bytes",
    "device",
    "dtype",
]


def test_a_clip_goes_to_cvl_and_back(cvvae, clip, tmp_path):
    done = cvvae("encode", clip, "out.cvl", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    encoded = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert list(encoded) == ENCODE_KEYS
    size = (tmp_path / "out.cvl").stat().st_size
    assert encoded["output_bytes"] == encoded["video_bytes"] == size
    assert encoded["bits_per_pixel"] == pytest.approx(size * 8 / (9 * 64 * 48), rel=1e-5)
    assert (encoded["frames"], encoded["width"], encoded["height"]) == (9, 64, 48)
    assert encoded["model"] == "compact-18"
    assert encoded["input_bytes"] == clip.stat().st_size

    done = cvvae("decode", "out.cvl", "back.mkv", "--codec", "ffv1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(json.loads(done.stdout)) == DECODE_KEYS
    with open_source(clip) as before, open_source(tmp_path / "back.mkv") as after:
        for a, b in zip(before, after, strict=True):
            assert a.rgb.shape == b.rgb.shape
            assert np.array_equal(a.pts, b.pts)
            assert np.abs(a.rgb.astype(int) - b.rgb).mean() < 16

    done = cvvae("info", "out.cvl", "--json")
    values = json.loads(done.stdout)
    assert (values["frames"], values["latents"], values["file_bytes"]) == (9, 3, size)
    assert values["bits_per_pixel"] == pytest.approx(encoded["bits_per_pixel"], rel=1e-5)
    assert json.loads(cvvae("verify", "out.cvl", "--json").stdout)["ok"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.mkv", "out.cvl", "source.mkv"]


def test_equal_inputs_give_equal_bytes(cvvae, clip, tmp_path):
    for name in ("a.cvl", "b.cvl"):
        assert cvvae("encode", clip, name).returncode == 0
    assert (tmp_path / "a.cvl").read_bytes() == (tmp_path / "b.cvl").read_bytes()


def test_people_get_a_table_and_programs_nothing_on_stderr(cvvae, clip):
    done = cvvae("encode", clip, "out.cvl")
    assert "bits per pixel" in done.stdout
    assert done.stderr == ""
    assert "compact-18" in cvvae("info", "out.cvl").stdout
    assert "sound" in cvvae("verify", "out.cvl").stdout


def test_a_picture_goes_to_cvl_and_back(cvvae, tmp_path):
    picture = moving_picture(1, 50, 34)[0]
    av.VideoFrame.from_ndarray(picture, format="rgb24").save(tmp_path / "photo.png")
    assert cvvae("encode", "photo.png", "photo.cvl").returncode == 0
    assert cvvae("decode", "photo.cvl", "back.png").returncode == 0
    with open_source(tmp_path / "back.png") as back:
        assert next(iter(back)).rgb.shape == (1, 34, 50, 3)


def test_a_frame_folder_has_the_rate_it_is_given(cvvae, tmp_path):
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(moving_picture(3, 32, 32)):
        av.VideoFrame.from_ndarray(picture, format="rgb24").save(tmp_path / "frames" / f"{number:05}.png")
    assert cvvae("encode", "frames", "out.cvl", "--fps", "30000/1001").returncode == 0
    assert json.loads(cvvae("info", "out.cvl", "--json").stdout)["frame_rate"] == pytest.approx(
        29.97, abs=0.001
    )


def test_a_pipe_gives_the_symbols_of_the_file(cvvae, clip, tmp_path):
    assert cvvae("encode", clip, "file.cvl").returncode == 0
    done = cvvae("encode", "-", "pipe.cvl", "--json", stdin=clip.read_bytes())
    assert json.loads(done.stdout)["input_bytes"] is None
    assert cvvae("decode", "file.cvl", "a.mkv", "--codec", "ffv1").returncode == 0
    assert cvvae("decode", "pipe.cvl", "b.mkv", "--codec", "ffv1").returncode == 0
    with open_source(tmp_path / "a.mkv") as a, open_source(tmp_path / "b.mkv") as b:
        assert np.array_equal(next(iter(a)).rgb, next(iter(b)).rgb)


def test_a_pipe_that_would_have_to_be_read_backwards_is_refused_with_a_way_out(cvvae, tmp_path):
    source = mp4(tmp_path / "end.mp4", 320, 256)
    assert source.stat().st_size > 100_000, "a short one is read as a whole before it is looked into"
    done = cvvae("encode", "-", "pipe.cvl", stdin=source.read_bytes())
    assert_refused(done)
    assert "faststart" in done.stderr


def test_a_cut_file_is_refused_and_what_is_there_can_be_saved(cvvae, lossless, tmp_path):
    lossless(moving_picture(40, 48, 32))
    assert cvvae("encode", "source.mkv", "whole.cvl").returncode == 0
    data = (tmp_path / "whole.cvl").read_bytes()
    (tmp_path / "cut.cvl").write_bytes(data[: data.rindex(b"LATS") + 20])  # in the last of three chunks
    for command in (["decode", "cut.cvl", "out.mkv"], ["verify", "cut.cvl"]):
        done = cvvae(*command)
        assert_refused(done)
        assert "cvvae repair" in done.stderr
    values = json.loads(cvvae("info", "cut.cvl", "--json").stdout)
    assert (values["is_cut"], values["frames"]) == (True, 29)
    done = cvvae("decode", "cut.cvl", "part.mkv", "--codec", "ffv1", "--allow-partial", "--json")
    assert json.loads(done.stdout)["frames"] == 29
    assert "was cut" in done.stderr
    assert json.loads(cvvae("repair", "cut.cvl", "saved.cvl", "--json").stdout)["frames"] == 29
    assert json.loads(cvvae("verify", "saved.cvl", "--json").stdout)["frames"] == 29
    assert cvvae("repair", "whole.cvl", "same.cvl").returncode == 0
    assert (tmp_path / "same.cvl").read_bytes() == data
    assert_refused(cvvae("repair", "source.mkv", "other.cvl"))
    assert_refused(cvvae("repair", "cut.cvl", "saved.cvl"))


def test_ten_bits_are_kept(cvvae, tmp_path):
    with av.open(str(tmp_path / "deep.mkv"), "w") as container:
        video = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p10le"
        for picture in moving_picture(3, 64, 48):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    done = cvvae("encode", "deep.mkv", "out.cvl", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(cvvae("info", "out.cvl", "--json").stdout)["depth"] == 10
    assert cvvae("decode", "out.cvl", "back.mp4").returncode == 0
    assert cvvae("decode", "out.cvl", "eight.mp4", "--pix-fmt", "yuv420p").returncode == 0
    formats = [av.open(str(tmp_path / f"{n}.mp4")).streams.video[0].pix_fmt for n in ("back", "eight")]
    assert formats == ["yuv420p10le", "yuv420p"]


def test_other_weights_are_refused(cvvae, clip, tmp_path):
    assert cvvae("encode", clip, "out.cvl").returncode == 0
    data = (tmp_path / "out.cvl").read_bytes()
    with CvlReader(io.BytesIO(data)) as cvl:
        header = replace(cvl.header, weights="0" * 64)
        with (tmp_path / "other.cvl").open("wb") as file, CvlWriter(file, header) as other:
            for number in range(len(cvl.index)):
                chunk = cvl.read_chunk(number)
                other.write_chunk(len(chunk.latents), chunk.pts, chunk.symbols)
    assert cvvae("verify", "other.cvl").returncode == 0
    done = cvvae("decode", "other.cvl", "back.mp4")
    assert_refused(done)
    assert "other weights of compact-18" in done.stderr


def test_sound_comes_through_and_can_be_left_out(cvvae, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="mono")
        for number, picture in enumerate(moving_picture(20, 64, 48)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            wave = np.sin(np.arange(1920) / 17 + number)[None].astype(np.float32)
            sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 48000, number * 1920, Fraction(1, 48000)
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    report = json.loads(cvvae("encode", "sound.mp4", "out.cvl", "--json").stdout)
    assert report["side_bytes"] > 1000
    assert report["video_bytes"] + report["side_bytes"] == report["output_bytes"]
    assert cvvae("decode", "out.cvl", "back.mp4").returncode == 0
    assert cvvae("decode", "out.cvl", "silent.mp4", "--no-audio").returncode == 0
    assert packets(tmp_path / "back.mp4") == packets(tmp_path / "sound.mp4")
    assert packets(tmp_path / "silent.mp4") == []
    silent = json.loads(cvvae("encode", "sound.mp4", "silent.cvl", "--no-audio", "--json").stdout)
    assert silent["side_bytes"] == 0
    assert 0 < report["video_bytes"] - silent["video_bytes"] <= 60  # the header names the stream


def packets(path):
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size] if container.streams.audio else []


def sound_only(path):
    with av.open(str(path), "w", format="ipod") as container:
        audio = container.add_stream("aac", rate=48000, layout="mono")
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        wave.sample_rate = 48000
        container.mux(audio.encode(wave))
        container.mux(audio.encode(None))


def mp4(path, width=64, height=48):
    """A clip whose index lies at its end."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "10"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for picture in moving_picture(30, width, height):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    return path


def bad_sources(folder):
    """Name of each bad source, after it was made in `folder`."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    sound_only(folder / "sound.m4a")
    whole = mp4(folder / "whole.mp4")
    (folder / "cut.mp4").write_bytes(whole.read_bytes()[:2000])
    whole.unlink()
    (folder / "no frames").mkdir()
    dot = np.zeros((1, 1, 3), np.uint8)
    av.VideoFrame.from_ndarray(dot, format="rgb24").save(folder / "dot.png")
    return ["missing.mp4", "empty.mp4", "text.mp4", "sound.m4a", "cut.mp4", "no frames", "dot.png"]


def assert_refused(done, code=1):
    """One sentence and perhaps a hint on stderr, nothing on stdout, no traceback."""
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2


def test_bad_sources_are_refused_in_one_sentence_and_leave_nothing(cvvae, tmp_path):
    names = [*bad_sources(tmp_path), next(GOLDEN.glob("*.cvl"))]
    before = sorted(p.name for p in tmp_path.iterdir())
    for name in names:
        done = cvvae("encode", name, "out.cvl")
        assert_refused(done)
        assert ("cvvae decode" in done.stderr) == str(name).endswith(".cvl")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_bad_cvl_files_are_refused_and_leave_nothing(cvvae, tmp_path):
    golden = next(GOLDEN.glob("*.cvl")).read_bytes()
    files = {"empty.cvl": b"", "text.cvl": b"no latents", "cut.cvl": golden[:-100]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "unknown.cvl").write_bytes(golden)  # of a model that only the tests know
    for name in files:
        for command in (["decode", name, "out.mp4"], ["info", name], ["verify", name]):
            if (name, command[0]) != ("cut.cvl", "info"):  # which shows what is there
                assert_refused(cvvae(*command))
    assert_refused(cvvae("decode", "unknown.cvl", "out.mp4"))
    assert_refused(cvvae("decode", "missing.cvl", "out.mp4"))
    assert not list(tmp_path.glob("out*"))


def test_outputs_are_never_overwritten_by_accident(cvvae, clip, tmp_path):
    (tmp_path / "out.cvl").write_bytes(b"precious")
    assert_refused(cvvae("encode", clip, "out.cvl"))
    assert_refused(cvvae("encode", clip, clip, "--force"))
    assert_refused(cvvae("encode", clip, tmp_path, "--force"))
    assert_refused(cvvae("encode", clip, "no/folder/out.cvl"))
    assert_refused(cvvae("encode", "missing.mp4", "out.cvl", "--force"))
    assert (tmp_path / "out.cvl").read_bytes() == b"precious"
    assert clip.stat().st_size > 1000
    assert cvvae("encode", clip, "out.cvl", "--force").returncode == 0
    (tmp_path / "back.mkv").write_bytes(b"precious")
    assert_refused(cvvae("decode", "out.cvl", "back.mkv"))
    assert_refused(cvvae("decode", "out.cvl", "back.docx"))
    assert_refused(cvvae("decode", "out.cvl", "back.png"))
    assert_refused(cvvae("decode", "out.cvl", "back.webm", "--codec", "libx264"))
    assert (tmp_path / "back.mkv").read_bytes() == b"precious"
    (tmp_path / "other.cvl.part").write_bytes(b"unfinished")
    done = cvvae("encode", clip, "other.cvl")
    assert_refused(done)
    assert "--force" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(cvvae, clip, tmp_path):
    (tmp_path / "locked").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    assert_refused(cvvae("encode", clip, "locked/out.cvl"))


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs /proc")  # noqa: PTH110
def test_a_place_where_nothing_can_be_created_is_refused(cvvae, clip):
    assert_refused(cvvae("encode", clip, "/proc/out.cvl"))  # not even by root


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_one_clear_error(cvvae, clip, tmp_path):
    (tmp_path / "out.cvl.part").symlink_to("/dev/full")
    done = cvvae("encode", clip, "out.cvl", "--force")
    assert_refused(done)
    assert "No space left" in done.stderr
    assert not (tmp_path / "out.cvl").exists()


@pytest.mark.parametrize(
    "arguments",
    [["encode"], ["encode", "a", "b", "--nonsense"], ["nonsense"], ["encode", "a", "b", "--tile", "three"]],
)
def test_wrong_usage_is_exit_code_2(cvvae, arguments):
    done = cvvae(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--model", "nonsense"],
        ["--device", "cuda:99"],
        ["--dtype", "fp16", "--device", "cpu"],
        ["--fps", "fast"],
    ],
)
def test_options_that_cannot_be_met_are_refused_with_a_hint(cvvae, clip, options):
    done = cvvae("encode", clip, "out.cvl", *options)
    assert_refused(done)
    assert "hint: " in done.stderr


def test_an_interrupt_is_exit_code_130_and_leaves_nothing(lossless, tmp_path):
    source = lossless(moving_picture(200, 320, 240))
    command = [sys.executable, "-m", "cvvae_cli", "encode", str(source), str(tmp_path / "out.cvl")]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored where tests run in the background
    )
    for _ in range(600):
        if (tmp_path / "out.cvl.part").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert out == b""
    assert b"Traceback" not in err
    assert not list(tmp_path.glob("out*"))
