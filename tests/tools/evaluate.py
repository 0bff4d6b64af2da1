"""`make evaluate`: the figures of the model card and of the README, by `cvvae bench` itself.

Clips of DATA/eval/video, scaled to 848x480, at most 64 frames; beside the model x264 and x265 medium. What
was measured before is taken from the cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from figures import markdown, replace_figures

from cvvae_cli import codec
from cvvae_cli.bench.contenders import NOTHING_BESIDE
from cvvae_cli.bench.dataset import Clip, Protocol, find_clips
from cvvae_cli.bench.measure import in_step, measure
from cvvae_cli.bench.rates import at_quality
from cvvae_cli.bench.summary import as_markdown, curves
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.flow import worthless
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.engine.device import choose_placement
from cvvae_cli.engine.stream import Engine
from cvvae_cli.latents import read_latents
from cvvae_cli.metrics import MetricOptions
from cvvae_cli.models.registry import Weights, find_model
from cvvae_cli.options import EncodeOptions

FRAMES, SIZE = 64, "848x480"
PEERS = ("x264:medium", "x265:medium")
REPORT = Path("runs/bench")


def bench(data: Path, model: str) -> dict[str, Any]:
    """Run the command a user would; its JSON."""
    command = [sys.executable, "-m", "cvvae_cli", "bench", "--dataset", str(data / "eval" / "video")]
    command += ["--frames", str(FRAMES), "--resize", SIZE, "--model", model, "--quality", "all", "--force"]
    command += [word for peer in PEERS for word in ("--baseline", peer)]
    command += ["--report", str(REPORT), "--json"]
    REPORT.parent.mkdir(exist_ok=True)
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def rounding_loss(data: Path, model: str) -> tuple[float, float]:
    """PSNR that the highest quality loses against latents that are not rounded, in dB.

    First against those of the very level, gain times step, of the same frames, moved or not; then against
    those of `--exact fp32`.
    """
    spec = find_model(model)
    weights = Weights(spec)
    engine = Engine(spec, weights.build, choose_placement())
    gain, step = weights.gain_and_step(spec.levels[1])
    scaled = (gain * step)[:, None, None, None]
    losses = []
    for source in find_clips(str(data / "eval" / "video")):
        clip = Clip(source, Protocol(frames=FRAMES, resize=SIZE))
        found = []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rounded.cvl"
            header = codec.header_for(clip, None, NOTHING_BESIDE, engine, weights, EncodeOptions(quality=10))
            cvl = CvlWriter(path.open("wb"), header)
            for _ in codec.write_cvl(cvl, clip, NOTHING_BESIDE, engine, weights):
                pass
            with open_cvl(path) as written:
                coder = ENTROPY_CODERS[header.coder]
                error = worthless(spec.levels[1]) if coder.takes_fields else None
                unrounded = engine.encode_stream(clip, worthless=error, borrows=coder.borrows)
                for chunks in (
                    read_latents(written, weights),
                    (replace(chunk, latents=chunk.latents * scaled) for chunk in unrounded),
                    engine.encode_stream(clip),
                ):
                    frames = engine.decode_stream(chunks, *header.size)
                    psnr = measure(in_step(clip, frames), ["psnr_db"], MetricOptions()).values["psnr_db"]
                    found.append(psnr or 0.0)
        losses.append([found[1] - found[0], found[2] - found[0]])
    of_level, as_they_are = np.mean(losses, axis=0)
    return float(of_level), float(as_they_are)


def card(found: dict[str, Any], model: str, losses: tuple[float, float]) -> str:
    """The tables of the model card."""
    rows, means = found["rows"], found["summary"]["means"]
    clips = list(dict.fromkeys(row["clip"] for row in rows))
    by_level = []
    for mean in means:
        if mean["model"] != model:
            continue
        of_level = [r for r in rows if r["model"] == model and r["quality"] == mean["quality"]]
        peers = []
        for peer in PEERS:
            rates = [at_quality(curves(rows, r["clip"])[peer], r["psnr_db"]) for r in of_level]
            known = [rate for rate in rates if rate is not None]
            peers.append(f"{np.mean(known):.4f}" if len(known) == len(rates) else "")
        figures = f"{mean['psnr_db']:.2f}", f"{mean['ssim']:.4f}", f"{mean['bits_per_pixel']:.4f}"
        by_level.append([f"quality {mean['quality']:g}", *figures, *peers])
    heads = [
        "mean of the clips",
        "PSNR, dB",
        "SSIM",
        "bits per pixel",
        *(f"{p} at equal PSNR" for p in PEERS),
    ]
    shown = (1, 3, 5, 8, 10)
    lines = []
    for clip in clips:
        of_clip = {r["quality"]: r for r in rows if r["clip"] == clip and r["model"] == model}
        cells = [f"{of_clip[q]['psnr_db']:.2f} / {of_clip[q]['bits_per_pixel']:.4f}" for q in shown]
        lines.append([clip, str(of_clip[1]["frames"]), *cells, *bd_cells(found, model, clip)])
    total = str(found["summary"]["frames"])
    lines.append(["**mean**", total, *[""] * len(shown), *bd_cells(found, model, None)])
    columns = ["PSNR / bits per pixel", "frames", *(f"quality {q}" for q in shown)]
    columns += [f"BD-rate to {PEERS[0]}", "BD-PSNR, dB"]
    tables = f"{markdown(heads, by_level)}\n\n{markdown(columns, lines)}"
    return (
        f"{tables}\n\nRounding costs {losses[0]:.2f} dB at the highest quality, against latents scaled as "
        f"that level scales them; {losses[1]:.2f} dB against those of `--exact fp32`."
    )


def bd_cells(found: dict[str, Any], model: str, clip: str | None) -> list[str]:
    bd = next(row for row in found["summary"]["bd"] if row["model"] == model)
    rate = bd["bd_rate"] if clip is None else bd["bd_rate_of_clips"][clip]
    quality = bd["bd_psnr_db"] if clip is None else bd["bd_psnr_db_of_clips"][clip]
    return [f"{rate:+.0%}", "" if quality is None else f"{quality:+.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="compact")
    arguments = parser.parse_args()
    name = find_model(arguments.model).name
    found = bench(arguments.data, name)
    protocol = found["protocol"]
    where = f"{protocol['machine']}, {protocol['threads']} threads, {protocol['dtype']}"
    table = as_markdown(found["summary"])
    replace_figures("README.md", "bench", f"{table}\n\n{found['summary']['clips']} clips, {where}.")
    replace_figures("weights/README.md", name, card(found, name, rounding_loss(arguments.data, name)))
    print(table)


if __name__ == "__main__":
    main()
