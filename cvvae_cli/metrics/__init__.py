"""How near decoded frames are to their source. METRICS maps names to metrics; units are part of the names.

Each takes pairs of batches of uint8 RGB frames as they stream by, on any device, and gives a value per frame
and one for the clip.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from cvvae_cli.errors import ConfigError, WeightsError
from cvvae_cli.metrics.lpips import Lpips, LpipsVgg
from cvvae_cli.metrics.metric import Borders, Metric, MetricOptions, Pair
from cvvae_cli.metrics.psnr import LumaPsnr, PooledPsnr, Psnr, psnr
from cvvae_cli.metrics.ssim import MultiScaleSsim, Ssim, ssim
from cvvae_cli.metrics.temporal import DifferencePsnr, Flicker, Seam, TileSeam
from cvvae_cli.metrics.vmaf import Vmaf

logger = logging.getLogger("cvvae")
METRICS: dict[str, type[Metric]] = {
    "psnr_db": Psnr,
    "psnr_db_pooled": PooledPsnr,
    "psnr_y_db": LumaPsnr,
    "ssim": Ssim,
    "ms_ssim": MultiScaleSsim,
    "lpips": Lpips,
    "lpips_vgg": LpipsVgg,
    "flicker": Flicker,
    "difference_psnr_db": DifferencePsnr,
    "seam": Seam,
    "tile_seam": TileSeam,
    "vmaf": Vmaf,
}
EXTRA = {"lpips_vgg", "vmaf"}  # slow, or of another package: only when asked for
DEFAULT_METRICS = tuple(name for name in METRICS if name not in EXTRA)
__all__ = ["DEFAULT_METRICS", "METRICS", "Borders", "Metric", "MetricOptions", "Pair", "psnr", "ssim"]


def require_metrics(names: Iterable[str]) -> None:
    """Raise ConfigError for a name that is none."""
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"no metric is called {name!r}", hint=f"known metrics: {', '.join(METRICS)}")


def available(names: Iterable[str], options: MetricOptions) -> tuple[str, ...]:
    """Those of the names that can be had here; says once which cannot, and how to get them."""
    found = []
    for name in names:
        try:
            METRICS[name](options)
        except WeightsError as error:
            logger.warning("%s stays empty: %s (%s)", name, error, error.hint)
        else:
            found.append(name)
    return tuple(found)
