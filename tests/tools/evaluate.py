"""`make evaluate`: the figures of the model card. Whole files, through the product's own path.

Clips of DATA/eval/video, scaled to 848x480 by area, at most 64 frames; beside the model x264 and x265 at
their preset medium.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from figures import markdown, replace_figures
from scipy.interpolate import PchipInterpolator

from cvvae_cli import codec
from cvvae_cli.metrics.psnr import mean_squared_error, psnr, psnr_of
from cvvae_cli.metrics.ssim import ssim
from cvvae_cli.models.registry import find_model
from cvvae_cli.options import DecodeOptions, EncodeOptions
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.reader import open_source
from cvvae_cli.video.writer import OutputOptions, VideoWriter

WIDTH, HEIGHT, FRAMES = 848, 480, 64
LEVELS = (1, 3, 5, 7.5, 10)
PEERS = ("x264", "x265")
Curve = list[tuple[float, float]]  # (bits per pixel, PSNR)


@dataclass(frozen=True)
class Clip:
    name: str
    rgb: np.ndarray  # uint8 (T, HEIGHT, WIDTH, 3)
    info: VideoInfo


def read_clips(folder: Path) -> Iterator[Clip]:
    for path in sorted(folder.iterdir()):
        with open_source(path) as video:
            frames: list[np.ndarray] = []
            for batch in video:
                frames.extend(scale(picture) for picture in batch.rgb)
                if len(frames) >= FRAMES:
                    break
            info = replace(video.info, width=WIDTH, height=HEIGHT)
        yield Clip(path.name, np.stack(frames[:FRAMES]), info)


def scale(picture: np.ndarray) -> np.ndarray:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return frame.reformat(width=WIDTH, height=HEIGHT, interpolation="AREA").to_ndarray()


def write_lossless(clip: Clip, path: Path) -> None:
    info = replace(clip.info, time_base=1 / clip.info.frame_rate)
    with VideoWriter(path, path, info, OutputOptions(codec="ffv1"), None) as video:
        video.write(FrameBatch(clip.rgb, np.arange(len(clip.rgb), dtype=np.int64)))


def product(clip: Clip, folder: Path, model: str, **options: Any) -> dict[str, float]:
    """Encode a file and decode it again, exactly as a user would."""
    source, cvl, back = folder / "source.mkv", folder / "clip.cvl", folder / "back.mkv"
    write_lossless(clip, source)
    report = codec.encode_file(source, cvl, EncodeOptions(model=model, force=True, **options))
    lossless = DecodeOptions(output=OutputOptions(codec="ffv1"), force=True)
    codec.decode_file(cvl, back, lossless)
    with open_source(back) as video:
        rgb = np.concatenate([b.rgb for b in video])
    return measure(clip.rgb, rgb) | {"bits_per_pixel": report.bits_per_pixel}


def measure(source: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    return {
        "psnr_db": float(psnr(source, decoded).mean()),
        "psnr_db_pooled": float(psnr_of(mean_squared_error(source, decoded).mean())),
        "ssim": float(np.mean([ssim(source[i : i + 1], decoded[i : i + 1]) for i in range(len(source))])),
    }


def codec_curve(clip: Clip, folder: Path, codec: str, crfs: tuple[int, ...]) -> Curve:
    """Points of a codec at its preset medium: whole MP4 files, video only."""
    points = []
    for crf in crfs:
        path = folder / "peer.mp4"
        with av.open(str(path), "w") as container:
            options = {"crf": str(crf), "preset": "medium", "x265-params": "log-level=none"}
            options = (
                options if codec == "libx265" else {k: v for k, v in options.items() if k != "x265-params"}
            )
            stream = container.add_stream(codec, rate=clip.info.frame_rate, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for picture in clip.rgb:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        with open_source(path) as video:
            rgb = np.concatenate([b.rgb for b in video])
        points.append((path.stat().st_size * 8 / clip.rgb[..., 0].size, float(psnr(clip.rgb, rgb).mean())))
    return sorted(points)


def bd_rate(reference: Curve, test: Curve) -> float:
    """Bjontegaard's mean difference of rate at equal PSNR, as a share: 0.5 is half more bits.

    Log rate over PSNR, piecewise cubic (PCHIP), over the PSNRs that both curves have; NaN if there are none.
    """
    curves = []
    for points in (reference, test):
        rates, values = map(np.array, zip(*sorted(points, key=lambda p: p[1]), strict=True))
        curves.append((PchipInterpolator(values, np.log(rates)), values.min(), values.max()))
    low, high = max(c[1] for c in curves), min(c[2] for c in curves)
    if high <= low:
        return float("nan")
    areas = [float(curve.integrate(low, high)) for curve, _, _ in curves]
    return float(np.exp((areas[1] - areas[0]) / (high - low)) - 1)


def evaluate(clip: Clip, folder: Path, model: str) -> dict[str, Any]:
    """All figures of a clip."""
    row: dict[str, Any] = {"clip": clip.name, "frames": len(clip.rgb)}
    row["levels"] = {q: product(clip, folder, model, quality=q) for q in LEVELS}
    row["exact_psnr_db"] = product(clip, folder, model, exact="fp32")["psnr_db"]
    ours = [(r["bits_per_pixel"], r["psnr_db"]) for r in row["levels"].values()]
    row["x264"] = codec_curve(clip, folder, "libx264", (18, 22, 26, 30, 34, 38, 42, 46))
    row["x265"] = codec_curve(clip, folder, "libx265", (18, 22, 26, 30, 34, 38, 42, 46))
    for peer in PEERS:
        row[f"bd_rate_{peer}"] = bd_rate(row[peer], ours)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="compact")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for clip in read_clips(arguments.data / "eval" / "video"):
            rows.append(evaluate(clip, Path(name), arguments.model))
            print(json.dumps(rows[-1]), flush=True)
    spec = find_model(arguments.model)
    text = show(rows)
    print(text)
    replace_figures("weights/README.md", spec.name, text)


def show(rows: list[dict[str, Any]]) -> str:
    """The tables of the model card."""
    by_level = []
    for q in LEVELS:
        points = [row["levels"][q] for row in rows]
        peers = [[interpolated(row[peer], row["levels"][q]["psnr_db"]) for row in rows] for peer in PEERS]
        means = [float(np.mean([p[key] for p in points])) for key in ("psnr_db", "ssim", "bits_per_pixel")]
        by_level.append(
            [f"quality {q}", f"{means[0]:.2f}", f"{means[1]:.4f}", f"{means[2]:.4f}"]
            + [f"{np.mean(p):.4f}" for p in peers]
        )
    head = ["mean of the clips", "PSNR, dB", "SSIM", "bits per pixel"]
    first = markdown([*head, *(f"{peer} medium at equal PSNR" for peer in PEERS)], by_level)
    body = [
        [row["clip"], str(row["frames"])]
        + [f"{row['levels'][q]['psnr_db']:.2f} / {row['levels'][q]['bits_per_pixel']:.4f}" for q in LEVELS]
        + [f"{row[f'bd_rate_{peer}']:+.0%}" for peer in PEERS]
        for row in rows
    ]
    rates = [f"{np.mean([row[f'bd_rate_{peer}'] for row in rows]):+.0%}" for peer in PEERS]
    body.append(["**mean**", str(sum(row["frames"] for row in rows)), *[""] * len(LEVELS), *rates])
    columns = ["PSNR / bits per pixel", "frames", *(f"quality {q}" for q in LEVELS)]
    second = markdown([*columns, *(f"BD-rate to {peer} medium" for peer in PEERS)], body)
    loss = np.mean([row["exact_psnr_db"] - row["levels"][LEVELS[-1]]["psnr_db"] for row in rows])
    return f"{first}\n\n{second}\n\nRounding costs {loss:.2f} dB at the highest quality."


def interpolated(points: Curve, psnr_db: float) -> float:
    """Rate of a peer at a PSNR, linear in log rate; at the ends, that of the end."""
    rates, values = zip(*sorted(points, key=lambda p: p[1]), strict=True)
    return float(np.exp(np.interp(psnr_db, values, np.log(rates))))


if __name__ == "__main__":
    main()
