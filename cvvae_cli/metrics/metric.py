"""What every metric is: it sees pairs of batches stream by, and gives a value per frame and one for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

LUMA = (0.2126, 0.7152, 0.0722)  # BT.709


@dataclass(frozen=True)
class Borders:
    """Where a codec's pieces meet: frames that begin one, rows and columns that begin a tile."""

    period: int = 16  # frames of a piece
    first: int | None = None  # the first frame that begins a piece; None: the phase with the largest seam
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()


@dataclass(frozen=True)
class MetricOptions:
    """What some metrics need to know beside the frames."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    borders: Borders = Borders()
    lpips_weights: Path | None = None  # a trunk's weights; None: from the cache, or downloaded


class Pair:
    """Frames of a source and the same frames decoded, and what several metrics derive from them.

    Both are uint8 RGB (T, H, W, 3), full range.
    """

    def __init__(
        self, reference: np.ndarray, decoded: np.ndarray, device: torch.device | None = None
    ) -> None:
        assert reference.shape == decoded.shape
        self.reference, self.decoded = (
            torch.from_numpy(np.ascontiguousarray(x)).to(device or "cpu") for x in (reference, decoded)
        )

    def __len__(self) -> int:
        return len(self.reference)

    @cached_property
    def planes(self) -> tuple[Tensor, Tensor]:
        """float32 (T, 3, H, W) in [0, 255], channels last in memory."""
        return as_planes(self.reference), as_planes(self.decoded)

    @cached_property
    def error(self) -> Tensor:
        """Decoded minus source, float32 (T, 3, H, W)."""
        return self.planes[1] - self.planes[0]

    @cached_property
    def luma_error(self) -> Tensor:
        """float32 (T, H, W): BT.709 luma of the error, in 8-bit levels."""
        return torch.einsum("tchw,c->thw", self.error, self.error.new_tensor(LUMA))


def as_planes(frames: Tensor) -> Tensor:
    """uint8 (T, H, W, 3) → float32 (T, 3, H, W), channels last in memory."""
    return frames.to(torch.float32).permute(0, 3, 1, 2)


class Metric(ABC):
    """One metric of one clip. `version` changes whenever its values do, and is part of every cache key."""

    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool | None] = True  # None: nearer to 1

    def __init__(self, options: MetricOptions) -> None:
        """Raises a CvvaeError where the metric cannot be had."""
        self.options = options
        self._parts: list[np.ndarray] = []

    @abstractmethod
    def of_frames(self, pair: Pair) -> Tensor:
        """Values of the frames of a batch, (T,); NaN where a frame has none."""

    def add(self, pair: Pair) -> None:
        """The next frames of the clip."""
        self._parts.append(self.of_frames(pair).double().cpu().numpy())

    def per_frame(self) -> np.ndarray:
        """float64 (T,); NaN where a frame has no value."""
        return np.concatenate(self._parts) if self._parts else np.empty(0)

    def value(self) -> float | None:
        """The mean over frames; None where there is none."""
        values = self.per_frame()
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else None
