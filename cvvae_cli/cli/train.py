"""`cvvae train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Device
from cvvae_cli.errors import ConfigError
from cvvae_cli.output import require_writable

SHOWN = ("loss", "psnr_db", "gain_db", "bits_per_pixel", "decoder_side", "encoder_side", "moments", "critic")
if TYPE_CHECKING:
    from cvvae_cli.train.config import TrainConfig

RECIPES = Path(__file__).parent.parent / "train" / "recipes"


def train(
    recipe: Annotated[
        str, typer.Option(help="A recipe that ships, such as compact-8, or a TOML file.")
    ] = "compact-8",
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
    image_vae: Annotated[
        Path | None,
        typer.Option(help="Image VAE whose latent space is the goal: a folder or file, never a pickle."),
    ] = None,
    regularize: Annotated[
        str | None, typer.Option(help="Side that the image VAE trains: decoder, encoder, both or none.")
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(help="Frame that a latent frame stands for: random, average, slice or first."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all, instead of the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=4096, help="CPU threads to compute with.")] = None,
    device: Device = "auto",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the exported file if it exists.")
    ] = False,
) -> None:
    """Train a model: resumable, with a log of loss, PSNR and rate as JSON lines in RUN/log.jsonl.

    Started with torchrun, several processes share every step.
    """
    if export is not None:
        require_writable(export, force=force)
    config = find_recipe(recipe)
    folders = tuple(str(folder) for folder in data) if data else config.data.folders
    held_out = str(holdout) if holdout else config.data.holdout
    config = replace(config, data=replace(config.data, folders=folders, holdout=held_out))
    latents = {"regularize": regularize, "mapping": mapping}
    latents["image_vae"] = None if image_vae is None else str(image_vae)
    config = with_changes(config, latents, steps=steps, seed=seed)

    import torch

    from cvvae_cli.engine.device import choose_device, keep_freed_memory
    from cvvae_cli.train.export import export as write_weights
    from cvvae_cli.train.loop import train as run_training
    from cvvae_cli.train.parallel import process_number

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        finished = run_training(config, run, choose_device(device), on_log=show)
    except KeyboardInterrupt:
        console.err.print(f"interrupted; the same command continues from the last checkpoint in {run}")
        raise
    if export is not None and process_number() == 0:
        write_weights(finished.average, config, export)
        console.err.print(f"weights: {export}", markup=False)


def with_changes(
    config: TrainConfig, latents: dict[str, str | None], *, steps: int | None, seed: int | None
) -> TrainConfig:
    """The recipe with what the command line changes. Raises ConfigError for a value that is none."""
    from cvvae_cli.train.config import config_from_dict

    given = {key: value for key, value in latents.items() if value is not None}
    if given and config.task != "latents":
        raise ConfigError(
            f"the recipe {config.name} trains a codec, which no image VAE takes part in",
            hint='pass --recipe compact-flux2-3, or one with task = "latents"',
        )
    values = config.to_dict()
    values["latents"] |= given
    values["schedule"] |= {} if steps is None else {"steps": steps}
    return config_from_dict(values | ({} if seed is None else {"seed": seed}))


def find_recipe(name: str) -> TrainConfig:
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
        for clip, settings in line["holdout"].items():
            figures = [
                ", ".join(written(name, value) for name, value in f.items()) for f in settings.values()
            ]
            console.err.print(f"  held out: {'; '.join(figures)}  {clip}", markup=False)
        return
    shown = [written(name, value) for name, value in line.items() if name in SHOWN]
    console.err.print(f"step {line['step']}: {'  '.join(shown)}  {line['seconds']:.0f} s", markup=False)


def written(name: str, value: float) -> str:
    """A figure with its name, as people read it."""
    if name.endswith("psnr_db"):
        return f"{value:.2f} dB{' aligned' if name.startswith('aligned') else ''}"
    return f"{name.replace('_', ' ')} {value:.4f}"
