"""`make demo`: a clip goes to a .cvl file and back through the commands a user types; table and picture."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from make_clip import make_clip
from rich.console import Console
from rich.table import Table

from cvvae_cli.cli.console import bytes_text
from cvvae_cli.metrics import psnr, ssim
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.reader import open_source

DIFFERENCE_GAIN = 8
SHOWN = {"psnr_db": psnr, "ssim": ssim}


def run(*arguments: str) -> dict[str, object]:
    """Run a cvvae command as a user would; give its JSON."""
    command = [sys.executable, "-m", "cvvae_cli", *arguments]
    print("$ cvvae", " ".join(arguments), flush=True)
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def compare(source: Path, decoded: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Metrics of every frame; and the frame of median PSNR as source, decoded and amplified difference."""
    values: dict[str, list[float]] = {name: [] for name in SHOWN}
    for a, b in paired(source, decoded):
        for name, metric in SHOWN.items():
            values[name].extend(metric(a.rgb, b.rgb))
    order = np.argsort(values["psnr_db"])
    median, seen = int(order[len(order) // 2]), 0
    for a, b in paired(source, decoded):
        if median < seen + len(a):
            picture = side_by_side(a.rgb[median - seen], b.rgb[median - seen])
            break
        seen += len(a)
    return {name: np.array(v) for name, v in values.items()}, picture


def paired(source: Path, decoded: Path) -> Iterator[tuple[FrameBatch, FrameBatch]]:
    """The frames of both, whose times must agree."""
    with open_source(source) as first, open_source(decoded) as second:
        tick = float(max(first.info.time_base, second.info.time_base))  # Matroska counts milliseconds
        for a, b in zip(first, second, strict=True):
            if max(abs(times(a, first.info) - times(b, second.info))) > tick:
                sys.exit("the timestamps of the decoded clip differ from those of the source")
            yield a, b


def times(batch: FrameBatch, info: VideoInfo) -> np.ndarray:
    """Presentation times of frames in seconds."""
    return batch.pts.astype(np.float64) * float(info.time_base)


def side_by_side(source: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    difference = np.abs(source.astype(int) - decoded.astype(int)) * DIFFERENCE_GAIN
    return np.concatenate([source, decoded, np.minimum(difference, 255).astype(np.uint8)], axis=1)


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    clip, cvl, decoded = folder / "clip.mp4", folder / "clip.cvl", folder / "decoded.mp4"
    lossless = folder / "decoded.mkv"
    make_clip(clip)
    encoded = run("encode", str(clip), str(cvl), "--json", "--force")
    run("decode", str(cvl), str(decoded), "--json", "--force")
    exact = run("decode", str(cvl), str(lossless), "--codec", "ffv1", "--json", "--force")
    metrics, picture = compare(clip, lossless)
    psnr = metrics["psnr_db"]
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame.save(folder / "comparison.png")
    table = Table(title="cvvae demo", show_header=False, title_justify="left", title_style="bold")
    peak = max(int(encoded["peak_memory_bytes"]), int(exact["peak_memory_bytes"]))  # type: ignore[call-overload]
    raw = encoded["frames"] * encoded["width"] * encoded["height"] * 3  # type: ignore[operator]
    rows = {
        "clip": f"{encoded['frames']} frames of {encoded['width']}x{encoded['height']}, with sound",
        "raw RGB": bytes_text(raw),
        "source file (H.264, crf 8)": bytes_text(encoded["input_bytes"]),
        ".cvl file": f"{bytes_text(encoded['output_bytes'])}, "
        f"of that sound {bytes_text(encoded['side_bytes'])}",
        "ratio": f"{raw / encoded['video_bytes']:.0f} to raw, "
        f"{encoded['input_bytes'] / encoded['output_bytes']:.1f} to the source file",
        "bits per pixel": f"{encoded['bits_per_pixel']:.4f}",
        "PSNR": f"{psnr.mean():.2f} dB (frames: {psnr.min():.2f} to {psnr.max():.2f})",
        "SSIM": f"{metrics['ssim'].mean():.4f}",
        "encode": f"{encoded['encode_fps']:.1f} frames per second",
        "decode": f"{exact['decode_fps']:.1f} frames per second",
        "peak memory": bytes_text(peak),
        "model": f"{encoded['model']} on {encoded['device']}, {encoded['dtype']}",
        "picture": f"{folder / 'comparison.png'}: source, decoded, difference x {DIFFERENCE_GAIN} "
        "of the frame with median PSNR",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo"))
