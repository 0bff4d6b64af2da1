"""`cvvae preview`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Device, Force
from cvvae_cli.output import require_writable


def preview(
    source: Annotated[Path, typer.Argument(help="The .cvl file.")],
    output: Annotated[Path, typer.Argument(help="Where to write the video.")],
    decoder: Annotated[
        Path | None,
        typer.Option(help="Decoder of the TAESD family (.pth or .safetensors) with the same latents."),
    ] = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Look at latents quickly: one small picture for every latent frame, without decoding."""
    require_writable(output, (source,), force=force)
    from cvvae_cli.preview import preview_file

    with console.progress("preview") as on_progress:
        count = preview_file(
            source, output, decoder=decoder, device=device, force=force, on_progress=on_progress
        )
    console.print_table(str(output), {"pictures": str(count)})
