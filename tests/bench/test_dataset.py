"""Which clips a dataset holds, and which of their pixels a protocol measures."""

import numpy as np
import pytest
import skimage.data
import skimage.io
from PIL import Image
from tiny import moving_picture

from cvvae_cli.bench.dataset import Clip, Protocol, Source, choose_protocol, find_clips, fit
from cvvae_cli.errors import ConfigError, SourceNotFoundError, UnreadableSourceError


@pytest.fixture
def folder(tmp_path, lossless):
    """A video, a photo, and a frame folder as DAVIS lays them out."""
    (tmp_path / "set" / "JPEGImages" / "480p" / "bear").mkdir(parents=True)
    lossless(moving_picture(9, 64, 48), "set/a.mkv")
    skimage.io.imsave(tmp_path / "set" / "photo.png", skimage.data.astronaut()[:64, :80])
    for number, frame in enumerate(moving_picture(10, 64, 48)):
        skimage.io.imsave(tmp_path / "set/JPEGImages/480p/bear" / f"{number:05d}.png", frame)
    return tmp_path / "set"


def names(dataset, **options):
    return [source.name for source in find_clips(str(dataset), **options)]


def test_a_folder_is_searched_for_videos_frame_folders_and_photos(folder):
    assert names(folder) == ["a.mkv", "JPEGImages/480p/bear", "photo.png"]
    assert names(folder, limit=1) == ["a.mkv"]
    assert sorted(names(folder, shuffle_seed=3)) == sorted(names(folder))
    assert names(folder, shuffle_seed=3) == names(folder, shuffle_seed=3)
    assert len({tuple(names(folder, shuffle_seed=seed)) for seed in range(8)}) > 1


def test_clips_of_all_usual_kinds_are_found_and_an_animation_is_one(folder):
    for name in ("B.M2TS", "c.wmv", "d.mpeg", "e.3gp", "notes.md"):
        (folder / name).write_bytes(b"")
    frames = [Image.fromarray(frame) for frame in moving_picture(9, 64, 48)]
    frames[0].save(folder / "f.gif", save_all=True, append_images=frames[1:], duration=80)
    assert names(folder)[:6] == ["B.M2TS", "a.mkv", "c.wmv", "d.mpeg", "e.3gp", "f.gif"]
    assert "notes.md" not in names(folder)
    clip = Clip(Source(folder / "f.gif", "f.gif"), Protocol())
    assert clip.num_frames == 9
    assert float(clip.info.frame_rate) == 12.5


def test_a_file_a_glob_a_list_and_a_frame_folder_are_datasets(folder):
    assert names(folder / "a.mkv") == ["a.mkv"]
    assert names(folder / "*.mkv") == ["a.mkv"]
    assert names(folder / "**" / "bear") == ["JPEGImages/480p/bear"]
    (folder / "list.txt").write_text("# clips\na.mkv\n\nJPEGImages/480p/bear\n")
    assert names(folder / "list.txt") == ["a.mkv", "JPEGImages/480p/bear"]
    assert names(folder / "JPEGImages" / "480p" / "bear") == ["bear"]


@pytest.mark.parametrize("dataset", ["nowhere", "*.nothing"])
def test_an_empty_dataset_is_refused(tmp_path, dataset):
    with pytest.raises(SourceNotFoundError):
        find_clips(str(tmp_path / dataset))
    with pytest.raises(SourceNotFoundError):
        find_clips(str(tmp_path))


def test_a_protocol_chooses_frames_and_they_may_be_read_again_and_again(folder):
    source = moving_picture(9, 64, 48)
    clip = Clip(Source(folder / "a.mkv", "a.mkv"), Protocol(frames=3, stride=2, start=1))
    for _ in range(2):
        assert np.array_equal(np.concatenate([batch.rgb for batch in clip]), source[[1, 3, 5]])
    assert (clip.num_frames, clip.info.frame_rate) == (3, 25 / 2)
    assert np.array_equal(next(iter(clip)).pts, [0, 1, 2])
    with pytest.raises(UnreadableSourceError, match="no frame 9"):
        Clip(Source(folder / "a.mkv", "a.mkv"), Protocol(start=9))


def test_a_large_clip_is_not_kept_in_memory(folder, monkeypatch):
    monkeypatch.setattr("cvvae_cli.bench.dataset.MOST_IN_MEMORY", 1000)
    small = Clip(Source(folder / "a.mkv", "a"), Protocol())
    assert small._kept is None
    assert np.array_equal(np.concatenate([b.rgb for b in small]), moving_picture(9, 64, 48))


def test_the_hash_of_a_clip_is_that_of_its_pixels(folder, lossless):
    lossless(moving_picture(9, 64, 48), "set/copy.mkv")
    one, copy = (Clip(Source(folder / name, name), Protocol()) for name in ("a.mkv", "copy.mkv"))
    shorter = Clip(Source(folder / "a.mkv", "a"), Protocol(frames=8))
    assert one.sha256 == copy.sha256 != shorter.sha256


def test_the_papers_settings_have_names():
    webvid = choose_protocol("webvid-33x256")
    assert (webvid.frames, webvid.stride, webvid.size_of(1920, 1080)) == (33, 1, (256, 256))
    paper = choose_protocol("cvvae-paper")
    assert (paper.frames, paper.stride, paper.size_of(480, 848)) == (33, 3, (256, 256))
    changed = choose_protocol("cvvae-paper", frames=17)
    assert (changed.frames, changed.stride, changed.name) == (17, 3, "cvvae-paper, changed")
    assert choose_protocol("cvvae-paper", crop="none").crop is None


@pytest.mark.parametrize("wrong", [{"resize": "huge"}, {"resize": "8x8"}, {"crop": "left"}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        choose_protocol("native", **wrong)
    with pytest.raises(ConfigError, match="nonsense"):
        choose_protocol("nonsense")


def test_a_crop_keeps_the_middle_undistorted():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 255  # a square in the middle
    assert (fit(picture, (20, 20), is_cropped=True) == 255).all()
    stretched = fit(picture, (20, 20), is_cropped=False)
    assert stretched.shape == (20, 20, 3)
    assert (stretched[:, :4] == 0).all()
