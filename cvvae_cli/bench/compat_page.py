"""The page of `cvvae compat`, and its tables for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cvvae_cli.bench.compat import Compatibility
from cvvae_cli.bench.report import PAGE, facts_list, html_table, page, pictures, write_files
from cvvae_cli.bench.run import MIDDLE
from cvvae_cli.bench.summary import as_csv

__all__ = ["PAGE", "headline_of", "table_of", "write_page"]
SHOWN = {
    "own": "video model alone",
    "image_vae": "image VAE alone, every frame",
    "our_decoder_on_pictures": "video decoder on the image VAE's latents, each as a picture",
    "our_decoder_on_clips": "video decoder on the image VAE's latents of every fourth frame",
}


def write_page(folder: Path, found: Compatibility, facts: dict[str, Any]) -> None:
    """The page with its pictures, and all figures as JSON and CSV."""
    baseline = facts["baseline"]
    body = [
        "<h2>Reconstructions</h2>",
        html_table(*table_of(found, baseline), ours={SHOWN["own"]}),
        "<h2>Latents</h2>",
        facts_list(headline_of(found, baseline)),
        html_table(*channel_table(found), ours=set()),
        "<h2>Pictures</h2>",
        '<p class="soft">The middle latent frame of a clip. Drag over a picture.</p>',
    ]
    for clip, drawn in found.pictures.items():
        for name, right in (("ours", facts["model"]), ("baseline", f"{baseline}, least squares")):
            caption = f"{clip}: mean of four frames, and what the image decoder makes of the latent"
            body += pictures(drawn[name], MIDDLE, "frames", right, caption)
    body += ["<h2>Protocol</h2>", facts_list(facts)]
    subtitle = f"{facts['model']} and the image VAE {facts['image_vae']}; means over {len(found.rows)} clips"
    rows = [{"clip": row["clip"], "frames": row["frames"], **row["own"]} for row in found.rows]
    whole = {"protocol": facts, **found.to_json()}
    write_files(folder, page("cvvae compat", subtitle, body), whole, as_csv(rows))


def channel_table(found: Compatibility) -> tuple[list[str], list[list[str]]]:
    """Mean and deviation of every channel, beside the image VAE's."""
    latents = found.summary["latents"]
    columns = ("mean", "image_mean", "deviation", "image_deviation")
    rows = zip(*(latents[name] for name in columns), strict=True)
    cells = [[str(number), *(f"{v:.3f}" for v in row)] for number, row in enumerate(rows)]
    return ["channel", "mean", "image VAE", "deviation", "image VAE"], cells


def table_of(found: Compatibility, baseline: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of reconstructions."""
    summary = found.summary
    metrics = list(summary["own"])
    cells = [[text, *(written(summary[kind][m]) for m in metrics)] for kind, text in SHOWN.items()]
    kinds = {"image_decoder": "its latents", "image_decoder_baseline": f"{baseline} by least squares"}
    for kind, text in kinds.items():
        for mapping, figures in summary[kind].items():
            cells.append([f"image decoder on {text}, {mapping}", *(written(figures[m]) for m in metrics)])
    return ["", *metrics], cells


def headline_of(found: Compatibility, baseline: str) -> dict[str, str]:
    """What a table says below it."""
    latents = found.summary["latents"]
    distance = found.headline

    def beside(ours: float | None, theirs: float | None, halves: float | None) -> str:
        return f"{written(ours)}; {baseline} {written(theirs)}; halves of the image latents {written(halves)}"

    shift = zip("RGB", found.summary["color_shift_rgb"], strict=True)
    gain = written(distance["gain_db"])
    return {
        "gain": f"{gain} dB over {baseline} by least squares, each at its best mapping",
        "Fréchet": beside(distance["frechet"], distance["frechet_baseline"], latents["frechet_of_halves"]),
        "sliced Wasserstein": beside(
            latents["sliced_wasserstein"],
            latents["sliced_wasserstein_baseline"],
            latents["sliced_wasserstein_of_halves"],
        ),
        "color shift": ", ".join(f"{name} {value:+.2f}" for name, value in shift) + " of 255",
    }


def written(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
