"""A KB-sized model for tests. `python tests/tiny.py` made its golden weights and file, which never change."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.models.compact import Compact, CompactConfig
from cvvae_cli.models.registry import MODELS, NETWORK_PREFIX, ModelSpec, build_compact
from cvvae_cli.train.tables import fit_tables
from cvvae_cli.types import FrameBatch, LatentGeometry

GOLDEN = Path(__file__).parent / "golden"
GAIN = (20.0, 2.0, 1.0, 0.5)
EVERY = 6  # frames kept of the golden clip
CONFIG = CompactConfig(
    latent_channels=4, fine_channels=8, coarse_channels=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1)
)


def tiny_spec() -> ModelSpec:
    """The tiny model, like one of the registry."""
    data = (GOLDEN / "tiny-1.safetensors").read_bytes()
    return ModelSpec(
        name="tiny-1",
        geometry=LatentGeometry(4, 4, 8),
        build=build_compact,
        weights_file="tiny-1.safetensors",
        weights_sha256=hashlib.sha256(data).hexdigest(),
        chunk_latents=4,
        coder="context-1",
        period=8,
        encode_context=CONFIG.encode_context,
        decode_context=CONFIG.decode_context,
        encode_halo=CONFIG.encode_halo,
        decode_halo=CONFIG.decode_halo,
    )


def random_network(config: CompactConfig = CONFIG, seed: int = 0) -> Compact:
    """A network in which every layer matters: nothing is left at zero."""
    torch.manual_seed(seed)
    network = Compact(config).channels_last()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            fan_in = module.weight[0].numel()
            torch.nn.init.normal_(module.weight, std=0.8 / fan_in**0.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    basis, _ = torch.linalg.qr(torch.randn(768, config.latent_channels))
    smooth = torch.linspace(0, 1, 768)[:, None] * torch.arange(1, config.latent_channels + 1) * 3.14
    basis, _ = torch.linalg.qr(torch.cos(smooth) + 0.05 * basis)
    network.start_from_principal_components(torch.zeros(768), basis, 0.9)
    return network.eval().requires_grad_(False)


def moving_picture(frames: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured waves that move, with some noise: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(x / (5 + 3 * c) + t / 4) + np.cos(y / (7 + 2 * c) - t / 5) for c in range(3)]
    noise = rng.normal(0, 3, (frames, height, width, 3))
    return np.clip(np.stack(waves, -1) * 55 + 128 + noise, 0, 255).astype(np.uint8)


def batches_of(rgb: np.ndarray, size: int = 8, first_pts: int = 0, ticks: int = 512) -> list[FrameBatch]:
    """Frames as the batches that a reader gives."""
    pts = np.arange(len(rgb), dtype=np.int64) * ticks + first_pts
    return [FrameBatch(rgb[i : i + size], pts[i : i + size]) for i in range(0, len(rgb), size)]


def make_weights() -> None:
    network = random_network()
    network.load_state_dict({n: t.half().float() for n, t in network.state_dict().items()})
    gain = np.array(GAIN, np.float32)
    clips = [
        torch.from_numpy(moving_picture(17, 64, 64, seed)).permute(3, 0, 1, 2)[None] for seed in range(6)
    ]
    symbols = [
        Quantizer(gain).quantize(network.encode(c.contiguous().float() / 127.5 - 1)[0].numpy()) for c in clips
    ]
    arrays = {NETWORK_PREFIX + n: t.half().numpy() for n, t in network.state_dict().items()}
    arrays |= {"quantizer.gain": gain} | fit_tables(symbols).to_tensors()
    metadata = {"model": "tiny-1", "config": json.dumps(CONFIG.to_dict())}
    (GOLDEN / "tiny-1.safetensors").write_bytes(save(arrays, metadata))


def make_golden() -> None:
    """Write the golden file of the present format version, its symbols and its frames."""
    from cvvae_cli import codec, latents
    from cvvae_cli.container.reader import open_cvl
    from cvvae_cli.engine.device import choose_placement
    from cvvae_cli.engine.stream import Engine
    from cvvae_cli.models import registry
    from cvvae_cli.options import EncodeOptions
    from cvvae_cli.types import VideoInfo
    from cvvae_cli.video.writer import OutputOptions, VideoWriter

    MODELS["tiny-1"] = tiny_spec()
    registry.WEIGHTS_FOLDERS = (*registry.WEIGHTS_FOLDERS, GOLDEN)
    source, golden = GOLDEN / "source.mkv", GOLDEN / "v1.0.cvl"
    rgb = moving_picture(38, 52, 34, seed=9)
    rgb[16:] = 255 - rgb[16:]  # a change that only escapes can code
    info = VideoInfo(52, 34, Fraction(25), Fraction(1, 1000), len(rgb))
    with VideoWriter(source, source, info, OutputOptions(codec="ffv1"), None) as video:
        for batch in batches_of(rgb, ticks=40):
            video.write(batch)
    options = EncodeOptions(model="tiny-1", device="cpu", dtype="fp32", force=True)
    codec.encode_file(source, golden, options)
    with open_cvl(golden) as cvl:
        spec, weights = latents.model_of(cvl.header)
        chunks = list(latents.read_latents(cvl, weights))
        placement = choose_placement("cpu", "fp32")
        engine = Engine(spec, weights.build, placement)
        frames = np.concatenate([b.rgb for b in engine.decode_stream(chunks, 52, 34)])
    symbols = np.concatenate([Quantizer(weights.gain()).quantize(c.latents) for c in chunks])
    np.savez_compressed(GOLDEN / "v1.0.npz", symbols=symbols.astype(np.int16), frames=frames[::EVERY])
    source.unlink()


if __name__ == "__main__":
    make_weights()
    make_golden()
