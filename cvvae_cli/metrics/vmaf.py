"""VMAF v0.6.1 (Netflix) as the kept library `vmaf-torch` computes it; the extra `cvvae[vmaf]`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.errors import WeightsError
from cvvae_cli.metrics.metric import LUMA, Metric, MetricOptions, Pair


class Vmaf(Metric):
    """Mean over frames of VMAF of BT.709 luma in limited range, not clipped to [0, 100]."""

    def __init__(self, options: MetricOptions) -> None:
        """Raises WeightsError where the library is not installed."""
        super().__init__(options)
        try:
            from vmaf_torch import VMAF
        except ImportError:
            raise WeightsError("vmaf-torch is not installed", hint="pip install 'cvvae[vmaf]'") from None
        self.network: Any = VMAF().to(options.device).eval()
        self._last: Tensor | None = None
        self._features: list[Tensor] = []  # adm, motion, four of vif

    @torch.inference_mode()
    def of_frames(self, pair: Pair) -> Tensor:
        references, decoded = (luma(planes) for planes in pair.planes)
        for reference, other in zip(references, decoded, strict=True):
            before = reference if self._last is None else self._last
            motion = self.network.motion.motion(torch.stack([before, reference]))[1:]
            adm = self.network.compute_adm_score(reference[None], other[None])
            vif = self.network.compute_vif_features(reference[None], other[None])
            self._features.append(torch.cat([adm, motion, vif], dim=-1))
            self._last = reference
        return torch.full((len(pair),), torch.nan)

    def per_frame(self) -> np.ndarray:
        """float64 (T,): the motion of a frame is the smaller of that from the last and that to the next."""
        if not self._features:
            return np.empty(0)
        features = torch.cat(self._features)
        motion = features[:, 1].clone()
        features[:-1, 1] = torch.minimum(motion[:-1], motion[1:])
        features[0, 1] = 0
        scores: np.ndarray = self.network.svm(features).flatten().double().cpu().numpy()
        return scores


def luma(planes: Tensor) -> Tensor:
    """(T, 3, H, W) in [0, 255] → (T, 1, H, W) in [16, 235]."""
    weights = planes.new_tensor(LUMA) * (219 / 255)
    return torch.einsum("tchw,c->thw", planes, weights)[:, None] + 16
