"""`cvvae bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Device, Dtype, Json, LpipsWeights, MetricNames, Tile
from cvvae_cli.errors import ConfigError, CvvaeError
from cvvae_cli.models.names import DEFAULT_MODEL
from cvvae_cli.output import require_writable, require_writable_folder

if TYPE_CHECKING:
    from cvvae_cli.bench.run import Results


def bench(
    dataset: Annotated[
        str, typer.Option(help="Folder (searched recursively), file, glob, list file or frame folder.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A model, or a file of `train --export`; may be repeated."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option("--quality", "-q", help="Levels such as 1,3,5.5, or all; else the model's own."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="A codec beside them: x264, x265, svtav1, vp9 or linear, with preset and crf as in "
            "x264:medium:20,30; may be repeated."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="What BD-rates refer to, such as x264:medium; the first baseline by default."),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="Settings of a paper: native, webvid-33x256 or cvvae-paper; what follows changes it."
        ),
    ] = "native",
    frames: Annotated[int | None, typer.Option(min=1, help="At most so many frames of a clip.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Every how manieth frame.")] = None,
    start: Annotated[int | None, typer.Option(min=0, help="The first frame.")] = None,
    resize: Annotated[str | None, typer.Option(help="480 (the short side) or 848x480.")] = None,
    crop: Annotated[str | None, typer.Option(help="center: cover the size and cut what sticks out.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many clips.")] = None,
    shuffle_seed: Annotated[int | None, typer.Option(help="Take the clips in a random order.")] = None,
    metrics: MetricNames = None,
    lpips_weights: LpipsWeights = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder for a page with plots and pictures, and the rows as JSON and CSV."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the rows here as CSV.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of rows already measured; in the user's cache by default.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Measure everything, and keep nothing.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Exit with 0 even if a clip could not be measured.")
    ] = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 1 if a mean over the clips of our models is worse, as in psnr=30 or lpips=0.1; "
            "may be repeated."
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tile: Tile = None,
    temporal_overlap: Annotated[
        list[int] | None,
        typer.Option(
            help="Frames that windows of the paper's networks share beyond one, multiples of 4; may be "
            "repeated, to see how much the seams fall."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the CSV file and the report.")
    ] = False,
    json: Json = False,
    ndjson: Annotated[
        bool, typer.Option("--ndjson", help="Print every row as a line of JSON as it comes.")
    ] = False,
) -> None:
    """Measure models and codecs on a dataset: size, quality, flicker, seams, speed, memory."""
    if json and ndjson:
        raise ConfigError("--json and --ndjson exclude each other")
    if csv is not None:
        require_writable(csv, force=force)
    if report is not None:
        require_writable_folder(report, "index.html", force=force)

    from cvvae_cli.bench import dataset as data
    from cvvae_cli.bench.cache import RowCache
    from cvvae_cli.bench.contenders import ModelContender, parse_baseline, parse_numbers
    from cvvae_cli.bench.environment import describe
    from cvvae_cli.bench.limits import parse_limits, require_limits
    from cvvae_cli.bench.run import Job, run
    from cvvae_cli.bench.summary import as_csv, summarize, table_of
    from cvvae_cli.engine.device import choose_placement
    from cvvae_cli.metrics import DEFAULT_METRICS, MetricOptions, available, require_metrics
    from cvvae_cli.store import cache_folder

    limits = parse_limits(fail_under or [])
    chosen = data.choose_protocol(
        protocol, frames=frames, stride=stride, start=start, resize=resize, crop=crop
    )
    sources = data.find_clips(dataset, limit=limit, shuffle_seed=shuffle_seed)
    wanted = tuple(metrics.split(",")) if metrics else DEFAULT_METRICS
    require_metrics(wanted)
    placement = choose_placement(device, dtype)
    levels = quality if quality in (None, "all") else parse_numbers(quality)
    ours = [
        ModelContender(name, levels, placement, tile, overlap)
        for name in model or [DEFAULT_MODEL]
        for overlap in temporal_overlap or [0]
    ]
    peers = [parse_baseline(text, placement) for text in baseline or []]
    refers_to = reference_of(reference, [c.name for c in (*peers, *ours)], [c.name for c in peers])
    options = MetricOptions(placement.device, lpips_weights=lpips_weights)
    found = available(wanted, options)
    environment = describe(placement, found, lpips_weights)
    folder = None if no_cache else cache or cache_folder() / "bench"
    facts = {"lpips": environment["lpips"]}
    rows = RowCache(folder)
    job = Job(sources, chosen, [*ours, *peers], found, options, facts, rows, report is not None)

    on_row = (lambda entry: console.print_json(entry.row)) if ndjson else (lambda entry: None)
    results = run(job, on_row=on_row, on_clip=lambda name: console.err.print(f"bench: {name}", markup=False))
    summary = summarize(results.rows, refers_to)
    borders = {contender.name: vars(contender.borders_in_time()) for contender in ours}
    settings = {**chosen.to_json(), "dataset": dataset, "borders": borders, **facts, **environment}
    whole = {"protocol": settings, "summary": summary}
    if csv is not None:
        csv.write_text(as_csv(results.rows))
    if report is not None:
        from cvvae_cli.bench.report import PAGE, write_report  # slow to load: it draws

        write_report(report, results.entries, whole, results.failures)
        console.err.print(f"report: {report / PAGE}", markup=False)
    if json:
        failures = [vars(failure) for failure in results.failures]
        console.print_json(
            {"protocol": whole["protocol"], "rows": results.rows, "summary": summary, "failures": failures}
        )
    elif not ndjson:
        show(summary, *table_of(summary))
    judge(results, keep_going=keep_going)
    require_limits(limits, summary["means"], [contender.name for contender in ours])


def reference_of(wanted: str | None, names: list[str], peers: list[str]) -> str | None:
    """The name that BD-rates refer to. Raises ConfigError for one that is not measured."""
    if wanted is None:
        return peers[0] if peers else None
    matches = [name for name in names if name == wanted or name.startswith(f"{wanted}:")]
    if not matches:
        raise ConfigError(
            f"{wanted} is not measured", hint=f"pass --baseline {wanted}, or one of {', '.join(names)}"
        )
    return matches[0]


def show(summary: dict[str, Any], heads: list[str], cells: list[list[str]]) -> None:
    from cvvae_cli.bench.summary import named

    console.print_grid(
        f"{summary['clips']} clips, {summary['frames']} frames; means over clips", heads, cells
    )
    for row in summary["bd"]:
        rate, quality = row["bd_rate"], row["bd_psnr_db"]
        clips = ", ".join(
            f"{clip} {'does not overlap' if value is None else f'{value:+.0%}'}"
            for clip, value in row["bd_rate_of_clips"].items()
        )
        means = "no mean of BD-rates" if rate is None else f"BD-rate {rate:+.1%}"
        means += "" if quality is None else f", BD-PSNR {quality:+.2f} dB"
        text = f"{row['model']} against {summary['reference']}: {means} ({clips})"
        console.out.print(text, markup=False, soft_wrap=True)
        for line in named(row):
            console.out.print(line, markup=False, soft_wrap=True)


def judge(results: Results, *, keep_going: bool) -> None:
    """Raise a CvvaeError if clips failed and that matters; name them either way."""
    for failure in results.failures:
        console.err.print(f"skipped: {failure.clip}: {failure.reason}", markup=False)
    if results.failures and (not keep_going or not results.rows):
        raise CvvaeError(
            f"{len(results.failures)} clips could not be measured", hint="pass --keep-going to accept that"
        )
