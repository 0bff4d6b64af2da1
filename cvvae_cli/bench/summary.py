"""What rows come to: means, differences to a reference, tables to copy."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any

from cvvae_cli.bench.rates import Curve, bd_quality, bd_rate

Row = dict[str, Any]
NAMED = {  # clips that are not compared as others are
    "clips_of_pooled_psnr": "by the PSNR of the mean error, for frames equal to their source have none: {}",
    "clips_left_out": "left out: {} (no two settings with a finite PSNR)",
}
NOT_AVERAGED = {*["clip", "model", "quality", "is_baseline", "frames", "width", "height", "worst_frame"]}


def summarize(rows: Sequence[Row], reference: str | None) -> dict[str, Any]:
    """Means over clips of every model and setting, and BD-rates against `reference`."""
    return {
        "clips": len({row["clip"] for row in rows}),
        "frames": sum({row["clip"]: row["frames"] for row in rows}.values()),
        "means": means(rows),
        "reference": reference,
        "bd": [] if reference is None else differences(rows, reference),
    }


def means(rows: Sequence[Row]) -> list[Row]:
    """One row for every model and setting: the means over clips; null where a clip has no value."""
    groups: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["quality"]), []).append(row)
    result = []
    for (model, quality), group in groups.items():
        entry: Row = {"model": model, "quality": quality, "clips": len(group)}
        for key in group[0]:
            if key not in NOT_AVERAGED:
                values = [row.get(key) for row in group]
                known = [value for value in values if value is not None]
                entry[key] = statistics.fmean(known) if len(known) == len(values) else None
        result.append(entry)
    return result


def is_pooled(rows: Sequence[Row], clip: str) -> bool:
    """Whether a clip is compared by the PSNR of its mean error.

    The PSNR of a frame equal to its source has no bound, and so no mean over frames has: one such frame in
    any row, and all rows of the clip are taken so.
    """
    return any(row["clip"] == clip and row.get("psnr_db") is None for row in rows)


def curves(rows: Sequence[Row], clip: str) -> dict[str, Curve]:
    """Model → points (bits per pixel, PSNR) of a clip; which PSNR, `is_pooled` says."""
    key = "psnr_db_pooled" if is_pooled(rows, clip) else "psnr_db"
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["clip"] == clip and row.get(key) is not None:
            found.setdefault(row["model"], []).append((row["bits_per_pixel"], row[key]))
    return {model: points for model, points in found.items() if len(points) > 1}


def differences(rows: Sequence[Row], reference: str) -> list[dict[str, Any]]:
    """For every model but the reference: BD-rate (a share) and BD-PSNR (dB) of each clip, and their means.

    Left out are clips without two points of finite PSNR, by frames or by the mean error.
    """
    per_clip = {clip: curves(rows, clip) for clip in dict.fromkeys(row["clip"] for row in rows)}
    models = dict.fromkeys(model for found in per_clip.values() for model in found if model != reference)
    result = []
    for model in models:
        rates, qualities = {}, {}
        for clip, found in per_clip.items():
            if model in found and reference in found:
                rates[clip] = bd_rate(found[reference], found[model])
                qualities[clip] = bd_quality(found[reference], found[model])
        result.append(
            {
                "model": model,
                "bd_rate": mean_of(rates),
                "bd_psnr_db": mean_of(qualities),
                "bd_rate_of_clips": rates,
                "bd_psnr_db_of_clips": qualities,
                "clips_of_pooled_psnr": [clip for clip in rates if is_pooled(rows, clip)],
                "clips_left_out": [clip for clip in per_clip if clip not in rates],
            }
        )
    return result


def named(row: dict[str, Any]) -> list[str]:
    """Of what `differences` says of a model: a line for each kind of clips not compared as others are."""
    return [line.format(", ".join(row[key])) for key, line in NAMED.items() if row[key]]


def mean_of(values: dict[str, float | None]) -> float | None:
    known = [value for value in values.values() if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


COLUMNS = {  # key → heading, digits
    "bits_per_pixel": ("bits per pixel", 4),
    "psnr_db": ("PSNR, dB", 2),
    "ssim": ("SSIM", 4),
    "ms_ssim": ("MS-SSIM", 4),
    "lpips": ("LPIPS", 4),
    "flicker": ("flicker", 2),
    "seam": ("seam", 2),
    "encode_fps": ("encode, fps", 1),
    "decode_fps": ("decode, fps", 1),
}


def table_of(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the means, with the BD-rate where there is one."""
    present = [key for key in COLUMNS if any(row.get(key) is not None for row in summary["means"])]
    rates = {row["model"]: row["bd_rate"] for row in summary["bd"]}
    heads = ["model", "quality", *(COLUMNS[key][0] for key in present)]
    if rates:
        heads.append(f"BD-rate to {summary['reference']}")
    cells = []
    for row in summary["means"]:
        quality = row["quality"]
        line = [row["model"], "" if quality is None else f"{quality:g}"]
        line += [number_text(row.get(key), COLUMNS[key][1]) for key in present]
        if rates:
            rate = rates.get(row["model"])
            line.append("" if rate is None else f"{rate:+.0%}")
        cells.append(line)
    return heads, cells


def number_text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def as_markdown(summary: dict[str, Any]) -> str:
    heads, cells = table_of(summary)
    rule = ["---", *["--:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, rule, *cells])


def as_latex(summary: dict[str, Any]) -> str:
    heads, cells = table_of(summary)
    lines = [" & ".join(map(latex_text, line)) + r" \\" for line in [heads, *cells]]
    columns = "l" + "r" * (len(heads) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}"])


def latex_text(text: str) -> str:
    for character in "%&_#":
        text = text.replace(character, "\\" + character)
    return text


def as_csv(rows: Sequence[Row]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
