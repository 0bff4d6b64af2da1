"""`make evaluate`: the figures of the model card. Whole files, through the product's own path.

Clips of DATA/eval/video, scaled to 848x480 by area, at most 64 frames. Beside the model: principal
components of the same number of channels, untrained, coded by the same coder with tables of their own at
several steps and compared at equal bits; and x264 medium at equal PSNR.
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
import torch
from figures import markdown, replace_figures

from cvvae_cli import codec
from cvvae_cli.bitstream.chunk import ChunkCoder
from cvvae_cli.bitstream.coders import ContextCoder
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.metrics.psnr import mean_squared_error, psnr, psnr_of
from cvvae_cli.metrics.ssim import ssim
from cvvae_cli.models.compact import COARSE, TIME, Compact, CompactConfig
from cvvae_cli.models.layers import fold
from cvvae_cli.models.registry import find_model
from cvvae_cli.options import DecodeOptions, EncodeOptions
from cvvae_cli.train.config import DataSection
from cvvae_cli.train.data import ClipSampler, find_sources, principal_components
from cvvae_cli.train.tables import fit_tables
from cvvae_cli.types import FrameBatch, VideoInfo
from cvvae_cli.video.reader import open_source
from cvvae_cli.video.writer import OutputOptions, VideoWriter

WIDTH, HEIGHT, FRAMES = 848, 480, 64
STEPS = (0.6, 0.9, 1.3, 1.9, 2.7, 3.8)
CRFS = (20, 24, 28, 32, 36, 40)


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


def product(clip: Clip, folder: Path, model: str) -> dict[str, float]:
    """Encode a file and decode it again, exactly as a user would."""
    source, cvl, back = folder / "source.mkv", folder / "clip.cvl", folder / "back.mkv"
    write_lossless(clip, source)
    report = codec.encode_file(source, cvl, EncodeOptions(model=model, force=True))
    lossless = DecodeOptions(output=OutputOptions(codec="ffv1"), force=True)
    decoded = codec.decode_file(cvl, back, lossless)
    with open_source(back) as video:
        rgb = np.concatenate([b.rgb for b in video])
    return measure(clip.rgb, rgb) | {
        "bits_per_pixel": report.bits_per_pixel,
        "encode_fps": report.encode_fps,
        "decode_fps": decoded.decode_fps,
    }


def measure(source: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    return {
        "psnr_db": float(psnr(source, decoded).mean()),
        "psnr_db_pooled": float(psnr_of(mean_squared_error(source, decoded).mean())),
        "ssim": float(np.mean([ssim(source[i : i + 1], decoded[i : i + 1]) for i in range(len(source))])),
    }


class PrincipalComponents:
    """The untrained transform codec of a number of channels at several steps."""

    def __init__(self, data: Path, channels: int) -> None:
        section = DataSection(exclude=("*astronaut*",), cache_gib=5)
        sampler = ClipSampler(find_sources((str(data / "train"),), section.exclude), section, seed=1)
        mean, basis = principal_components(sampler, lambda x: fold(x, TIME, COARSE), batches=40)
        training = [sampler.batch(1000 + i, 1, 33, 256) for i in range(40)]
        config = CompactConfig(latent_channels=channels, fine_channels=8, coarse_channels=8)
        self.variants = []
        for step in STEPS:
            network = Compact(config).eval().requires_grad_(False)
            network.start_from_principal_components(mean, basis[:, :channels], step)
            quantizer = Quantizer(np.ones(channels, np.float32))
            symbols = [quantizer.quantize(self.encode(network, video)) for video in training]
            self.variants.append((network, quantizer, ContextCoder(fit_tables(symbols))))

    @staticmethod
    def encode(network: Compact, video: torch.Tensor) -> np.ndarray:
        first = video[:, :, :1].expand(-1, -1, TIME - 1, -1, -1)
        groups = torch.cat([first, video], 2)
        missing = -groups.shape[2] % TIME
        groups = torch.cat([groups, groups[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)
        return network.linear_encode(fold(groups, TIME, COARSE))[0].numpy()

    @torch.inference_mode()
    def curve(self, clip: Clip) -> list[tuple[float, float]]:
        """(bits per pixel, PSNR) at every step; only the coded symbols are counted."""
        video = torch.from_numpy(clip.rgb).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        points = []
        for network, quantizer, context_coder in self.variants:
            symbols = quantizer.quantize(self.encode(network, video))
            coder = ChunkCoder(context_coder, find_model("compact").period)
            bits = sum(8 * len(coder.encode(i, symbols[i : i + 4])) for i in range(0, len(symbols), 4))
            latents = torch.from_numpy(quantizer.dequantize(symbols))[None]
            decoded = [network.decode(part)[0] for part in latents.split(len(symbols), 2)]
            rgb = ((torch.cat(decoded, 1) + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 3, 0)
            rgb = rgb[: len(clip.rgb)].to(torch.uint8).numpy()
            points.append((bits / clip.rgb[..., 0].size, measure(clip.rgb, rgb)["psnr_db"]))
        return sorted(points)


def x264_curve(clip: Clip, folder: Path) -> list[tuple[float, float]]:
    """(bits per pixel of whole files, PSNR) of x264 medium."""
    points = []
    for crf in CRFS:
        path = folder / "x264.mp4"
        with av.open(str(path), "w") as container:
            options = {"crf": str(crf), "preset": "medium"}
            stream = container.add_stream("libx264", rate=clip.info.frame_rate, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for picture in clip.rgb:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        with open_source(path) as video:
            rgb = np.concatenate([b.rgb for b in video])
        points.append((path.stat().st_size * 8 / clip.rgb[..., 0].size, float(psnr(clip.rgb, rgb).mean())))
    return sorted(points)


def psnr_at(points: list[tuple[float, float]], bits_per_pixel: float) -> float:
    """PSNR at a rate, between the points linear in log rate; at the ends, that of the end."""
    rates, values = zip(*points, strict=True)
    return float(np.interp(np.log(bits_per_pixel), np.log(rates), values))


def rate_at(points: list[tuple[float, float]], psnr_db: float) -> float:
    rates, values = zip(*points, strict=True)
    return float(np.exp(np.interp(psnr_db, values, np.log(rates))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    peers = not arguments.no_peers
    channels = find_model(arguments.model).geometry.channels
    components = PrincipalComponents(arguments.data, channels) if peers else None
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clip in read_clips(arguments.data / "eval" / "video"):
            row: dict[str, Any] = {"clip": clip.name, "frames": len(clip.rgb)}
            row |= product(clip, folder, arguments.model)
            if components:
                row["pca_psnr_db"] = psnr_at(components.curve(clip), row["bits_per_pixel"])
                row["x264_bits_per_pixel"] = rate_at(x264_curve(clip, folder), row["psnr_db"])
            print(json.dumps(row), flush=True)
            rows.append(row)
    spec = find_model(arguments.model)
    text = show(rows, spec.name)
    print(text)
    if peers:
        replace_figures("weights/README.md", spec.name, text)


COLUMNS = {
    "frames": ("frames", "d"),
    "psnr_db": ("PSNR, dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "bits_per_pixel": ("bits per pixel", ".4f"),
    "pca_psnr_db": ("principal components at equal bits, dB", ".2f"),
    "x264_bits_per_pixel": ("x264 medium at equal PSNR, bits per pixel", ".4f"),
}


def show(rows: list[dict[str, Any]], model: str) -> str:
    """The table of the model card."""
    columns = {key: shown for key, shown in COLUMNS.items() if key in rows[0]}
    mean: dict[str, Any] = {"clip": "**mean**", "frames": sum(row["frames"] for row in rows)}
    mean |= {key: float(np.mean([row[key] for row in rows])) for key in columns if key != "frames"}
    body = [
        [str(row["clip"]), *(format(row[key], code) for key, (_, code) in columns.items())]
        for row in (*rows, mean)
    ]
    table = markdown([model, *(name for name, _ in columns.values())], body)
    if "pca_psnr_db" not in columns:
        return table
    gain = mean["psnr_db"] - mean["pca_psnr_db"]
    ratio = float(np.exp(np.mean([np.log(r["bits_per_pixel"] / r["x264_bits_per_pixel"]) for r in rows])))
    return (
        f"{table}\n\nOn average {gain:+.2f} dB against untrained principal components at equal bits, and "
        f"{ratio:.1f} times the bits of x264 medium at equal PSNR (geometric mean)."
    )


if __name__ == "__main__":
    main()
