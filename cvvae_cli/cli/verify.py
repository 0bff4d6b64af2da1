"""`cvvae verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Device, Dtype, Json
from cvvae_cli.container.reader import open_cvl


def verify(
    source: Annotated[Path, typer.Argument(help="The .cvl file.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode everything too: all frames and all side streams.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Check every byte of a .cvl file against its checksums and structure."""
    with open_cvl(source) as cvl:
        cvl.verify()
        if deep:
            from cvvae_cli.codec import decode_all  # torch loads here

            with console.progress("verify") as on_progress:
                decode_all(cvl, source, device, dtype, on_progress=on_progress)
        values = {
            "ok": True,
            "deep": deep,
            "frames": cvl.num_frames,
            "chunks": len(cvl.index),
            "file_bytes": cvl.size_bytes,
        }
    if json:
        console.print_json(values)
    else:
        how = "sound, all of it decodes" if deep else "sound"
        console.out.print(
            f"{source}: {how}, {values['frames']} frames in {values['chunks']} chunks",
            markup=False,
            soft_wrap=True,
        )
