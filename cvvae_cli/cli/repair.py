"""`cvvae repair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Force, Json
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.output import replace_on_success, require_writable


def repair(
    source: Annotated[
        Path, typer.Argument(help="A .cvl file that was cut, or the .part file of a killed encode.")
    ],
    output: Annotated[Path, typer.Argument(help="Where to write the whole chunks of it as a sound file.")],
    force: Force = False,
    json: Json = False,
) -> None:
    """Save what a cut .cvl file still holds: its whole chunks, with a new index and footer."""
    require_writable(output, (source,), force=force)
    with (
        open_cvl(source, allow_partial=True) as cvl,
        replace_on_success(output, force=force) as part,
        part.path.open("wb") as file,
        CvlWriter(file, cvl.header) as saved,
    ):
        saved.copy(cvl)
    values = {
        "was_cut": cvl.is_cut,
        "frames": saved.num_frames,
        "output_bytes": saved.bytes_written,
        "lost_bytes": max(0, cvl.size_bytes - saved.bytes_written),
    }
    if json:
        console.print_json(values)
        return
    state = "was cut" if cvl.is_cut else "was whole"
    console.out.print(
        f"{source} {state}; {output} holds {saved.num_frames} frames", markup=False, soft_wrap=True
    )
