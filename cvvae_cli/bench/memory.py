"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

import torch

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """Use as a context; then `bytes` is the most that was held beyond what was held before.

    Of the GPU where the work runs there; else of this process, from Linux's high-water mark, which is reset
    first (None on other systems).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before: int | None = torch.cuda.memory_allocated(self.device)
            return self
        give_back_freed()
        self._before = None
        with suppress(OSError):  # another system
            CLEAR.write_text("5")  # resets VmHWM
            self._before = resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = resident("VmHWM")
        self.bytes = max(0, peak - self._before)


def give_back_freed() -> None:
    """Return what the allocator keeps to the system, so that growth can be seen."""
    with suppress(AttributeError, OSError):  # another C library gives back by itself
        ctypes.CDLL(None).malloc_trim(0)


def resident(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024
