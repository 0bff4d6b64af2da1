"""By how much one picture is another that was shifted: phase correlation (Kuglin and Hines, 1975).

Pages jump when they are scrolled, by more than their lines are apart; those look alike, and a motion that is
sought from coarse pictures to fine ones finds the wrong line. All pixels together know the right one.
"""

from __future__ import annotations

import torch
from torch import Tensor

STILL = 1  # pixels: shifts up to this are none
FLAT = 1e-3  # of the largest product of amplitudes: weaker frequencies count less


def shift_between(target: Tensor, source: Tensor, largest: int) -> Tensor:
    """Where in `source` most of the content of `target` lies that has moved, in whole pixels: int64 (N, 2),
    down and right, up to `largest`. Pictures (N, H, W) in any unit; of unlike ones it says nothing.
    """
    size = target.shape[1:]
    products = torch.fft.rfft2(source) * torch.fft.rfft2(target).conj()
    amplitudes = products.abs()
    products /= amplitudes + FLAT * amplitudes.amax((1, 2), keepdim=True) + torch.finfo(torch.float32).tiny
    alike = torch.fft.irfft2(products, s=size)
    down, right = (min(largest, (length - 1) // 2) for length in size)
    near = alike.roll((down, right), (1, 2))[:, : 2 * down + 1, : 2 * right + 1]
    near[:, max(0, down - STILL) : down + STILL + 1, max(0, right - STILL) : right + STILL + 1] = 0
    number = near.flatten(1).argmax(1)
    return torch.stack([number // (2 * right + 1) - down, number % (2 * right + 1) - right], 1)
