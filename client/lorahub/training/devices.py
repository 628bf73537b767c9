"""Where a run computes, in which precision, and what it takes of the machine."""

import os
import platform
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorahub.errors import InvalidUsage
from lorahub.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class DevicePlace:
    """A device, and whether it computes in bf16 by itself."""

    device: torch.device
    has_bf16: bool

    def dtype(self, wanted: str, stored: str | None) -> torch.dtype:
        """`stored` is the base's own, by torch's name; `auto` keeps a base in 32 bits as it is."""
        is_16_bit = stored in ("bfloat16", "float16")
        if wanted == "bf16" or (wanted == "auto" and is_16_bit and self.has_bf16):
            return torch.bfloat16
        return torch.float32

    def peak_memory(self) -> int:
        """Bytes: of the GPU's memory what tensors took at most, else of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def facts(self, dtype: torch.dtype) -> dict[str, Any]:
        is_cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if is_cuda else cpu_name(),
            "kind": self.device.type,
            "count": 1,
            "memory": torch.cuda.get_device_properties(self.device).total_memory if is_cuda else _ram(),
            "dtype": str(dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }


def place_of(config: TrainConfig) -> DevicePlace:
    """Also sets threads and TF32. Raises `InvalidUsage` for a device that isn't there."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    name = _best() if config.device == "auto" else config.device
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # on meta nothing is computed
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: a torch without CUDA
        first = str(error).strip().partition("\n")[0]
        raise InvalidUsage(f"there is no device {name}: {first}", hint="--device auto, or --device cpu") from None
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.cuda.reset_peak_memory_stats(device)
        return DevicePlace(device, torch.cuda.is_bf16_supported())
    return DevicePlace(device, device.type == "cpu" and _cpu_has_bf16())


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cpu_has_bf16() -> bool:
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(told.get("avx512_bf16") or told.get("amx_bf16") or told.get("bf16"))


def cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or None


def _ram() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
