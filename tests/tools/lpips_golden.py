"""Golden LPIPS values from the public `lpips` package, on trunks of seeded random weights.

Run once, in a throwaway environment with torch, scipy, tqdm and `pip install --no-deps lpips` (0.1.4);
it needs torchvision, which is stubbed here. Writes tests/metrics/lpips_golden.json.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
from lpips_trunks import random_frames, random_trunk

from cvvae_cli.metrics.lpips import alexnet_features, vgg_features

BUILD = {"alex": alexnet_features, "vgg": vgg_features}


def stub(net: str) -> object:
    """What torchvision's model function gives: something with `features`, here ours with random weights."""
    features = BUILD[net]()
    features.load_state_dict({n.removeprefix("features."): t for n, t in random_trunk(net).items()})
    # the package walks past the last ReLU: torchvision's list ends with a pooling layer
    return types.SimpleNamespace(features=torch.nn.Sequential(*features, torch.nn.MaxPool2d(2, 2)))


def main() -> None:
    models = types.ModuleType("torchvision.models")
    models.alexnet = lambda pretrained: stub("alex")
    models.vgg16 = lambda pretrained: stub("vgg")
    torchvision = types.ModuleType("torchvision")
    torchvision.models = models
    sys.modules |= {"torchvision": torchvision, "torchvision.models": models}
    import lpips

    values = {}
    for net in BUILD:
        network = lpips.LPIPS(net=net, version="0.1", verbose=False)
        with torch.no_grad():
            x, y = (torch.from_numpy(f).permute(0, 3, 1, 2) / 127.5 - 1 for f in random_frames())
            values[net] = network(x, y).flatten().tolist()
    path = Path(__file__).parent.parent / "metrics" / "lpips_golden.json"
    path.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
