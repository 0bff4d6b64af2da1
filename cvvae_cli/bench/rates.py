"""Rate-distortion curves and Bjontegaard's differences between them (VCEG-M33), over PCHIP curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Curve = Sequence[tuple[float, float]]  # (bits per pixel, quality in dB), in any order


def bd_rate(reference: Curve, test: Curve) -> float | None:
    """Mean difference of rate at equal quality, as a share: 0.5 is half more bits than the reference.

    Log rate over quality, over the qualities that both curves have; None if there are none.
    """
    areas = mean_difference(
        [(quality, float(np.log(rate))) for rate, quality in reference],
        [(quality, float(np.log(rate))) for rate, quality in test],
    )
    return None if areas is None else float(np.exp(areas) - 1)


def bd_quality(reference: Curve, test: Curve) -> float | None:
    """Mean difference of quality at equal rate, in dB: positive is better than the reference.

    Quality over log rate, over the rates that both curves have; None if there are none.
    """
    return mean_difference(
        [(float(np.log(rate)), quality) for rate, quality in reference],
        [(float(np.log(rate)), quality) for rate, quality in test],
    )


def mean_difference(reference: Curve, test: Curve) -> float | None:
    """Mean of test minus reference, each y over x, where both are defined; None if that is nowhere."""
    from scipy.interpolate import PchipInterpolator  # slow to load, and seldom needed

    curves = [increasing(points) for points in (reference, test)]
    if any(len(points) < 2 for points in curves):
        return None
    low, high = max(points[0][0] for points in curves), min(points[-1][0] for points in curves)
    if high <= low:
        return None
    first, second = (float(PchipInterpolator(*np.array(points).T).integrate(low, high)) for points in curves)
    return (second - first) / (high - low)


def increasing(points: Curve) -> list[tuple[float, float]]:
    """Points by x; of several with one x the best, and infinite ones left out."""
    best: dict[float, float] = {}
    for x, y in points:
        if np.isfinite(x) and np.isfinite(y):
            best[x] = max(y, best.get(x, y))
    return sorted(best.items())


def at_quality(curve: Curve, quality: float) -> float | None:
    """Rate of a curve at a quality, linear in log rate; None outside of it."""
    points = increasing([(q, rate) for rate, q in curve])
    qualities, rates = zip(*points, strict=True)
    if not qualities[0] <= quality <= qualities[-1]:
        return None
    return float(np.exp(np.interp(quality, qualities, np.log(rates))))
