"""`cvvae encode`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import (
    Compile,
    Device,
    Dtype,
    Force,
    Json,
    MaxMemory,
    NoAttachments,
    NoAudio,
    NoSubtitles,
    Tile,
)
from cvvae_cli.errors import ConfigError
from cvvae_cli.models.names import DEFAULT_MODEL
from cvvae_cli.output import require_writable


def encode(
    source: Annotated[
        Path, typer.Argument(help="Video, picture, or folder of frames; - for standard input.")
    ],
    output: Annotated[Path, typer.Argument(help="Where to write the .cvl file.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model to encode with.")] = DEFAULT_MODEL,
    fps: Annotated[
        str | None, typer.Option(help="Frame rate of a frame folder, such as 24 or 30000/1001.")
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option("--quality", "-q", help="From 1 (small) to 10 (good), in tenths; 4 by default."),
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option(min=0, help="Choose the best quality within these bits per pixel.")
    ] = None,
    target_psnr: Annotated[
        float | None, typer.Option(min=0, help="Choose the least quality with this PSNR in dB.")
    ] = None,
    target_size: Annotated[
        str | None, typer.Option(help="Choose the best quality within this size, such as 500kB or 20MB.")
    ] = None,
    exact: Annotated[
        str | None,
        typer.Option(
            help="Keep the latents bit for bit as fp32, bf16 or fp16, for training; the file is large. "
            "Exact are the latents, not the pixels that they decode to."
        ),
    ] = None,
    no_align: Annotated[
        bool,
        typer.Option(
            "--no-align",
            help="Leave frames where they are, and as bright, before they are encoded: larger files where "
            "the camera moves, whose latents mean something by themselves (cvvae export).",
        ),
    ] = False,
    no_detail: Annotated[
        bool,
        typer.Option(
            "--no-detail",
            help="Code nothing beside the latents: faster; text is less sharp, no frame is corrected.",
        ),
    ] = False,
    deinterlace: Annotated[
        bool, typer.Option("--deinterlace", help="Join the half pictures of an interlaced source.")
    ] = False,
    no_audio: NoAudio = False,
    no_subtitles: NoSubtitles = False,
    no_attachments: NoAttachments = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tile: Tile = None,
    no_tiles: Annotated[
        bool,
        typer.Option(
            "--no-tiles", help="Normalise and attend over the whole picture: no seams in space, more memory."
        ),
    ] = False,
    temporal_overlap: Annotated[
        int,
        typer.Option(help="Frames that windows of the paper's networks share and blend: 0, 4, 8 or 12."),
    ] = 0,
    max_memory: MaxMemory = None,
    compile_: Compile = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted encode of the same source stopped.")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Compress a video into a .cvl file."""
    require_writable(output, (source,), force=force)
    frame_rate = parse_rate(fps) if fps is not None else None
    size = None if target_size is None else console.parse_bytes(target_size)
    if sum(value is not None for value in (target_bpp, target_psnr, size)) > 1:
        raise ConfigError("there is more than one target", hint="pass one of them")
    has_target = target_bpp is not None or target_psnr is not None or size is not None
    from cvvae_cli.codec import encode_file  # torch loads here
    from cvvae_cli.options import EncodeOptions, Target, as_json

    options = EncodeOptions(
        model=model,
        quality=quality,
        target=Target(target_bpp, target_psnr, size) if has_target else None,
        exact=exact,
        align=not no_align,
        detail=not no_detail,
        audio=not no_audio,
        subtitles=not no_subtitles,
        attachments=not no_attachments,
        deinterlace=deinterlace,
        frame_rate=frame_rate,
        device=device,
        dtype=dtype,
        tile_pixels=0 if no_tiles else tile,
        temporal_overlap=temporal_overlap,
        max_memory_bytes=None if max_memory is None else console.parse_bytes(max_memory),
        is_compiled=compile_,
        force=force,
        resume=resume,
    )
    with console.progress("encode") as on_progress:
        report = encode_file(source, output, options, on_progress=on_progress)
    if json:
        console.print_json(as_json(report))
        return
    ratio = f" ({report.input_bytes / report.output_bytes:.1f} times smaller)" if report.input_bytes else ""
    rows = {
        "frames": f"{report.frames} of {report.width}x{report.height}",
        "source": console.bytes_text(report.input_bytes),
        "file": console.bytes_text(report.output_bytes) + ratio,
        "beside the video": console.bytes_text(report.side_bytes),
        "bits per pixel": f"{report.bits_per_pixel:.4f}",
        "time": f"{report.seconds:.1f} s, {report.encode_fps:.1f} frames per second",
        "peak memory": console.bytes_text(report.peak_memory_bytes),
        "model": f"{report.model}{quality_text(report.quality)} on {report.device}, {report.dtype}",
    }
    console.print_table(str(output), rows)


def quality_text(quality: float | None) -> str:
    return "" if quality is None else f", quality {quality:g}"


def parse_rate(text: str) -> Fraction:
    """A frame rate. Raises ConfigError for what is none."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise ConfigError(f"{text!r} is not a frame rate", hint="for example 24, 29.97 or 30000/1001")
    return rate.limit_denominator(100_000)
