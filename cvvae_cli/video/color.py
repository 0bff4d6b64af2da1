"""Pixels to RGB and back, with matrix and range always named: swscale's silent default is BT.601.

Code points are CICP (ITU-T H.273), as FFmpeg's AVCOL_* enumerations and the .cvl header have them.
"""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from cvvae_cli.errors import UnreadableSourceError
from cvvae_cli.types import UNSPECIFIED, ColorInfo

RGB, BT709, BT601 = 0, 1, 5
SWSCALE_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # CICP → SWS_CS_*
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
HD_HEIGHT = 720  # untagged video of this height or more is BT.709, as players assume


def color_of(frame: av.VideoFrame) -> ColorInfo:
    """The tags of a decoded frame; RGB and the old full-range formats say by their format."""
    matrix = RGB if frame.format.is_rgb else int(frame.colorspace)
    full: bool | None = {1: False, 2: True}.get(int(frame.color_range))
    if frame.format.is_rgb or frame.format.name.startswith("yuvj"):
        full = True
    return ColorInfo(int(frame.color_primaries), int(frame.color_trc), matrix, full)


def effective_matrix(color: ColorInfo, height: int) -> int:
    """The YCbCr matrix to convert with. Raises UnreadableSourceError for one that swscale lacks."""
    if color.matrix in (RGB, UNSPECIFIED):
        return BT709 if height >= HD_HEIGHT or color.matrix == RGB else BT601
    if color.matrix not in SWSCALE_MATRIX:
        raise UnreadableSourceError(
            f"the source has colour matrix {color.matrix} (CICP), which cannot be converted to RGB",
            hint="convert it to BT.709 first",
        )
    return color.matrix


def is_full_range(frame: av.VideoFrame, color: ColorInfo) -> bool:
    if color.is_full_range is not None:
        return color.is_full_range
    return frame.format.is_rgb or frame.format.name.startswith(("gray", "pal", "mono"))


def depth_of(frame: av.VideoFrame) -> int:
    """Bits of a sample."""
    return max(component.bits for component in frame.format.components)


def in_eight_bits(rgb: np.ndarray) -> np.ndarray:
    """uint8 as it is, uint16 at full scale by its upper byte."""
    return rgb if rgb.dtype == np.uint8 else (rgb >> 8).astype(np.uint8)


class ToRgb:
    """Converts frames of one stream to RGB (H, W, 3), full range: uint8, or uint16 above 8 bits."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        color = color_of(frame)
        has_alpha = any(c.is_alpha for c in frame.format.components)
        is_indexed = frame.format.name == "pal8"
        formats = ("rgb24", "rgba") if is_indexed or depth_of(frame) <= 8 else ("rgb48le", "rgba64le")
        rgb: np.ndarray = self._reformatter.reformat(
            frame,
            format=formats[has_alpha or is_indexed],
            src_colorspace=SWSCALE_MATRIX[effective_matrix(color, frame.height)],
            src_color_range=ColorRange.JPEG if is_full_range(frame, color) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=EXACT,
        ).to_ndarray()
        if rgb.shape[2] == 4:
            if rgb[..., 3].min() < np.iinfo(rgb.dtype).max:
                raise UnreadableSourceError(
                    "the source has transparent pixels, which a .cvl file cannot keep",
                    hint="put it over a background first",
                )
            rgb = np.ascontiguousarray(rgb[..., :3])
        return rgb


class FromRgb:
    """Converts RGB pictures to frames of a pixel format, tagged with their colour."""

    def __init__(self, pix_fmt: str, color: ColorInfo, height: int) -> None:
        self.pix_fmt = pix_fmt
        self.matrix = effective_matrix(color, height)
        self.tags = output_tags(color, pix_fmt)
        self.full = bool(self.tags.is_full_range)
        self._reformatter = VideoReformatter()

    def __call__(self, rgb: np.ndarray) -> av.VideoFrame:
        """uint8 or uint16 (H, W, 3) → a frame."""
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(rgb, format="rgb24" if rgb.dtype == np.uint8 else "rgb48le"),
            format=self.pix_fmt,
            dst_colorspace=SWSCALE_MATRIX[self.matrix],
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if self.full else ColorRange.MPEG,
            interpolation=EXACT,
        )
        frame.colorspace = self.tags.matrix
        frame.color_range = range_tag(self.tags)
        return frame


def output_tags(color: ColorInfo, pix_fmt: str) -> ColorInfo:
    """The source's own tags, untagged staying untagged, unless the output is of another kind."""
    if av.VideoFormat(pix_fmt).is_rgb:
        return ColorInfo(color.primaries, color.transfer, RGB, True)
    if pix_fmt.startswith("gray"):
        return ColorInfo(
            color.primaries, color.transfer, UNSPECIFIED, True
        )  # swscale's grey has no other range
    if color.matrix == RGB:
        return ColorInfo(color.primaries, color.transfer, BT709, False)
    return color


def range_tag(color: ColorInfo) -> int:
    """FFmpeg's number of a range: 0 not tagged, 1 limited, 2 full."""
    return {None: 0, False: 1, True: 2}[color.is_full_range]
