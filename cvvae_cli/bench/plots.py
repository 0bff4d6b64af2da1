"""Plots as SVG text that takes the colours of the page it stands in."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cvvae_cli.bench.rates import Curve

INK = "#010203"  # replaced by currentColor
COLORS = ("#3b82f6", "#f97316", "#10b981", "#ef4444", "#a855f7", "#eab308", "#06b6d4", "#ec4899")
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cvvae",  # equal inputs give equal pages
    "font.family": "sans-serif",
    "font.size": 11,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def color_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name."""
    return {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}


def rate_distortion(curves: Mapping[str, Curve], colors: Mapping[str, str], title: str) -> str:
    """PSNR over bits per pixel (log), a line for every model."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2))
        axes = figure.subplots()
        for model, points in curves.items():
            x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, marker="o", markersize=4, color=colors[model], label=model)
        axes.set_xscale("log")
        ticks = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]
        low, high = axes.get_xlim()
        axes.set_xticks([t for t in ticks if low <= t <= high], minor=False)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel("PSNR, dB")
        return finished(figure, axes, title)


def per_frame(lines: Mapping[str, Sequence[float | None]], colors: Mapping[str, str], title: str) -> str:
    """PSNR over frames, a line for every model: dips that come back are pieces that do not fit."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.2))
        axes = figure.subplots()
        for label, values in lines.items():
            known = [float("nan") if value is None else value for value in values]
            color = next((c for model, c in colors.items() if label.startswith(model)), COLORS[0])
            axes.plot(range(len(known)), known, color=color, linewidth=1.3, label=label)
        axes.set_xlabel("frame")
        axes.set_ylabel("PSNR, dB")
        return finished(figure, axes, title)


def finished(figure: Figure, axes: Any, title: str) -> str:
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.legend(fontsize=9)
    figure.tight_layout()
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
