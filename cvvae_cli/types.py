"""What flows between the rooms: plain values. Ranges are half-open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the container room names these types too, and needs no numpy
    import numpy as np

LEVELS = 127.5  # of 255, in a unit of pictures in [-1, 1]
DETAIL_BITS = 4  # after the point of what is added to decoded pictures, in levels of 255
UNSPECIFIED = 2  # CICP (ITU-T H.273): the source does not say


@dataclass(frozen=True)
class ColorInfo:
    """CICP code points of a source, as tagged, and what was assumed where it does not say."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED  # 0 RGB, 1 BT.709, 5 and 6 BT.601, 9 BT.2020
    is_full_range: bool | None = None  # None: not tagged


@dataclass(frozen=True)
class LatentGeometry:
    """How latents lie over pixels.

    Latent frame 0 is frame 0; k > 0 is the group of frames that ends with frames * k.
    """

    channels: int
    frames: int  # of a latent frame
    pixels: int  # of a latent position, each way

    def num_latents(self, num_frames: int) -> int:
        """Latent frames of a video.

        >>> [LatentGeometry(32, 4, 8).num_latents(n) for n in (1, 2, 5, 6)]
        [1, 2, 2, 3]
        """
        return 1 + -(-(num_frames - 1) // self.frames)

    def frames_of(self, latents: range) -> range:
        """Frames of latent frames, were every group full.

        >>> LatentGeometry(32, 4, 8).frames_of(range(4, 8))
        range(13, 29)
        """
        start = 0 if latents.start == 0 else (latents.start - 1) * self.frames + 1
        return range(start, (latents.stop - 1) * self.frames + 1)

    def latent_of(self, frame: int) -> int:
        """The latent frame that holds a frame."""
        return -(-frame // self.frames)

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of a latent frame."""
        return -(-height // self.pixels), -(-width // self.pixels)


@dataclass(frozen=True)
class WindowGeometry:
    """How a model whose result depends on its window cuts a video, in latent frames and positions.

    Windows share their first latent frame with the one before, which keeps it; tiles blend linearly.
    """

    frames: int = 4  # of a window, beside its first
    overlap: int = 0  # of those, shared with the window before and blended too
    tile: int = 72
    stride: int = 56  # from tile to tile; they overlap by the rest

    @property
    def step(self) -> int:
        """Latent frames from window to window."""
        return self.frames - self.overlap


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before its frames are read."""

    width: int  # after rotation
    height: int
    frame_rate: Fraction  # average, or nominal
    time_base: Fraction  # seconds of one tick of pts
    num_frames: int | None  # or about; None where nothing tells; a hint, never a promise
    color: ColorInfo = ColorInfo()
    rotation: int = 0  # degrees clockwise that were applied to the stored picture: 0, 90, 180, 270
    pixel_aspect: Fraction = Fraction(1)  # width of a pixel over its height, after rotation
    depth: int = 8  # bits of a sample of the source


@dataclass(frozen=True)
class SideStream:
    """What travels beside the video."""

    kind: str  # audio, subtitle or attachment
    codec: str  # FFmpeg's name; of an attachment its media type
    language: str | None = None
    title: str | None = None  # of an attachment its file name


@dataclass(frozen=True)
class FrameBatch:
    """Consecutive frames."""

    rgb: np.ndarray  # (T, H, W, 3), full range: uint8, or uint16 of sources with more than 8 bits
    pts: np.ndarray  # int64 (T,), ticks of the time base, strictly increasing

    def __len__(self) -> int:
        return len(self.rgb)


Borrowed = dict[tuple[int, int], "np.ndarray"]
"""What latent frames take from those beside them (flow/borrow.py): vectors int16 (2, rows, columns), by the
latent frame's number in its chunk and the part of its fields."""


@dataclass(frozen=True)
class LatentChunk:
    """Consecutive latent frames and the video frames they stand for."""

    latents: np.ndarray  # float32 (C, t, h, w)
    frames: range  # of the video
    pts: np.ndarray  # int64, one of each frame
    fields: np.ndarray | None = None  # int16 (t, 3, 2, rows, columns), if frames may be aligned: flow/
    borrowed: Borrowed = field(default_factory=dict)  # its own fields are zero
    light: np.ndarray | None = None  # int16 (T, 2) of the frames, if it changes: flow/light.py
    means: np.ndarray | None = None  # float32 (t, 3, H, W) in [-1, 1]: of the frames of each, as encoded
    spreads: np.ndarray | None = None  # float32 (t, rows, columns): of those from it, squared, by blocks
    detail: Detail | None = None  # what pictures are given beside what is decoded
    level: int | None = None  # of quality, in tenths; None: latents that are not rounded
    rgb: np.ndarray | None = None  # (T, H, W, 3) as in a FrameBatch: the frames as they were
    corrections: dict[int, Correction] | None = None  # of frames by their numbers, when all else is done


@dataclass(frozen=True)
class Detail:
    """What the decoded pictures of latent frames are given."""

    colours: np.ndarray  # int16 (t, 3, H, W) in 2^-4 levels, added to what is decoded
    opaque: np.ndarray  # bool (t, H, W): where they stand in its place, counted from mid-grey
    vectors: np.ndarray  # int32 (t, 2, rows, columns): by what blocks moved from the latent frame before


@dataclass(frozen=True)
class Correction:
    """What is added to a single frame."""

    changed: np.ndarray  # bool (rows, columns): in which blocks of 8x8 pixels
    colours: np.ndarray  # int16 (n, 3, 8, 8) in 2^-4 levels: what, in each of them


@dataclass(frozen=True)
class Wanted:
    """What the pictures of the latent frames of a chunk should be, in [-1, 1]."""

    now: np.ndarray  # float32 (t, 3, H, W)
    before: np.ndarray | None  # (3, H, W): that of the latent frame before, if there is one
    fields: np.ndarray | None  # int16 (t, 3, 2, rows, columns), if frames may be aligned: flow/
    shown: np.ndarray | None = None  # float32 (t,): of errors in each, squared, how much shows; None: all


@dataclass(frozen=True)
class Lacking:
    """What the decoded pictures of latent frames lack, as the mean over the frames that each stands for."""

    pictures: np.ndarray  # float32 (t, 3, H, W) in levels of 255
    wanted: np.ndarray  # float32 (t, 3, H, W) in [-1, 1]: what they should be
    counts: np.ndarray  # (t,) frames, those that are dimmed after as far as their errors show
    following: int  # latent frames after these before all is forgotten, or the video is expected to end
    spreads: np.ndarray  # float32 (t, rows, columns): of each of the frames from their mean, squared levels


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    frames: int
    total_frames: int | None  # as it was announced, which may be wrong
    bits_per_pixel: float | None = None  # so far

    @property
    def believed_total(self) -> int | None:
        """The frames there will be, unless there have been more already."""
        return self.total_frames if self.total_frames and self.total_frames >= self.frames else None


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The listener of callers that do not want to know."""
