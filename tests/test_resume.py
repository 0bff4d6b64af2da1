"""An encode that was interrupted anywhere goes on to the same bytes."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import moving_picture
from tools.make_clip import make_clip
from video.sources import Kind, write_source

from cvvae_cli import access, codec
from cvvae_cli.codec import decode_file, encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.engine.ahead import ahead
from cvvae_cli.errors import ConfigError, OutputExistsError, SourceNotFoundError
from cvvae_cli.options import DecodeOptions, EncodeOptions
from cvvae_cli.video.reader import open_source
from cvvae_cli.video.writer import OutputOptions

OPTIONS = EncodeOptions(model="tiny-1", device="cpu", dtype="fp32")


@pytest.fixture
def source(lossless):
    """A clip of 90 frames at uneven times: several periods of the coder, the last chunk short."""
    rgb = moving_picture(90, 48, 40, seed=3)
    return lossless(rgb, pts=np.cumsum(np.random.default_rng(3).integers(20, 60, 90)))


@pytest.fixture
def whole(tiny, source, tmp_path):
    encode_file(source, tmp_path / "whole.cvl", OPTIONS)
    return (tmp_path / "whole.cvl").read_bytes()


def resume(source, output, **changes):
    encode_file(source, output, replace(OPTIONS, resume=True, **changes))
    return output.read_bytes()


def decoded_frames(cvl):
    video = cvl.with_suffix(".mkv")
    decode_file(
        cvl, video, DecodeOptions(output=OutputOptions("ffv1"), device="cpu", dtype="fp32", force=True)
    )
    with open_source(video) as frames:
        return np.concatenate([batch.rgb for batch in frames])


def test_a_file_cut_at_any_byte_is_finished_to_the_same_bytes(whole, source, tmp_path):
    output = tmp_path / "out.cvl"
    for cut in [0, 1, 7, len(whole) - 1, *np.random.default_rng(0).integers(8, len(whole), 26).tolist()]:
        (tmp_path / "out.cvl.part").write_bytes(whole[:cut])
        assert resume(source, output) == whole
        assert not (tmp_path / "out.cvl.part").exists()
        output.unlink()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_the_side_streams_are_finished_too(tiny, tmp_path, suffix):
    encoder = "libvpx-vp9" if suffix == "webm" else "libx264"
    source = write_source(tmp_path / f"s.{suffix}", Kind(suffix, encoder, True, 2, 0, 8))
    encode_file(source, tmp_path / "whole.cvl", OPTIONS)
    whole = (tmp_path / "whole.cvl").read_bytes()
    assert whole.count(b"SIDE") > 1
    rng = np.random.default_rng(1)
    for cut in rng.integers(8, len(whole), 12).tolist():
        (tmp_path / "out.cvl.part").write_bytes(whole[:cut])
        assert resume(source, tmp_path / "out.cvl") == whole
        (tmp_path / "out.cvl").unlink()


def test_exact_latents_are_finished_too(tiny, source, tmp_path):
    encode_file(source, tmp_path / "whole.cvl", replace(OPTIONS, exact="bf16"))
    whole = (tmp_path / "whole.cvl").read_bytes()
    (tmp_path / "out.cvl.part").write_bytes(whole[: len(whole) // 2])
    assert resume(source, tmp_path / "out.cvl", exact="bf16") == whole


def test_without_a_part_file_resume_starts_from_the_beginning(whole, source, tmp_path):
    assert resume(source, tmp_path / "out.cvl") == whole
    with pytest.raises(OutputExistsError):
        resume(source, tmp_path / "out.cvl")


def test_only_what_is_missing_is_computed(whole, source, tmp_path, monkeypatch):
    with open_cvl(tmp_path / "whole.cvl") as cvl:
        cut = cvl.index[4] + 5  # four whole chunks
    (tmp_path / "out.cvl.part").write_bytes(whole[:cut])
    written = []
    write = CvlWriter.write_chunk
    monkeypatch.setattr(CvlWriter, "write_chunk", lambda self, *a: written.append(a[0]) or write(self, *a))
    assert resume(source, tmp_path / "out.cvl") == whole
    assert len(written) == len(cvl.index) - 4


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"exact": "fp32"}, "coder"),
        ({"deinterlace": True}, "source or options"),
        ({"tile_pixels": 64}, "tile"),
    ],
)
def test_a_part_file_of_another_job_is_refused_and_kept(whole, source, tmp_path, changes, complaint):
    part = tmp_path / "out.cvl.part"
    part.write_bytes(whole[:-50])
    with pytest.raises(ConfigError, match=complaint) as caught:
        resume(source, tmp_path / "out.cvl", **changes)
    assert "--force" in caught.value.hint
    assert part.read_bytes() == whole[:-50]


def test_a_part_file_of_another_source_is_refused_and_kept(whole, lossless, tmp_path):
    part = tmp_path / "out.cvl.part"
    part.write_bytes(whole[:-50])
    other = lossless(moving_picture(90, 48, 40, seed=4), "other.mkv")
    with pytest.raises(ConfigError, match="another"):
        resume(other, tmp_path / "out.cvl")
    assert part.read_bytes() == whole[:-50]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device"), None])
def test_stages_in_threads_as_with_a_gpu_give_the_same_and_stop_alike(tiny, tmp_path, monkeypatch, failure):
    source = tmp_path / "s.mp4"
    make_clip(source, 60, 64, 48)
    encode_file(source, tmp_path / "whole.cvl", OPTIONS)
    whole = (tmp_path / "whole.cvl").read_bytes()
    assert whole.count(b"SIDE") > 1
    plain = decoded_frames(tmp_path / "whole.cvl")
    threads = threading.active_count()
    for room in (codec, access):
        monkeypatch.setattr(room, "ahead", lambda items, device: ahead(items, torch.device("cuda")))

    def fail_later(progress):
        if failure and progress.frames > 15:
            raise failure

    out = tmp_path / "out.cvl"
    if failure:
        with pytest.raises(type(failure)):
            encode_file(source, out, OPTIONS, on_progress=fail_later)
        assert threading.active_count() == threads
        assert resume(source, out) == whole
        return
    encode_file(source, out, OPTIONS)
    assert out.read_bytes() == whole
    assert np.array_equal(decoded_frames(out), plain)
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()]
)
def test_an_interruption_keeps_the_part_and_says_how_to_go_on(
    whole, source, tmp_path, monkeypatch, caplog, failure
):
    write = CvlWriter.write_chunk

    def fail_later(self, *arguments):
        if self.num_latents >= 8:
            raise failure
        write(self, *arguments)

    logging.getLogger("cvvae").propagate = True
    monkeypatch.setattr(CvlWriter, "write_chunk", fail_later)
    with pytest.raises(type(failure)):
        encode_file(source, tmp_path / "out.cvl", OPTIONS)
    monkeypatch.setattr(CvlWriter, "write_chunk", write)
    assert "--resume" in caplog.text
    assert not (tmp_path / "out.cvl").exists()
    with open_cvl(tmp_path / "out.cvl.part", allow_partial=True) as cvl:
        assert cvl.num_latents == 8
    with pytest.raises(SourceNotFoundError) as missing:
        open_cvl(tmp_path / "out.cvl")
    assert "--resume" in missing.value.hint
    with pytest.raises(OutputExistsError) as caught:
        encode_file(source, tmp_path / "out.cvl", OPTIONS)
    assert "--resume" in caught.value.hint
    assert resume(source, tmp_path / "out.cvl") == whole
