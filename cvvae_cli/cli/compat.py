"""`cvvae compat`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Device, Dtype, Json, LpipsWeights, MetricNames
from cvvae_cli.models.names import DEFAULT_MODEL
from cvvae_cli.output import require_writable_folder

COMPAT_METRICS = ("psnr_db", "ssim", "lpips", "flicker")


def compat(
    dataset: Annotated[str, typer.Option(help="Folder (searched recursively), file, glob or list file.")],
    image_vae: Annotated[Path, typer.Option(help="Image VAE: a folder or file, never a pickle.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A model of ours, or a file of `train --export`.")
    ] = "compact-flux2",
    baseline: Annotated[
        str,
        typer.Option(help="Its latents, mapped by least squares, are the yardstick; a model or a file."),
    ] = DEFAULT_MODEL,
    frames: Annotated[int, typer.Option(min=1, help="At most so many frames of a clip.")] = 33,
    resize: Annotated[str, typer.Option(help="480 (the short side) or 848x480.")] = "480",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many clips.")] = None,
    metrics: MetricNames = None,
    lpips_weights: LpipsWeights = None,
    report: Annotated[Path | None, typer.Option(help="Folder for a page with tables and pictures.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the report if it exists.")] = False,
    json: Json = False,
) -> None:
    """Measure whether an image VAE understands a video model's latents, and the other way round."""
    if report is not None:
        require_writable_folder(report, "index.html", force=force)
    from cvvae_cli.bench import dataset as data
    from cvvae_cli.bench.compat import Job, compat
    from cvvae_cli.bench.compat_page import PAGE, headline_of, table_of, write_page
    from cvvae_cli.bench.environment import describe
    from cvvae_cli.engine.device import choose_placement
    from cvvae_cli.metrics import MetricOptions, available, require_metrics
    from cvvae_cli.models.image_vae import load_image_vae
    from cvvae_cli.models.registry import find_model_or_file

    protocol = data.choose_protocol("native", frames=frames, resize=resize)
    sources = data.find_clips(dataset, limit=limit)
    wanted = tuple(metrics.split(",")) if metrics else COMPAT_METRICS
    require_metrics(wanted)
    spec, other = find_model_or_file(model), find_model_or_file(baseline)
    placement = choose_placement(device, dtype)
    options = MetricOptions(placement.device, lpips_weights=lpips_weights)
    found = available(("psnr_db", *(name for name in wanted if name != "psnr_db")), options)
    job = Job(sources, protocol, spec, other, load_image_vae(image_vae), found, options, placement)
    results = compat(job, on_clip=lambda name: console.err.print(f"compat: {name}", markup=False))
    facts = {
        **protocol.to_json(),
        "dataset": dataset,
        "model": spec.name,
        "model_sha256": spec.weights_sha256,
        "baseline": other.name,
        "baseline_sha256": other.weights_sha256,
        "image_vae": image_vae.name,
        **describe(placement, found, lpips_weights),
    }
    if report is not None:
        write_page(report, results, facts)
        console.err.print(f"report: {report / PAGE}", markup=False)
    if json:
        console.print_json({"protocol": facts, **results.to_json()})
        return
    console.print_grid(f"{spec.name}: means over {len(results.rows)} clips", *table_of(results, other.name))
    console.print_table("its latents and the image VAE's", headline_of(results, other.name))
