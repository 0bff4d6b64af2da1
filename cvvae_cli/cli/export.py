"""`cvvae export` and `cvvae import`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.encode import parse_rate
from cvvae_cli.cli.options import Force, Json
from cvvae_cli.errors import ConfigError


def export(
    source: Annotated[Path, typer.Argument(help="The .cvl file.")],
    output: Annotated[Path, typer.Argument(help="Where to write: .safetensors or .npz.")],
    layout: Annotated[
        str, typer.Option(help="Of .safetensors: cvvae, or musubi for the cache of musubi-tuner.")
    ] = "cvvae",
    dtype: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16; by default that of exact latents, else fp32.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="What the musubi layout names as architecture; the model by default.")
    ] = None,
    scaled: Annotated[
        bool, typer.Option("--scaled", help="Apply the model's shift and scaling factor.")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the latents of a .cvl file as a tensor (channels, time, height, width)."""
    from cvvae_cli.interchange.exports import export_file

    report = export_file(
        source, output, layout=layout, dtype=dtype, architecture=architecture, scaled=scaled, force=force
    )
    if json:
        console.print_json(vars(report))
        return
    shape = " x ".join(map(str, report.latent_shape))
    console.out.print(
        f"{output}: latents {shape} of {report.frames} frames, {report.dtype}, "
        f"{console.bytes_text(report.output_bytes)}",
        markup=False,
        soft_wrap=True,
    )


def import_(
    source: Annotated[Path, typer.Argument(help="A .safetensors or .npz file with one tensor of latents.")],
    output: Annotated[Path, typer.Argument(help="Where to write the .cvl file.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="What made the latents, if the file does not say.")
    ] = None,
    fps: Annotated[str | None, typer.Option(help="Frame rate, if the file has no timestamps.")] = None,
    size: Annotated[str | None, typer.Option(help="Size of the video as WIDTHxHEIGHT.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of the video.")] = None,
    scaled: Annotated[
        bool, typer.Option("--scaled", help="The latents are scaled: undo the model's factor.")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Keep latents from another program in a .cvl file, bit for bit."""
    from cvvae_cli.interchange.imports import import_file

    frame_rate: Fraction | None = None if fps is None else parse_rate(fps)
    count = import_file(
        source,
        output,
        model=model,
        frame_rate=frame_rate,
        size=None if size is None else parse_size(size),
        frames=frames,
        scaled=scaled,
        force=force,
    )
    if json:
        console.print_json({"frames": count, "output_bytes": output.stat().st_size})
        return
    console.out.print(
        f"{output}: {count} frames, {console.bytes_text(output.stat().st_size)}", markup=False, soft_wrap=True
    )


def parse_size(text: str) -> tuple[int, int]:
    """Width and height. Raises ConfigError for what is none.

    >>> parse_size("848x480")
    (848, 480)
    """
    width, times, height = text.partition("x")
    if not (times and width.isdigit() and height.isdigit()):
        raise ConfigError(f"{text!r} is not a size", hint="for example 848x480")
    return int(width), int(height)
