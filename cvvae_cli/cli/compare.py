"""`cvvae compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Device, Json, LpipsWeights, MetricNames
from cvvae_cli.output import require_writable_folder


def compare(
    first: Annotated[Path, typer.Argument(help="The source: video, picture or folder of frames.")],
    second: Annotated[Path, typer.Argument(help="What it became.")],
    metrics: MetricNames = None,
    lpips_weights: LpipsWeights = None,
    piece: Annotated[
        int, typer.Option(min=2, help="Frames of a codec's pieces, for the seam between them.")
    ] = 16,
    first_border: Annotated[
        int | None, typer.Option(min=1, help="The first frame that begins a piece; else searched for.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for a page with plots and pictures.")] = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the report if it exists.")] = False,
    json: Json = False,
) -> None:
    """Measure one video against another: PSNR, SSIM, LPIPS, flicker, seams, and shifted frames."""
    if report is not None:
        require_writable_folder(report, "index.html", force=force)
    from cvvae_cli.bench.compare import compare as measure
    from cvvae_cli.bench.environment import describe
    from cvvae_cli.engine.device import choose_placement
    from cvvae_cli.metrics import (
        DEFAULT_METRICS,
        METRICS,
        Borders,
        MetricOptions,
        available,
        require_metrics,
    )

    wanted = tuple(metrics.split(",")) if metrics else DEFAULT_METRICS
    require_metrics(wanted)
    placement = choose_placement(device, "auto")
    options = MetricOptions(placement.device, Borders(piece, first_border), lpips_weights)
    found = measure(first, second, available(wanted, options), options)
    if report is not None:
        from cvvae_cli.bench.report import PAGE, write_comparison

        facts = describe(placement, tuple(found.measurement.values), lpips_weights)
        write_comparison(report, found, facts | {"borders": vars(options.borders)})
        console.err.print(f"report: {report / PAGE}", markup=False)
    if found.shift:
        late = "late" if found.shift > 0 else "early"
        console.err.print(
            f"[bold yellow]note:[/] the second video is {abs(found.shift)} frames {late}: "
            "shifted by that it fits better; frames were lost or repeated"
        )
    if json:
        console.print_json(found.row)
        return
    rows = {"frames": f"{found.row['frames']} of {found.row['width']}x{found.row['height']}"}
    for name, value in found.measurement.values.items():
        better = {True: "higher is better", False: "lower is better", None: "1 is best"}
        if value is not None:
            rows[name] = f"{value:.4f}  ({better[METRICS[name].higher_is_better]})"
    rows["shift"] = f"{found.shift} frames"
    console.print_table(f"{second} against {first}", rows)
