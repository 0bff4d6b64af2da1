"""Where a network runs and with which numbers."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass

import torch

from cvvae_cli.errors import DeviceError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """A device and the number type of the network there."""

    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)


def choose_placement(device: str = "auto", dtype: str = "auto") -> Placement:
    """The placement of `--device` and `--dtype`. Raises DeviceError for one that is not there."""
    chosen = choose_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise DeviceError(f"no number type is called {dtype!r}", hint="use auto, fp32, bf16 or fp16")
    if dtype == "fp16" and chosen.type == "cpu":
        raise DeviceError("fp16 is slow and inexact on a CPU", hint="use --dtype bf16 or fp32")
    return Placement(chosen, fastest_dtype(chosen) if dtype == "auto" else DTYPES[dtype])


def choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    match = re.fullmatch(r"cpu|mps|cuda(:\d+)?", name)
    if match is None:
        raise DeviceError(f"no device is called {name!r}", hint="use auto, cpu, cuda, cuda:1 or mps")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"there is no device {name} here", hint="use --device auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("there is no device mps here", hint="use --device auto or cpu")
    return device


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it natively, else what is safe."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees: glibc alone; elsewhere nothing happens.

    By default glibc returns every large tensor to the system and takes it back, zeroed page by page, for the
    next layer: 15 % of the time of `compact` on two cores, and more where the convolutions are faster.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 2**26)


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has AMX or AVX512-BF16; without, bf16 is emulated and five times slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
