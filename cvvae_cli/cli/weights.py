"""`cvvae weights`: list, pull, import, verify, path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Json

app = typer.Typer(help="Weights that ship, and those of the paper's networks.", no_args_is_help=True)
KeptAs = Annotated[str, typer.Option(help="Numbers to keep: fp16, bf16 or fp32.")]
Name = Annotated[str, typer.Argument(help="Name of the model.")]
Replace = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there under the name.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """What is here, and what can be pulled."""
    from cvvae_cli.models.imported import RELEASES, read_manifest
    from cvvae_cli.models.registry import ALIASES, MODELS

    aliases = {name: alias for alias, name in ALIASES.items()}
    rows: list[dict[str, object]] = []
    for spec in MODELS.values():
        kind = f"ships, alias {aliases[spec.name]}" if spec.name in aliases else "ships"
        rows.append({"name": spec.name, "state": kind, "sha256": spec.weights_sha256})
    manifest = read_manifest()
    for entry in manifest.values():
        rows.append(
            {
                "name": entry.name,
                "state": f"imported, {entry.architecture}, {entry.dtype}",
                "sha256": entry.source_sha256,
            }
        )
    rows += [
        {"name": name, "state": f"to pull: {'/'.join(place)}", "sha256": None}
        for name, place in RELEASES.items()
        if name not in manifest
    ]
    if json:
        console.print_json(rows)
        return
    console.print_grid(
        "weights",
        ["name", "state", "SHA-256 of the source"],
        [[str(row["name"]), str(row["state"]), str(row["sha256"] or "")[:16]] for row in rows],
    )


@app.command()
def pull(name: Name, dtype: KeptAs = "fp16", force: Replace = False) -> None:
    """Fetch a released checkpoint of the paper's authors, check and convert it."""
    from cvvae_cli.models.pull import pull_weights

    with console.transfer(name) as on_bytes:
        entry = pull_weights(name, dtype=dtype, force=force, on_bytes=on_bytes)
    console.out.print(str(entry.path), markup=False, soft_wrap=True)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Checkpoint: .safetensors, .bin, .pth or .ckpt.")],
    name: Annotated[str, typer.Option("--as", help="Name to keep it under, such as cvvae-sd21.")],
    dtype: KeptAs = "fp16",
    force: Replace = False,
) -> None:
    """Convert a checkpoint of one of the paper's networks; nothing in it is executed."""
    from cvvae_cli.models.imported import import_weights

    entry = import_weights(source, name, dtype=dtype, force=force)
    console.out.print(str(entry.path), markup=False, soft_wrap=True)


@app.command()
def verify() -> None:
    """Check every weights file that is here against its hash."""
    from cvvae_cli.models.imported import read_manifest
    from cvvae_cli.models.registry import MODELS, find_model, read_weights

    for name in (*MODELS, *read_manifest()):
        read_weights(find_model(name))
        console.out.print(f"{name}: sound", markup=False)


@app.command()
def path(name: Name) -> None:
    """Print where the file of a model lies."""
    from cvvae_cli import store
    from cvvae_cli.models.registry import find_model

    spec = find_model(name)
    where = spec.imported.path if spec.imported else store.shipped(spec.weights_file)
    console.out.print(str(where), markup=False, soft_wrap=True)
