"""Colour bars through every matrix and range: written by the textbook, read by us, and the other way."""

from fractions import Fraction

import av
import numpy as np
import pytest

from cvvae_cli.errors import UnreadableSourceError
from cvvae_cli.types import ColorInfo, FrameBatch, VideoInfo
from cvvae_cli.video.color import FromRgb, ToRgb
from cvvae_cli.video.reader import open_source
from cvvae_cli.video.writer import OutputOptions, VideoWriter

CORNERS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0)]
BARS = np.array([*CORNERS, (0, 0, 255), (0, 0, 0), (128, 128, 128), (191, 40, 90)], np.uint8)
BAR = 16
PICTURE = np.repeat(BARS[None], BAR, axis=1).repeat(64, axis=0)
WEIGHTS = {
    1: (0.2126, 0.0722),
    5: (0.299, 0.114),
    9: (0.2627, 0.0593),
}  # of red and blue: BT.709, BT.601, BT.2020


def textbook_yuv(rgb, matrix, full):
    """ITU-R BT.601/709/2020: RGB (…, 3) → 8-bit Y, Cb, Cr."""
    red, blue = WEIGHTS[matrix]
    r, g, b = (rgb[..., i] / 255 for i in range(3))
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    scale_y, offset, scale_c = (255, 0, 255) if full else (219, 16, 224)
    planes = [y * scale_y + offset, cb * scale_c + 128, cr * scale_c + 128]
    return [np.clip(np.rint(p), 0, 255).astype(np.uint8) for p in planes]


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p"])
def test_colour_bars_are_read_as_the_standard_says(matrix, full, pix_fmt):
    y, cb, cr = textbook_yuv(PICTURE, matrix, full)
    step = 2 if pix_fmt == "yuv420p" else 1
    planes = [y.ravel(), cb[::step, ::step].ravel(), cr[::step, ::step].ravel()]
    frame = av.VideoFrame(PICTURE.shape[1], PICTURE.shape[0], pix_fmt)
    for plane, values in zip(frame.planes, planes, strict=True):
        lines = values.reshape(plane.height, plane.width)
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = lines
        plane.update(padded.tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    rgb = ToRgb()(frame)
    middle = slice(BAR // 2, None, BAR)  # subsampled chroma blurs the edges of the bars
    assert np.abs(rgb[32, middle].astype(int) - BARS).max() <= 2


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("full", [False, True])
def test_colour_bars_are_written_as_the_standard_says(matrix, full):
    frame = FromRgb("yuv444p", ColorInfo(matrix=matrix, is_full_range=full), 64)(PICTURE)
    assert (frame.colorspace, frame.color_range) == (matrix, 2 if full else 1)
    for plane, expected in zip(frame.planes, textbook_yuv(BARS, matrix, full), strict=True):
        line = np.frombuffer(plane, np.uint8)[: plane.width]
        assert np.abs(line[BAR // 2 :: BAR].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("full", [False, True])
def test_tags_survive_a_file(tmp_path, matrix, full):
    path = tmp_path / "bars.mp4"
    color = ColorInfo(primaries=matrix, transfer=matrix, matrix=matrix, is_full_range=full)
    info = VideoInfo(160, 64, Fraction(25), Fraction(1, 12800), 3, color)
    with VideoWriter(path, path, info, OutputOptions(crf=1), None) as video:
        video.write(FrameBatch(np.stack([PICTURE] * 3), np.arange(3) * 512))
    with open_source(path) as back:
        assert back.info.color == color
        rgb = next(iter(back)).rgb
    assert np.abs(rgb[0, 32, BAR // 2 :: BAR].astype(int) - BARS).max() <= 4


def test_an_untagged_source_is_read_and_written_alike():
    untagged = ColorInfo()
    for height in (480, 1080):  # BT.601 below 720 lines, BT.709 from there on
        frame = FromRgb("yuv444p", untagged, height)(PICTURE)
        assert frame.colorspace == 2
        expected = textbook_yuv(BARS, 5 if height < 720 else 1, full=False)
        line = np.frombuffer(frame.planes[0], np.uint8)[BAR // 2 : 160 : BAR]
        assert np.abs(line.astype(int) - expected[0]).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["rgb24", "gbrp", "bgr0", "rgba"])
def test_rgb_is_kept_exactly(pix_fmt):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (32, 48, 3), np.uint8)
    frame = FromRgb(pix_fmt, ColorInfo(), 32)(rgb)
    assert np.array_equal(ToRgb()(frame), rgb)


def test_transparency_is_refused_with_a_hint():
    rgba = np.zeros((32, 32, 4), np.uint8)
    with pytest.raises(UnreadableSourceError, match="transparent") as caught:
        ToRgb()(av.VideoFrame.from_ndarray(rgba, format="rgba"))
    assert caught.value.hint


def test_grey_is_read_as_full_range():
    grey = np.tile(np.arange(256, dtype=np.uint8), (32, 1))
    rgb = ToRgb()(av.VideoFrame.from_ndarray(grey, format="gray"))
    assert np.abs(rgb[0].astype(int) - np.arange(256)[:, None]).max() <= 1


def test_a_matrix_that_cannot_be_converted_is_refused():
    frame = av.VideoFrame(32, 32, "yuv444p")
    frame.colorspace = 8  # YCgCo
    with pytest.raises(UnreadableSourceError, match="matrix 8"):
        ToRgb()(frame)
