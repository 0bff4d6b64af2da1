"""`make architectures`: variants of `compact`, trained alike from principal components for STEPS steps each.

    architectures.py DATA --steps 120

Some training clips are held out of all runs and compared on; the evaluation set is not looked at. Runs lie in
runs/architectures and are continued; the table goes to weights/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from figures import held_out_figures, markdown, replace_figures

from cvvae_cli.bench.rates import Curve, bd_rate

CARD = "weights/README.md"
RUNS = Path("runs/architectures")
HELD_OUT = ("davis_dog", "davis_parkour", "sam2__01_dog.mp4", "davis_bmx-trees")
EXCLUDED = ("*astronaut*", "quantette__ball_caps.jpg", "quantette__motocross.jpg")  # as in the recipes
BASE = "32 channels, blocks 2+3 and 3+3, 3 taps in time"
VARIANTS: dict[str, dict[str, Any]] = {  # name → what differs from the shipped model
    BASE: {},
    "16 channels": {"latent_channels": 16},
    "48 channels": {"latent_channels": 48},
    "deeper at 1/8 (1+4 and 1+4)": {"encoder_blocks": [1, 4], "decoder_blocks": [1, 4]},
    "deeper at 1/4 (4+2 and 5+2)": {"encoder_blocks": [4, 2], "decoder_blocks": [5, 2]},
    "5 taps in time": {"time_taps": 5},
}


def recipe(variant: dict[str, Any]) -> str:
    """TOML: as short and plain as ranking needs."""
    excluded = json.dumps([*EXCLUDED, *(f"*{name}*" for name in HELD_OUT)])
    model = "\n".join(f"{key} = {value}" for key, value in variant.items())
    stages = "stages = [{ until = 1.0, batch = 3, frames = 17, size = 128 }]"
    return (
        f'name = "architecture"\n[model]\n{model}\n[data]\nexclude = {excluded}\nmax_clip_frames = 48\n'
        f"cache_gib = 3.0\nshort_side = 288\n[schedule]\nwarmup_steps = 30\nema_decay = 0.95\n{stages}\n"
    )


def held_out(data: Path) -> Path:
    """A folder of links to the clips held out."""
    folder = RUNS / "held-out"
    folder.mkdir(parents=True, exist_ok=True)
    for name in HELD_OUT:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to((data / "train" / "video" / name).resolve())
    return folder


def train(name: str, args: argparse.Namespace) -> None:
    folder = folder_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.toml"
    file.write_text(recipe(VARIANTS[name]))
    words = ["train", "--recipe", file, "--data", args.data / "train", "--holdout", held_out(args.data)]
    words += ["--steps", args.steps, "--run", folder, "--threads", args.threads]
    subprocess.run([sys.executable, "-m", "cvvae_cli", *map(str, words)], check=True)


def folder_of(variant: str) -> Path:
    return RUNS / variant.replace(" ", "-").replace(",", "").replace("/", "")


def curves(variant: str, steps: int) -> dict[str, Curve] | None:
    """Rate and PSNR of each held-out clip at the levels logged; None if the run is not done."""
    held_out = held_out_figures(folder_of(variant), steps)
    if held_out is None:
        return None
    return {
        clip: [(level["bits_per_pixel"], level["psnr_db"]) for level in levels.values()]
        for clip, levels in held_out.items()
    }


def table(steps: int) -> str:
    """Beside the base: bits at equal PSNR, and means at the middle level; runs not there are left out."""
    base = curves(BASE, steps)
    if base is None:
        raise SystemExit(f"{BASE!r} is not trained")
    rows = []
    for name in VARIANTS:
        clips = curves(name, steps)
        if clips is None:
            continue
        rates = [bd_rate(base[clip], curve) for clip, curve in clips.items()]
        known = [rate for rate in rates if rate is not None]
        middle = [curve[len(curve) // 2] for curve in clips.values()]
        rate, psnr = (sum(values) / len(values) for values in zip(*middle, strict=True))
        shown = f"{100 * sum(known) / len(known):+.1f} %" if known else "no overlap"
        rows.append([name, shown, f"{rate:.4f}", f"{psnr:.2f}"])
    heads = [f"{steps} steps each", "bits at equal PSNR", "bits per pixel, middle level", "PSNR, dB"]
    return markdown(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="variants whose name contains this; no table is written then")
    args = parser.parse_args()
    for name in VARIANTS:
        if not args.only or args.only in name:
            train(name, args)
    if not args.only:
        replace_figures(CARD, "architectures", table(args.steps))


if __name__ == "__main__":
    main()
