"""`cvvae decode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Device, Dtype, Force, Json, NoAudio, Tile
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
    pix_fmt: Annotated[str | None, typer.Option("--pix-fmt", help="Pixel format of the output.")] = None,
    no_audio: NoAudio = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tile: Tile = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Turn a .cvl file back into a video."""
    require_writable(output, (source,), force=force)
    from cvvae_cli.codec import DecodeOptions, as_json, decode_file  # torch loads here
    from cvvae_cli.video.writer import OutputOptions

    options = DecodeOptions(not no_audio, device, dtype, tile, OutputOptions(codec, crf, pix_fmt), force)
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
