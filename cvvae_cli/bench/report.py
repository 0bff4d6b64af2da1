"""One self-contained HTML page: tables, plots, worst frames, protocol. It loads nothing from anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from cvvae_cli.bench import plots, summary
from cvvae_cli.bench.cache import Entry
from cvvae_cli.bench.compare import Comparison
from cvvae_cli.bench.run import HEAT_LEVELS, MIDDLE, WORST, Failure
from cvvae_cli.bench.summary import Row

MOST_CLIPS = 24  # that plots and pictures are drawn of
PAGE, RESULTS, TABLE = "index.html", "results.json", "results.csv"


def write_report(
    folder: Path, entries: Sequence[Entry], facts: dict[str, Any], failures: Sequence[Failure]
) -> None:
    """The page of a bench, and its rows as JSON and CSV. `facts` are protocol and summary."""
    rows = [entry.row for entry in entries]
    whole = {**facts, "rows": rows, "per_frame": [entry.per_frame for entry in entries]}
    found = facts["summary"]
    body = [
        *failure_section(failures),
        "<h2>Results</h2>",
        html_table(*summary.table_of(found), ours={row["model"] for row in rows if not row["is_baseline"]}),
        copies(found),
        *bd_section(found),
        "<h2>Rate and distortion</h2>",
        *rate_section(rows),
        "<h2>Frame by frame</h2>",
        *frame_section(entries),
        "<h2>Pictures</h2>",
        *picture_section(entries),
        "<h2>Protocol</h2>",
        facts_list(facts["protocol"]),
    ]
    subtitle = f"{found['clips']} clips, {found['frames']} frames; means over clips unless a clip is named"
    if found["clips"] > MOST_CLIPS:
        subtitle += f"; drawn are the {MOST_CLIPS} with the lowest PSNR"
    write_files(folder, page("cvvae bench", subtitle, body), whole, summary.as_csv(rows))


def write_comparison(folder: Path, found: Comparison, facts: dict[str, Any]) -> None:
    """The page of a comparison of two videos."""
    row = found.row
    per_frame = {name: values.tolist() for name, values in found.measurement.per_frame.items()}
    values = {k: "" if v is None else str(v) for k, v in row.items()}
    body = ["<h2>Values</h2>", facts_list(values), "<h2>Frame by frame</h2>", '<div class="plots">']
    if "psnr_db" in per_frame:
        body.append(plots.per_frame({row["clip"]: per_frame["psnr_db"]}, {}, "PSNR of each frame"))
    body += ["</div>", "<h2>Worst frame</h2>"]
    if found.pictures:
        body += pictures(found.pictures, WORST, row["reference"], row["clip"], f"frame {row['worst_frame']}")
    body += ["<h2>Protocol</h2>", facts_list(facts)]
    title = f"{row['clip']} against {row['reference']}"
    finite = {n: [v if abs(v) < float("inf") else None for v in vs] for n, vs in per_frame.items()}
    whole = {"protocol": facts, "row": row, "per_frame": finite}
    write_files(folder, page(title, f"{row['frames']} frames", body), whole, summary.as_csv([row]))


def write_files(folder: Path, text: str, whole: dict[str, Any], table: str) -> None:
    """The page last, so that a page is never without its numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((RESULTS, json.dumps(whole)), (TABLE, table), (PAGE, text)):
        part = folder / f"{name}.part"
        part.write_text(content)
        part.replace(folder / name)


def page(title: str, subtitle: str, body: Sequence[str]) -> str:
    template = Template(files(__package__).joinpath("page.html").read_text())
    return template.substitute(title=escape(title), subtitle=escape(subtitle), body="\n".join(body))


