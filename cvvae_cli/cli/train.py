"""`cvvae train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Device
from cvvae_cli.errors import ConfigError
from cvvae_cli.output import require_writable

RECIPES = Path(__file__).parent.parent / "train" / "recipes"


def train(
    recipe: Annotated[
        str, typer.Option(help="A recipe that ships, such as compact-3, or a TOML file.")
    ] = "compact-3",
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of videos, frame folders and photos; may be repeated.")
    ] = None,
    holdout: Annotated[
        Path | None, typer.Option(help="Folder of clips to evaluate on, never trained on.")
    ] = None,
    run: Annotated[
        Path, typer.Option(help="Folder of checkpoint and log; an interrupted run continues.")
    ] = Path("runs/compact"),
    export: Annotated[
        Path | None, typer.Option(help="Write the finished weights here, as safetensors.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all, instead of the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads to compute with.")] = None,
    device: Device = "auto",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the exported file if it exists.")
    ] = False,
) -> None:
    """Train a model: resumable, with a log of loss, PSNR and rate as JSON lines in RUN/log.jsonl."""
    if export is not None:
        require_writable(export, force=force)
    config = find_recipe(recipe)
    folders = tuple(str(folder) for folder in data) if data else config.data.folders
    held_out = str(holdout) if holdout else config.data.holdout
    config = replace(config, data=replace(config.data, folders=folders, holdout=held_out))
    if steps is not None:
        config = replace(config, schedule=replace(config.schedule, steps=steps))

    import torch

    from cvvae_cli.engine.device import choose_device, keep_freed_memory
    from cvvae_cli.train.export import export as write_weights
    from cvvae_cli.train.loop import train as run_training

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        finished = run_training(config, run, choose_device(device), on_log=show)
    except KeyboardInterrupt:
        console.err.print(f"interrupted; the same command continues from the last checkpoint in {run}")
        raise
    if export is not None:
        write_weights(finished.average, config, export)
        console.err.print(f"weights: {export}", markup=False)


def find_recipe(name: str) -> Any:
    """The configuration of a recipe that ships, or of a file."""
    from cvvae_cli.train.config import load_config

    shipped = RECIPES / f"{name}.toml"
    path = shipped if shipped.exists() else Path(name)
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ConfigError(f"no recipe is called {name}", hint=f"pass a TOML file, or one of: {known}")
    return load_config(path)


def show(line: dict[str, Any]) -> None:
    """One log line for people, on stderr."""
    if "holdout" in line:
        for clip, levels in line["holdout"].items():
            figures = [f"{r['psnr_db']:.2f} dB at {r['bits_per_pixel']:.4f}" for r in levels.values()]
            console.err.print(f"  held out: {', '.join(figures)}  {clip}", markup=False)
        return
    console.err.print(
        f"step {line['step']}: loss {line['loss']:.4f}  {line['psnr_db']:.2f} dB  "
        f"{line['bits_per_pixel']:.4f} bits per pixel  {line['seconds']:.0f} s"
    )
