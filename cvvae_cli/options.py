"""What a job is asked for, and what it reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fractions import Fraction

from cvvae_cli.video.writer import OutputOptions


@dataclass(frozen=True)
class Target:
    """What a quality is chosen for: one of the three."""

    bits_per_pixel: float | None = None
    psnr_db: float | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class EncodeOptions:
    """Choices of an encode; the first part changes the file, the rest where and how it is computed."""

    model: str = "compact"
    quality: float | None = None  # 1 to 10; None: the model's own
    target: Target | None = None  # choose the quality that reaches it
    align: bool = True  # frames of a group onto one where that saves bits, if the model's coder can
    detail: bool = True  # code what pictures lack, where it stays, and single frames, if the coder can
    exact: str | None = None  # fp32, bf16 or fp16: keep the latents bit for bit
    audio: bool = True
    subtitles: bool = True
    attachments: bool = True
    deinterlace: bool = False
    frame_rate: Fraction | None = None  # of a frame folder
    device: str = "auto"
    dtype: str = "auto"
    tile_pixels: int | None = None
    temporal_overlap: int = 0  # frames that windows share beyond one; of windowed models
    max_memory_bytes: int | None = None
    is_compiled: bool = False
    force: bool = False
    resume: bool = False  # go on where an interrupted encode stopped


@dataclass(frozen=True)
class DecodeOptions:
    """Choices of a decode. A part is named by frames, or by seconds from the first frame."""

    audio: bool = True
    subtitles: bool = True
    attachments: bool = True
    start_frame: int = 0
    frames: int | None = None
    start_seconds: Fraction | None = None
    duration_seconds: Fraction | None = None
    allow_partial: bool = False  # decode what a cut file still holds
    device: str = "auto"
    dtype: str = "auto"
    tile_pixels: int | None = None
    max_memory_bytes: int | None = None
    is_compiled: bool = False
    output: OutputOptions = field(default_factory=OutputOptions)
    force: bool = False


def side_kinds(options: EncodeOptions | DecodeOptions) -> frozenset[str]:
    """The kinds of side streams that are wanted."""
    wanted = {"audio": options.audio, "subtitle": options.subtitles, "attachment": options.attachments}
    return frozenset(kind for kind, is_wanted in wanted.items() if is_wanted)


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
    quality: float | None
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