def html_table(heads: Sequence[str], cells: Sequence[Sequence[str]], ours: set[str]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    lines = []
    for line in cells:
        kind = ' class="ours"' if line[0] in ours else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>")
    body = "".join(lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def copies(found: dict[str, Any]) -> str:
    blocks = {"Markdown": summary.as_markdown(found), "LaTeX": summary.as_latex(found)}
    parts = [
        f"<h3>{name}</h3><button data-copy>copy</button><pre>{escape(text)}</pre>"
        for name, text in blocks.items()
    ]
    return "<details><summary>This table for a paper</summary>" + "".join(parts) + "</details>"


def failure_section(failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    lines = "".join(f"<li>{escape(f.clip)}: {escape(f.reason)}</li>" for f in failures)
    return [f"<h2>Not measured</h2><ul>{lines}</ul>"]


def bd_section(found: dict[str, Any]) -> list[str]:
    if not found["bd"]:
        return []
    clips = list(found["bd"][0]["bd_rate_of_clips"])
    heads = ["model", "BD-rate", "BD-PSNR, dB", *clips]
    cells = [
        [row["model"], share(row["bd_rate"]), summary.number_text(row["bd_psnr_db"], 2)]
        + [share(row["bd_rate_of_clips"].get(clip)) for clip in clips]
        for row in found["bd"]
    ]
    text = f"Bits more (+) or fewer (−) at equal PSNR than {found['reference']}, and per clip."
    lines = dict.fromkeys(line for row in found["bd"] for line in summary.named(row))
    return [
        f"<h2>BD-rate against {escape(found['reference'])}</h2>",
        *(f'<p class="soft">{escape(line)}</p>' for line in (text, *lines)),
        html_table(heads, cells, set()),
    ]


def share(value: float | None) -> str:
    return "" if value is None else f"{value:+.0%}"


def clips_of(rows: Sequence[Row]) -> list[str]:
    """The clips to draw: all, or those on which our models do worst."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        is_ours = not row["is_baseline"] and row.get("psnr_db") is not None
        scores.setdefault(row["clip"], []).extend([row["psnr_db"]] if is_ours else [])
    worst = sorted(scores, key=lambda clip: min(scores[clip], default=0.0))[:MOST_CLIPS]
    return [clip for clip in scores if clip in worst]


def rate_section(rows: Sequence[Row]) -> list[str]:
    colors = plots.color_of(list(dict.fromkeys(row["model"] for row in rows)))
    drawn = []
    for clip in clips_of(rows):
        curves = summary.curves(rows, clip)
        if curves:
            title = f"{clip}, PSNR of the mean error" if summary.is_pooled(rows, clip) else clip
            drawn.append(plots.rate_distortion(curves, colors, title))
    if not drawn:
        return ['<p class="soft">A curve needs two settings of a model.</p>']
    return ['<div class="plots">', *drawn, "</div>"]


def chosen(entries: Sequence[Entry], clip: str) -> list[Entry]:
    """Of each model the entry to show: of ours the middle setting, of others the nearest to its rate."""
    of_clip = [entry for entry in entries if entry.row["clip"] == clip]
    models = dict.fromkeys(entry.row["model"] for entry in of_clip)
    ours = [entry for entry in of_clip if not entry.row["is_baseline"]] or of_clip
    main = ours[len(ours) // 3]
    rate = main.row["bits_per_pixel"]
    result = [main]
    for model in models:
        same = [entry for entry in of_clip if entry.row["model"] == model]
        if model != main.row["model"]:
            result.append(min(same, key=lambda entry: abs(entry.row["bits_per_pixel"] / rate - 1)))
    return result


def label(row: Row) -> str:
    quality = "" if row["quality"] is None else f" at {row['quality']:g}"
    psnr = "" if row.get("psnr_db") is None else f", {row['psnr_db']:.2f} dB"
    return f"{row['model']}{quality}: {row['bits_per_pixel']:.4f} bits per pixel{psnr}"


def frame_section(entries: Sequence[Entry]) -> list[str]:
    rows = [entry.row for entry in entries]
    colors = plots.color_of(list(dict.fromkeys(row["model"] for row in rows)))
    drawn = []
    for clip in clips_of(rows):
        shown = [e for e in chosen(entries, clip) if len(e.per_frame.get("psnr_db", ())) > 1]
        if shown:
            lines = {label(entry.row): entry.per_frame["psnr_db"] for entry in shown}
            drawn.append(plots.per_frame(lines, colors, clip))
    text = "Others at the setting whose rate is nearest. Dips that come back every few frames are seams."
    return [f'<p class="soft">{text}</p>', '<div class="plots">', *drawn, "</div>"]


def picture_section(entries: Sequence[Entry]) -> list[str]:
    parts = [f'<p class="soft">Drag over a picture. Maps: black no error, bright {HEAT_LEVELS} of 255.</p>']
    for clip in clips_of([entry.row for entry in entries]):
        shown = chosen(entries, clip)
        parts.append(f"<h3>{escape(clip)}</h3>")
        main = shown[0]
        if main.pictures:
            caption = f"worst frame, {main.row['worst_frame']}, of {label(main.row)}"
            parts += pictures(main.pictures, WORST, "source", main.row["model"], caption)
        if len(shown) > 1 and main.pictures and shown[1].pictures:
            left, right = main.pictures[f"{MIDDLE}-decoded"], shown[1].pictures[f"{MIDDLE}-decoded"]
            caption = f"middle frame: {label(main.row)} beside {label(shown[1].row)}"
            parts.append('<div class="pictures">')
            parts.append(slider(left, right, main.row["model"], shown[1].row["model"], caption))
            parts.append("</div>")
    return parts


def pictures(found: Mapping[str, bytes], name: str, left: str, right: str, caption: str) -> list[str]:
    """A slider between source and decoded, and the map of the error."""
    return [
        '<div class="pictures">',
        slider(found[f"{name}-source"], found[f"{name}-decoded"], left, right, caption),
        f'<figure><img alt="map of the error" src="{data_url(found[f"{name}-error"])}">'
        "<figcaption>where the error is</figcaption></figure>",
        "</div>",
    ]


def slider(left: bytes, right: bytes, left_name: str, right_name: str, caption: str) -> str:
    images = "".join(
        f'<img alt="{escape(name)}" src="{data_url(data)}">'
        for name, data in ((left_name, left), (right_name, right))
    )
    marks = f'<span class="left">{escape(left_name)}</span><span class="right">{escape(right_name)}</span>'
    control = '<input type="range" min="0" max="100" value="50" step="0.1" aria-label="how much of each">'
    text = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure><div class="slider">{images}{marks}{control}</div>{text}</figure>'


def data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def facts_list(facts: Mapping[str, Any]) -> str:
    lines = []
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(text)}</dd>")
    return f"<dl>{''.join(lines)}</dl>"
