"""`cvvae decode`."""

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
from cvvae_cli.output import require_writable


def decode(
    source: Annotated[Path, typer.Argument(help="The .cvl file.")],
    output: Annotated[
        Path, typer.Argument(help="Where to write the video: .mp4, .mkv, .mov, .webm, or .png for one frame.")
    ],
    codec: Annotated[
        str | None, typer.Option(help="Codec of the output; H.264 by default, ffv1 is lossless RGB.")
    ] = None,
    crf: Annotated[
        int | None, typer.Option(min=0, max=63, help="Quality of the output codec; lower is better.")
    ] = None,
    pix_fmt: Annotated[
        str | None, typer.Option("--pix-fmt", help="Pixel format of the output, such as yuv420p10le.")
    ] = None,
    start_frame: Annotated[
        int | None, typer.Option(min=0, help="First frame to decode; the first is 0.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="How many frames to decode.")] = None,
    start: Annotated[str | None, typer.Option(help="Where to start, as seconds or [hh:]mm:ss.")] = None,
    duration: Annotated[
        str | None, typer.Option(help="How much to decode, as seconds or [hh:]mm:ss.")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Decode what a file that was cut still holds.")
    ] = False,
    no_audio: NoAudio = False,
    no_subtitles: NoSubtitles = False,
    no_attachments: NoAttachments = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tile: Tile = None,
    max_memory: MaxMemory = None,
    compile_: Compile = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Turn a .cvl file back into a video."""
    require_writable(output, (source,), force=force)
    if start is not None and start_frame is not None:
        raise ConfigError("--start and --start-frame say the same thing", hint="pass one of them")
    times = [None if text is None else parse_time(text) for text in (start, duration)]
    from cvvae_cli.codec import decode_file  # torch loads here
    from cvvae_cli.options import DecodeOptions, as_json
    from cvvae_cli.video.writer import OutputOptions

    options = DecodeOptions(
        audio=not no_audio,
        subtitles=not no_subtitles,
        attachments=not no_attachments,
        start_frame=start_frame or 0,
        frames=frames,
        start_seconds=times[0],
        duration_seconds=times[1],
        allow_partial=allow_partial,
        device=device,
        dtype=dtype,
        tile_pixels=tile,
        max_memory_bytes=None if max_memory is None else console.parse_bytes(max_memory),
        is_compiled=compile_,
        output=OutputOptions(codec, crf, pix_fmt),
        force=force,
    )
    with console.progress("decode") as on_progress:
        report = decode_file(source, output, options, on_progress=on_progress)
    if json:
        console.print_json(as_json(report))
        return
    rows = {
        "frames": f"{report.frames} of {report.width}x{report.height}",
        "file": console.bytes_text(report.output_bytes),
        "time": f"{report.seconds:.1f} s, {report.decode_fps:.1f} frames per second",
        "peak memory": console.bytes_text(report.peak_memory_bytes),
        "device": f"{report.device}, {report.dtype}",
    }
    console.print_table(str(output), rows)


def parse_time(text: str) -> Fraction:
    """Seconds, or [hh:]mm:ss. Raises ConfigError for what is neither.

    >>> parse_time("1:02.5")
    Fraction(125, 2)
    """
    try:
        parts = [Fraction(part) for part in text.split(":")]
    except (ValueError, ZeroDivisionError):
        parts = []
    if not 1 <= len(parts) <= 3 or any(part < 0 for part in parts):
        raise ConfigError(f"{text!r} is not a time", hint="for example 12.5 or 1:02:03")
    seconds = Fraction(0)
    for part in parts:
        seconds = seconds * 60 + part
    return seconds
