"""LPIPS, the learned perceptual distance (Zhang, Isola, Efros, Shechtman, Wang 2018), version 0.1.

A trunk trained on ImageNet (torchvision's AlexNet or VGG16, fetched on first use) and heads of a few KB,
which ship (BSD licence, weights/LICENSE-lpips).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cvvae_cli.checkpoint import read_checkpoint
from cvvae_cli.download import download, hash_of
from cvvae_cli.errors import CvvaeError, WeightsError
from cvvae_cli.metrics.metric import Metric, MetricOptions, Pair
from cvvae_cli.store import cache_folder, shipped

logger = logging.getLogger("cvvae")
HEADS = "lpips-heads.safetensors"
TRUNKS = {  # the official addresses; the hash begins with what the name says
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of inputs in [-1, 1]
VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def alexnet_features() -> nn.Sequential:
    """Layers and numbering of torchvision's `alexnet().features`, to its last ReLU."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def vgg_features() -> nn.Sequential:
    """Layers and numbering of torchvision's `vgg16().features`, to its last ReLU."""
    layers: list[nn.Module] = []
    channels = 3
    for number, stage in enumerate(VGG_STAGES):
        layers += [nn.MaxPool2d(2, 2)] if number else []
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


FEATURES = {"alex": (alexnet_features, (1, 4, 7, 9, 11)), "vgg": (vgg_features, (3, 8, 15, 22, 29))}


class LpipsNetwork(nn.Module):
    """Distance of two batches of frames; `taps` are the layers whose outputs are compared."""

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """`trunk` as torchvision names it, `features.N.weight`; `heads` NET.N, (C,) each."""
        super().__init__()
        build, self.taps = FEATURES[net]
        self.features = build()
        state = {n.removeprefix("features."): t for n, t in trunk.items() if n.startswith("features.")}
        try:
            self.features.load_state_dict(state, strict=True)
        except RuntimeError:
            raise WeightsError(
                f"these are not the weights of the LPIPS trunk {net}", hint=f"fetch {TRUNKS[net]}"
            ) from None
        self.heads = [heads[f"{net}.{n}"] for n in range(len(self.taps))]
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])
        self.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] twice → (N,)."""
        pair = (torch.cat([x, y]) - self.shift) / self.scale
        total = x.new_zeros(len(x))
        for number, layer in enumerate(self.features):
            pair = layer(pair)
            if number in self.taps:
                unit = pair / (pair.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
                first, second = unit.chunk(2)
                head = self.heads[self.taps.index(number)].to(x.device)
                total += torch.einsum("nchw,c->nhw", (first - second).square(), head).mean(dim=(1, 2))
        return total


class Lpips(Metric):
    """Mean over frames of LPIPS with the AlexNet trunk; 0 is best."""

    higher_is_better = False
    net = "alex"

    def __init__(self, options: MetricOptions) -> None:
        """Raises WeightsError or DownloadError where the trunk cannot be had."""
        super().__init__(options)
        path = trunk_file(self.net, options.lpips_weights)
        self.network = load_network(self.net, path).to(options.device)

    def of_frames(self, pair: Pair) -> Tensor:
        frames = zip(*pair.planes, strict=True)  # one at a time bounds the memory of VGG
        with torch.inference_mode():
            return torch.cat([self.network(x[None] / 127.5 - 1, y[None] / 127.5 - 1) for x, y in frames])


class LpipsVgg(Lpips):
    """Mean over frames of LPIPS with the VGG16 trunk; 0 is best."""

    net = "vgg"


@cache
def load_network(net: str, path: Path) -> LpipsNetwork:
    """The network of a converted trunk. Raises WeightsError for one that cannot be read."""
    heads = shipped(HEADS)
    if heads is None:
        raise WeightsError(f"{HEADS} is missing", hint="install cvvae again")
    return LpipsNetwork(net, read_checkpoint(path), load_file(heads)).eval()


def trunk_file(net: str, given: Path | None = None) -> Path:
    """The trunk as safetensors: of `given` (a .pth or .safetensors file), else of the cache, else fetched.

    What was converted once is kept in the cache beside its hash, and checked whenever it is used.
    """
    folder = cache_folder() / "lpips"
    try:
        if given is not None:
            if given.suffix == ".safetensors":
                return given
            return convert(given, folder / f"given-{net}-{hash_of(given)[:16]}")
        converted = folder / Path(TRUNKS[net]).stem
        if is_sound(converted):
            return converted.with_suffix(".safetensors")
        source = folder / Path(TRUNKS[net]).name
        prefix = source.stem.rsplit("-", 1)[1]
        if not (source.is_file() and hash_of(source).startswith(prefix)):
            download(TRUNKS[net], source, sha256_prefix=prefix)
        path = convert(source, converted)
        source.unlink()
        return path
    except (CvvaeError, OSError) as error:
        hint = f"fetch {TRUNKS[net]} elsewhere and pass --lpips-weights PATH"
        raise WeightsError(f"no LPIPS with {net}: {error}", hint=hint) from None


def convert(source: Path, target: Path) -> Path:
    """A checkpoint of torchvision → safetensors with the convolutions alone, never executing a pickle."""
    state = read_checkpoint(source)
    features = {n: t.contiguous() for n, t in state.items() if n.startswith("features.")}
    path = target.with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file(features, part)
    part.replace(path)
    target.with_suffix(".sha256").write_text(hash_of(path))
    return path


def is_sound(target: Path) -> bool:
    """Whether a converted trunk lies in the cache, unchanged since it was made."""
    path, note = target.with_suffix(".safetensors"), target.with_suffix(".sha256")
    return path.is_file() and note.is_file() and note.read_text() == hash_of(path)


def trunk_hash(net: str, given: Path | None = None) -> str:
    """SHA-256 of the trunk that is used, for the record."""
    return hash_of(trunk_file(net, given))
