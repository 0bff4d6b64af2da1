"""`--fail-under`: least (or, where less is better, largest) values that means must reach."""

from __future__ import annotations

from collections.abc import Sequence

from cvvae_cli.bench.summary import Row
from cvvae_cli.errors import ConfigError, CvvaeError
from cvvae_cli.metrics import METRICS

SHORT = {"psnr": "psnr_db", "bpp": "bits_per_pixel"}
LESS_IS_BETTER = {"bits_per_pixel"} | {n for n, m in METRICS.items() if m.higher_is_better is not True}


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """`psnr=30` and the like. Raises ConfigError."""
    limits = {}
    for text in texts:
        name, _, number = text.partition("=")
        key = SHORT.get(name, name)
        if key not in METRICS and key != "bits_per_pixel":
            raise ConfigError(f"no figure is called {name!r}", hint=f"known: {', '.join([*SHORT, *METRICS])}")
        try:
            limits[key] = float(number)
        except ValueError:
            raise ConfigError(f"{text!r} names no number", hint="for example psnr=30") from None
    return limits


def require_limits(limits: dict[str, float], means: Sequence[Row], models: Sequence[str]) -> None:
    """Raise CvvaeError if a mean of one of the models misses a limit, or is not known."""
    for key, limit in limits.items():
        for row in means:
            if row["model"] not in models:
                continue
            value = row.get(key)
            where = row["model"] + ("" if row["quality"] is None else f" at quality {row['quality']:g}")
            if value is None:
                raise CvvaeError(f"{where}: {key} is not known", hint=f"it was to be compared with {limit:g}")
            if value > limit if key in LESS_IS_BETTER else value < limit:
                word = "above" if key in LESS_IS_BETTER else "below"
                raise CvvaeError(f"{where}: {key} is {value:.4g}, {word} the limit of {limit:g}")
