"""What a job is asked for, and what it reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fractions import Fraction

from cvvae_cli.video.writer import OutputOptions


@dataclass(frozen=True)
class EncodeOptions:
    """Choices of an encode; the first two change the file, the others where and how it is computed."""

    model: str = "compact"
    audio: bool = True
    frame_rate: Fraction | None = None  # of a frame folder
    device: str = "auto"
    dtype: str = "auto"
    tile_pixels: int | None = None
    force: bool = False


@dataclass(frozen=True)
class DecodeOptions:
    """Choices of a decode. A part is named by frames, or by seconds from the first frame."""

    audio: bool = True
    start_frame: int = 0
    frames: int | None = None
    start_seconds: Fraction | None = None
    duration_seconds: Fraction | None = None
    allow_partial: bool = False  # decode what a cut file still holds
    device: str = "auto"
    dtype: str = "auto"
    tile_pixels: int | None = None
    output: OutputOptions = field(default_factory=OutputOptions)
    force: bool = False


@dataclass(frozen=True)
class EncodeReport:
    """What an encode did; the fields are the keys of `--json`."""

    frames: int
    width: int
    height: int
    input_bytes: int | None
    output_bytes: int
    video_bytes: int
    side_bytes: int
    bits_per_pixel: float
    seconds: float
    encode_fps: float
    peak_memory_bytes: int
    model: str
    weights_sha256: str
    quality: int | None
    device: str
    dtype: str


@dataclass(frozen=True)
class DecodeReport:
    """What a decode did; the fields are the keys of `--json`."""

    frames: int
    width: int
    height: int
    output_bytes: int
    seconds: float
    decode_fps: float
    peak_memory_bytes: int
    device: str
    dtype: str


def as_json(report: EncodeReport | DecodeReport) -> dict[str, object]:
    """The report with figures rounded to what they are good for."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in asdict(report).items()}
