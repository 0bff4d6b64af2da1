from fractions import Fraction

import av
import numpy as np
import pytest
from tiny import moving_picture

from cvvae_cli.errors import SourceNotFoundError, UnreadableSourceError
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.reader import open_source
from cvvae_cli.video.writer import OutputOptions, VideoWriter


def read(path):
    with open_source(path) as video:
        batches = list(video)
        return video.info, np.concatenate([b.rgb for b in batches]), np.concatenate([b.pts for b in batches])


def write(path, rgb, pts, time_base=Fraction(1, 12800), **options):
    info = VideoInfo(rgb.shape[2], rgb.shape[1], Fraction(25), time_base, len(rgb))
    with VideoWriter(path, path, info, OutputOptions(**options), None) as video:
        video.write(FrameBatch(rgb, np.array(pts, np.int64)))
    return path


@pytest.mark.parametrize("size", [(64, 48), (63, 48), (64, 47), (17, 31)])
def test_a_lossless_file_gives_every_value_back(lossless, size):
    rgb = moving_picture(20, *size)
    info, back, pts = read(lossless(rgb))
    assert (info.width, info.height) == size
    assert np.array_equal(back, rgb)
    assert pts.tolist() == [40 * i for i in range(20)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_about_how_many_frames_there_are_is_known_before_they_are_read(tmp_path, suffix):
    """Matroska does not say; samples for a target would all be of the beginning."""
    path = write(tmp_path / f"clip{suffix}", moving_picture(40, 64, 48), [512 * i for i in range(40)])
    with open_source(path) as video:
        assert video.info.num_frames in (39, 40, 41)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_timestamps_of_variable_rate_survive(tmp_path, suffix):
    times = np.cumsum([0, 512, 512, 2048, 256, 256, 5000, 512, 512, 300])
    info, _, pts = read(write(tmp_path / f"clip{suffix}", moving_picture(10, 64, 48), times))
    tick = max(Fraction(1, 12800), info.time_base)
    for before, after in zip(times, pts, strict=True):
        assert abs(int(before) * Fraction(1, 12800) - int(after) * info.time_base) <= tick


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_rotated_video_comes_upright(tmp_path, angle):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = (255, 0, 0)  # red in the stored picture's top left
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stream.set_display_rotation(angle)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        counterclockwise = next(container.decode(video=0)).rotation  # as FFmpeg defines its angle
    info, rgb, _ = read(path)
    assert info.rotation == -counterclockwise % 360
    expected = np.rot90(picture, counterclockwise // 90)
    assert rgb[0].shape == expected.shape == (info.height, info.width, 3)
    assert np.abs(rgb[0].astype(int) - expected).mean() < 4


def test_a_frame_folder_is_read_in_natural_order(tmp_path):
    rgb = moving_picture(12, 40, 32)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, picture in enumerate(rgb):
        av.VideoFrame.from_ndarray(picture, format="rgb24").save(folder / f"f{number}.png")  # f10 after f9
    info, back, pts = read(folder)
    assert np.array_equal(back, rgb)
    assert (info.frame_rate, info.num_frames) == (24, 12)
    assert (np.diff(pts) * info.time_base == Fraction(1, 24)).all()


@pytest.mark.parametrize("pix_fmt", ["rgb24", "gray", "pal8", "rgba", "rgb48be"])
def test_pictures_of_every_kind_are_read(tmp_path, pix_fmt):
    grey = np.repeat(moving_picture(1, 40, 32)[0][..., :1], 3, axis=2)
    path = tmp_path / "picture.png"
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 40, 32, pix_fmt, Fraction(1, 25)
    if pix_fmt == "pal8":
        frame = palette_frame(grey[..., 0])
    else:
        frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(
            format=pix_fmt, src_color_range=2, dst_color_range=2
        )
    path.write_bytes(b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)]))
    info, rgb, _ = read(path)
    assert len(rgb) == 1
    assert info.num_frames in (None, 1)
    assert rgb.dtype == (np.uint16 if pix_fmt == "rgb48be" else np.uint8)
    scale = np.iinfo(rgb.dtype).max // 255
    assert np.abs(rgb[0].astype(int) - grey.astype(int) * scale).max() <= scale


def palette_frame(grey):
    frame = av.VideoFrame(grey.shape[1], grey.shape[0], "pal8")
    indices, palette = frame.planes
    padded = np.zeros((indices.height, indices.line_size), np.uint8)
    padded[:, : grey.shape[1]] = grey
    indices.update(padded.tobytes())
    values = np.arange(256, dtype=np.uint32)
    palette.update((0xFF000000 | values << 16 | values << 8 | values).astype(np.uint32).tobytes())
    return frame


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p", "gray"])
def test_h264_of_every_sampling_is_read(tmp_path, pix_fmt):
    grey = np.repeat(moving_picture(5, 64, 48)[..., :1], 3, axis=3)
    _, rgb, _ = read(write(tmp_path / "clip.mp4", grey, np.arange(5) * 512, pix_fmt=pix_fmt, crf=4))
    assert np.abs(rgb.astype(int) - grey).mean() < 3


def test_a_missing_source_and_a_small_picture_are_refused(tmp_path, lossless):
    with pytest.raises(SourceNotFoundError):
        open_source(tmp_path / "nothing.mp4")
    with pytest.raises(UnreadableSourceError, match="8x8"):
        open_source(lossless(np.zeros((1, 8, 8, 3), np.uint8)))


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mov", "libx264"), ("avi", "mpeg4"), ("mkv", "libx264"), ("webm", "libvpx-vp9")],
)
def test_a_cut_file_is_an_error_and_not_a_shorter_video(tmp_path, suffix, codec):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (50, 48, 64, 3), np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    options = {"movflags": "faststart"} if suffix in ("mp4", "mov") else {}
    with av.open(str(whole), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in rgb:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert len(read(whole)[1]) == 50
    data = whole.read_bytes()
    for share in (0.3, 0.6, 0.9):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UnreadableSourceError):
            read(cut)


def test_a_size_that_changes_is_refused(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, width in enumerate((40, 48)):
        picture = moving_picture(1, width, 32)[0]
        av.VideoFrame.from_ndarray(picture, format="rgb24").save(folder / f"{number}.png")
    with pytest.raises(UnreadableSourceError, match="another size"):
        read(folder)
