"""`cvvae verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Json
from cvvae_cli.container.reader import open_cvl


def verify(
    source: Annotated[Path, typer.Argument(help="The .cvl file.")],
    json: Json = False,
) -> None:
    """Check every byte of a .cvl file against its checksums and structure."""
    with open_cvl(source) as cvl:
        cvl.verify()
        values = {
            "ok": True,
            "frames": cvl.num_frames,
            "chunks": len(cvl.index),
            "file_bytes": cvl.size_bytes,
        }
    if json:
        console.print_json(values)
    else:
        console.out.print(
            f"{source}: sound, {values['frames']} frames in {values['chunks']} chunks", markup=False
        )
