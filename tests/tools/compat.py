"""`make compat` and `make ablation`: figures of weights/README.md about latents that image models share.

    compat.py report DATA IMAGE_VAE     `compact-flux2` beside a baseline trained without regularisation
    compat.py ablation DATA IMAGE_VAE   mappings and sides, short runs of equal length, one after the other

Runs lie in runs/ and are continued; what was measured is not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from figures import held_out_figures, markdown, replace_figures

CARD = "weights/README.md"
RUNS = Path("runs/ablation")
RECIPE = "compact-flux2-paper"
VARIANTS = {  # name → side, mapping
    "decoder side, random": ("decoder", "random"),
    "decoder side, average": ("decoder", "average"),
    "decoder side, slice": ("decoder", "slice"),
    "decoder side, first": ("decoder", "first"),
    "encoder side, random": ("encoder", "random"),
    "both sides, random": ("both", "random"),
}
SIZE = "848x480"
FIGURES = ("psnr_db", "aligned_psnr_db")  # of the log


def cvvae(*words: object) -> str:
    """Run the command a user would; what it prints."""
    command = [sys.executable, "-m", "cvvae_cli", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measured(args: argparse.Namespace, model: object, baseline: object, frames: int, result: Path) -> Any:
    """The JSON of `cvvae compat`, kept in a file."""
    if not result.exists():
        words = ["compat", "--dataset", args.data / "eval" / "video", "--image-vae", args.image_vae]
        words += ["--model", model, "--baseline", baseline, "--frames", frames, "--resize", SIZE, "--json"]
        text = cvvae(*words, "--report", result.with_suffix(""), "--force")
        result.write_text(text)
    return json.loads(result.read_text())


def ablate(args: argparse.Namespace) -> None:
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in [name for name in VARIANTS if not args.only or args.only in name]:
        side, mapping = VARIANTS[name]
        words = ["train", "--recipe", RECIPE, "--data", args.data / "train", "--image-vae", args.image_vae]
        words += ["--holdout", args.data / "eval" / "video", "--regularize", side, "--mapping", mapping]
        cvvae(*words, "--steps", args.steps, "--run", folder_of(name), "--threads", args.threads)
    if not args.only:
        replace_figures(CARD, "ablation", table(args.steps))


def folder_of(variant: str) -> Path:
    return RUNS / variant.replace(", ", "-").replace(" ", "-")


def table(steps: int) -> str:
    """What the runs logged last of the held-out clips, as means; runs not there yet are left out."""
    rows = []
    for name in VARIANTS:
        held_out = held_out_figures(folder_of(name), steps)
        if held_out is not None:
            clips = [settings["clip"] for settings in held_out.values()]
            figures = [sum(clip[key] for clip in clips) / len(clips) for key in FIGURES]
            rows.append([name, *(f"{v:.2f}" for v in figures)])
    heads = [f"{steps} steps each", "own PSNR, dB", "image decoder on our latents (average), dB"]
    return markdown(heads, rows)


def report(args: argparse.Namespace) -> None:
    RUNS.parent.mkdir(exist_ok=True)
    plain = args.plain or "compact"
    against = Path("runs/compat.json")
    found = measured(args, args.model, plain, 33, against)
    summary, rows = found["summary"], []
    names = {
        "own": "video model alone",
        "image_vae": "image VAE alone, every frame (four times the latents)",
        "our_decoder_on_pictures": "video decoder on the image VAE's latents, each as a picture",
        "our_decoder_on_clips": "video decoder on the image VAE's latents of every fourth frame",
    }
    for key, text in names.items():
        rows.append([text, *figures_of(summary[key])])
    for key, text in (("image_decoder", "its latents"), ("image_decoder_baseline", "the baseline's")):
        for mapping, values in summary[key].items():
            rows.append([f"image decoder on {text}, against `{mapping}`", *figures_of(values)])
    text = markdown([f"{len(found['rows'])} clips, 33 frames, {SIZE}", "PSNR, dB", "SSIM", "flicker"], rows)
    text += "\n\n" + " ".join(sentences(found))
    if args.plain:
        text += f" The same network without regularisation: {own_psnr(args):.2f} dB alone."
    replace_figures(CARD, "compat", text)


def own_psnr(args: argparse.Namespace) -> float:
    """What the unregularised network reconstructs, on the frames of the report."""
    words = ["bench", "--dataset", args.data / "eval" / "video", "--model", args.plain, "--frames", 33]
    found = json.loads(cvvae(*words, "--resize", SIZE, "--metrics", "psnr_db", "--json"))
    values = [row["psnr_db"] for row in found["rows"]]
    return float(sum(values) / len(values))


def sentences(found: dict[str, Any]) -> list[str]:
    """What a table cannot show."""
    latents, shift = found["summary"]["latents"], found["summary"]["color_shift_rgb"]
    sliced = [f"{latents[f'sliced_wasserstein{of}']:.3f}" for of in ("", "_baseline", "_of_halves")]
    return [
        "Gain of the image decoder over the baseline, each at its best mapping:",
        f"**{found['gain_db']:+.2f} dB**.",
        f"Fréchet distance to the image VAE's latents: **{found['frechet']:.2f}**,",
        f"the baseline's {found['frechet_baseline']:.2f},",
        f"two halves of the image latents {latents['frechet_of_halves']:.2f}.",
        f"Sliced Wasserstein distance: {', '.join(sliced)}.",
        "Colour shift of the image decoder's pictures:",
        ", ".join(f"{n} {v:+.2f}" for n, v in zip("RGB", shift, strict=True)) + " of 255.",
    ]


def figures_of(values: dict[str, float | None]) -> list[str]:
    digits = {"psnr_db": 2, "ssim": 4, "flicker": 2}
    return ["" if values.get(k) is None else f"{values[k]:.{d}f}" for k, d in digits.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("report", "ablation"))
    parser.add_argument("data", type=Path)
    parser.add_argument("image_vae", type=Path)
    parser.add_argument("--model", default="compact-flux2")
    parser.add_argument("--plain", type=Path, help="weights of the same steps without regularisation")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="variants whose name contains this; no table is written then")
    args = parser.parse_args()
    report(args) if args.what == "report" else ablate(args)


if __name__ == "__main__":
    main()
