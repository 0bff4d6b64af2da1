"""`make benchmark`: the network against this machine's own convolution rate, in the same run.

`memory` (make benchmark-memory): peak memory of encoding and decoding 300 and 1500 frames of 640x360.
`metrics` (make benchmark-metrics): speed of PSNR, SSIM and the others.
`seek` (make benchmark-seek): how long a single frame takes, wherever it lies.
`paper` (make benchmark-paper): the paper's network at full size beside a plain one.
`paper-memory`: its peak memory on a short and a long clip of 1280x720, narrowed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from figures import markdown, replace_figures
from make_clip import make_clip
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))
import plain_sd21

from cvvae_cli.access import decode_frames
from cvvae_cli.codec import encode_file, peak_memory_bytes
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine.device import DTYPES, choose_placement, keep_freed_memory
from cvvae_cli.engine.load import make_engine
from cvvae_cli.latents import model_of, read_latents
from cvvae_cli.metrics import METRICS, Metric, MetricOptions, Pair
from cvvae_cli.metrics.lpips import FEATURES, HEADS, LpipsNetwork
from cvvae_cli.models import winograd
from cvvae_cli.models.cvvae_sd21 import CvVaeSd21, Sd21Config
from cvvae_cli.models.imported import import_weights
from cvvae_cli.models.registry import Weights, find_model
from cvvae_cli.options import EncodeOptions
from cvvae_cli.store import shipped

WIDTH, HEIGHT = 848, 480
REPEATS = 5
WORST = 5  # places that are measured again


def rate_of(run: Callable[[], object], flop: float) -> float:
    """FLOP per second: the median of several runs."""
    run()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return flop / sorted(seconds)[REPEATS // 2]


def convolution_rate(channels: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP per second of a 3x3x3 convolution as the network has it, channels last."""
    layout = torch.channels_last_3d
    convolution = torch.nn.Conv3d(channels, channels, 3, padding=(0, 1, 1)).to(
        device, dtype, memory_format=layout
    )
    x = torch.randn(1, channels, 6, HEIGHT // 8, WIDTH // 8).to(device, dtype, memory_format=layout)
    flop = 2 * channels**2 * 27 * 4 * (HEIGHT // 8) * (WIDTH // 8)
    return rate_of(lambda: synchronized(convolution(x)), flop)


def synchronized(x: torch.Tensor) -> torch.Tensor:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return x


@torch.inference_mode()
def network() -> None:
    placement = choose_placement()
    spec = find_model("compact")
    keep_freed_memory()
    model = Weights(spec).build().to(placement.device).compute_in(placement.dtype)
    frames = spec.chunk_latents * spec.geometry.frames
    pixels = frames * WIDTH * HEIGHT
    video = torch.rand(1, frames, HEIGHT, WIDTH, 3).permute(0, 4, 1, 2, 3).to(placement.device)
    latents = model.encode_groups(video)
    channels = model.config.coarse_channels
    rates = {
        name: convolution_rate(channels, dtype, placement.device)
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }
    best = max(rates.values())
    machine = (
        f"`{spec.name}` on {machine_name(placement.device)}, {placement.dtype_name}, {frames} frames of "
        f"{WIDTH}x{HEIGHT}. Convolutions 3x3x3 of {channels} channels reach "
        + " and ".join(f"{rate / 1e12:.3f} TFLOP/s in {name}" for name, rate in rates.items())
        + " here."
    )
    rows = []
    for name, run in (
        ("encode", lambda: synchronized(model.encode_groups(video, {}))),
        ("decode", lambda: synchronized(model.decode_groups(latents, {}))),
    ):
        with FlopCounterMode(display=False) as counter, patch.object(winograd, "pays", return_value=False):
            run()  # as direct convolutions would: what is saved shows as speed
        flop = counter.get_total_flops()
        rate = rate_of(run, flop)
        shares = (f"{rate / rates['bf16']:.0%}", f"{rate / best:.0%}")
        speed = rate / flop * pixels / 1e6
        rows.append([name, f"{flop / pixels:,.0f}", f"{rate / 1e12:.3f}", *shares, f"{speed:.2f}"])
    head = [
        "",
        "FLOP per pixel, directly",
        "TFLOP/s",
        "of the bf16 convolution",
        "of the faster convolution",
        "Mpixel/s",
    ]
    text = f"{machine}\n\n{markdown(head, rows)}"
    print(text)
    replace_figures("README.md", "benchmark", text)


def machine_name(device: torch.device) -> str:
    """What computes: the GPU's name, or the CPU's with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    features = torch.cpu.get_capabilities()
    units = [name for name in ("amx_bf16", "avx512_bf16", "avx512_f") if features.get(name)]
    name = names[0] if names else platform.machine()
    return f"{name}, {torch.get_num_threads()} cores, {units[0] if units else 'no AVX-512'}"


def metrics() -> None:
    """Speed of the metrics on random frames of 848x480, each alone and the usual four together."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 8, HEIGHT, WIDTH, 3), np.uint8)
    options = MetricOptions(device=choose_placement().device)
    rows = []
    groups = [
        ("psnr_db", "ssim", "flicker", "seam"),
        *((n,) for n in ("psnr_db", "ssim", "ms_ssim", "flicker")),
    ]
    for names in groups:
        running = [METRICS[name](options) for name in names]
        rows.append([", ".join(names), f"{speed_of(running, frames, options):.1f}"])
    for net in ("alex", "vgg"):
        network = LpipsNetwork(net, trunk_like(net), load_file(str(shipped(HEADS)))).to(options.device)
        x = torch.zeros(1, 3, HEIGHT, WIDTH, device=options.device)
        rate = rate_of(lambda network=network, x=x: synchronized(network(x, x)), WIDTH * HEIGHT)
        rows.append([f"lpips ({net}; random weights, same cost)", f"{rate / 1e6:.2f}"])
    text = f"{machine_name(options.device)}, frames of {WIDTH}x{HEIGHT}.\n\n" + markdown(
        ["", "Mpixel/s"], rows
    )
    print(text)
    replace_figures("README.md", "metrics", text)


def speed_of(running: list[Metric], frames: np.ndarray, options: MetricOptions) -> float:
    """Mpixel/s of metrics that share what they derive from a pair of batches."""

    def once() -> None:
        pair = Pair(*frames, options.device)
        for metric in running:
            metric.add(pair)

    return rate_of(once, len(frames[0]) * WIDTH * HEIGHT) / 1e6


def trunk_like(net: str) -> dict[str, torch.Tensor]:
    return {f"features.{name}": t for name, t in FEATURES[net][0]().state_dict().items()}


def paper() -> None:
    """`cvvae-sd21` at full size, random weights, 17x256x256, beside the plain network of the tests.

    Each part runs in a process of its own, whose peak memory is its own.
    """
    placement = choose_placement()
    rows, seconds = [], {}
    for kind, dtype in (("plain", "fp32"), ("ours", placement.dtype_name)):
        command = [sys.executable, __file__, "paper-part", kind, dtype]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        seconds[kind] = found
        print(kind, dtype, found, flush=True)
    plain, ours = seconds["plain"], seconds["ours"]
    for what in ("encode", "decode"):
        first, second = plain[what], ours[what]
        rows.append([what, f"{first:.1f} s", f"{second:.1f} s", f"{first / second:.1f}"])
    memory_cells = [f"{found['peak'] / 1e9:.2f} GB" for found in (plain, ours)]
    rows.append(["peak memory", *memory_cells, f"{plain['peak'] / ours['peak']:.1f}"])
    db = [bf16_quality(what) for what in ("encode", "decode")]
    name = placement.dtype_name
    text = (
        f"{machine_name(placement.device)}; 17 frames of 256x256, 182 M random weights, ours in {name}.\n\n"
        + markdown(["", "plain fp32, contiguous", f"ours, {name}", "ratio"], rows)
        + f"\n\nbf16 against fp32 (17 frames of 64x64): {db[0]:.1f} dB encoding, {db[1]:.1f} dB decoding."
    )
    print(text)
    replace_figures("README.md", "paper", text)


@torch.inference_mode()
def paper_part(kind: str, dtype: str) -> None:
    """Time one network, and print its seconds and peak memory as JSON."""
    device = choose_placement().device
    torch.manual_seed(0)
    network = CvVaeSd21().eval().to(device)
    x = torch.rand(1, 3, 17, 256, 256, device=device) * 2 - 1
    if kind == "plain":
        state = {name: t.contiguous() for name, t in network.state_dict().items()}
        del network
        runs = {
            "encode": lambda: plain_sd21.encode_moments(state, x)[:, :4],
            "decode": lambda: plain_sd21.decode(state, torch.randn(1, 4, 5, 32, 32, device=device)),
        }
    else:
        network.compute_in(DTYPES[dtype])
        runs = {
            "encode": lambda: network.encode(x),
            "decode": lambda: network.decode(torch.randn(1, 4, 5, 32, 32, device=device)),
        }
    found: dict[str, float] = {}
    for name, run in runs.items():
        if device.type == "cuda":
            synchronized(run())
        began = time.perf_counter()
        synchronized(run())
        found[name] = time.perf_counter() - began
    found["peak"] = peak_memory_bytes(choose_placement())
    print(json.dumps(found))


@torch.inference_mode()
def bf16_quality(what: str) -> float:
    """PSNR of the bf16 result against fp32; peak is the range of the fp32 result."""
    torch.manual_seed(0)
    network = CvVaeSd21().eval()
    x = torch.rand(1, 3, 17, 64, 64) * 2 - 1 if what == "encode" else torch.randn(1, 4, 5, 8, 8)
    exact = getattr(network, what)(x)
    rough = getattr(network.compute_in(torch.bfloat16), what)(x)
    return float(20 * torch.log10((exact.max() - exact.min()) / (rough - exact).square().mean().sqrt()))


def memory() -> None:
    """Peak memory of `compact`; it must not grow with the length."""
    with tempfile.TemporaryDirectory() as name:
        rows = peaks_of(Path(name), (300, 1500), (640, 360), [])
    text = markdown(["640x360", "300 frames", "1500 frames", "ratio"], rows)
    print(text)
    replace_figures("README.md", "memory", text)


def peaks_of(
    folder: Path, lengths: tuple[int, int], size: tuple[int, int], options: list[str]
) -> list[list[str]]:
    """Run the commands as a user would on clips of two lengths; each process reports its own peak."""
    peaks: dict[str, list[int]] = {"encode": [], "decode": []}
    for frames in lengths:
        clip, cvl, back = (folder / f"{frames}{suffix}" for suffix in (".mp4", ".cvl", "-back.mp4"))
        make_clip(clip, frames, *size)
        for command, source, output in (("encode", clip, cvl), ("decode", cvl, back)):
            line = [sys.executable, "-m", "cvvae_cli", command, str(source), str(output), "--json"]
            line += options if command == "encode" else []
            report = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout)
            peaks[command].append(report["peak_memory_bytes"])
            print(f"{command} {frames} frames: {report['peak_memory_bytes'] / 1e6:.0f} MB", flush=True)
    return [
        [command, f"{short / 1e6:.0f} MB", f"{long / 1e6:.0f} MB", f"{long / short:.3f}"]
        for command, (short, long) in peaks.items()
    ]


def seek() -> None:
    """Seconds to a single frame of a clip of 848x480: of all places in two periods, and the worst again."""
    placement = choose_placement()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        clip, path = Path(name) / "clip.mp4", Path(name) / "clip.cvl"
        spec = find_model("compact")
        frames = 4 * 3 * spec.period
        make_clip(clip, frames, WIDTH, HEIGHT)
        encode_file(clip, path, EncodeOptions())
        with open_cvl(path) as cvl:
            spec, weights = model_of(cvl.header)
            engine = make_engine(spec, weights.build, placement)

            def shown(frame: int) -> float:
                return seconds_of(lambda: decode_frames(cvl, weights, engine, range(frame, frame + 1)))

            def symbols(frame: int) -> float:
                needed = engine.needed(range(frame, frame + 1), HEIGHT // 8, WIDTH // 8)
                chunks = range(needed.start // spec.chunk_latents, -(-needed.stop // spec.chunk_latents))
                return seconds_of(lambda: read_latents(cvl, weights, chunks, needed.stop))

            shown(frames // 2)
            found = {frame: shown(frame) for frame in range(frames // 3, frames)}
            slowest = sorted(found, key=found.__getitem__)[-WORST:]
            worst = {frame: min(shown(frame) for _ in range(REPEATS)) for frame in slowest}
            frame = max(worst, key=worst.__getitem__)
            alone = min(symbols(frame) for _ in range(REPEATS))
    middle = sorted(found.values())[len(found) // 2]
    rows = [[f"{middle:.2f} s", f"{worst[frame]:.2f} s", f"{alone:.2f} s"]]
    text = (
        f"`{spec.name}` on {machine_name(placement.device)}, {placement.dtype_name}, {frames} frames of "
        f"{WIDTH}x{HEIGHT} at the default quality.\n\n"
        + markdown(["a frame, median of all places", "the worst place", "symbols of that alone"], rows)
    )
    print(text)
    replace_figures("README.md", "seek", text)


def seconds_of(run: Callable[[], Iterable[object]]) -> float:
    """Until all is there that it gives."""
    began = time.perf_counter()
    for _ in run():
        pass
    return time.perf_counter() - began


def paper_memory() -> None:
    """Peak memory of `cvvae-sd21`, narrowed to 32 channels with random weights, on 1280x720."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CVVAE_WEIGHTS"] = str(folder / "weights")
        state = CvVaeSd21(Sd21Config(ch=32, ch_mult=(1, 1, 1, 1))).state_dict()
        save_file({n: t.contiguous() for n, t in state.items()}, folder / "narrow.safetensors")
        import_weights(folder / "narrow.safetensors", "narrow", dtype="fp32")
        rows = peaks_of(folder, (50, 200), (1280, 720), ["--model", "narrow"])
    text = markdown(["1280x720, 32 channels", "50 frames", "200 frames", "ratio"], rows)
    print(text)
    replace_figures("README.md", "paper-memory", text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = {
        "network": network,
        "memory": memory,
        "metrics": metrics,
        "seek": seek,
        "paper": paper,
        "paper-memory": paper_memory,
    }
    parser.add_argument("kind", choices=[*kinds, "paper-part"], nargs="?", default="network")
    parser.add_argument("part", nargs="*")
    arguments = parser.parse_args()
    paper_part(*arguments.part) if arguments.kind == "paper-part" else kinds[arguments.kind]()
