"""Machine: processors, memory and GPUs of this node, under Triton's names (`nv_cpu_*`, `nv_gpu_*`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pynvml  # type: ignore[import-untyped]  # the wheel ships no types

from serving.edge.triton import Family

_log = logging.getLogger(__name__)

_GPU: tuple[tuple[str, str, str, Callable[[Any], float]], ...] = (
    ("nv_gpu_utilization", "gauge", "GPU utilization rate [0.0 - 1.0)", lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100),
    ("nv_gpu_memory_total_bytes", "gauge", "GPU total memory, in bytes", lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total),
    ("nv_gpu_memory_used_bytes", "gauge", "GPU used memory, in bytes", lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used),
    ("nv_gpu_power_usage", "gauge", "GPU power usage in watts", lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3),
    ("nv_gpu_power_limit", "gauge", "GPU power management limit in watts", lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3),
    ("nv_energy_consumption", "counter", "GPU energy in joules", lambda gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3),
)
"""(name, kind, help, how it is read)"""
GPU_NAMES = frozenset(name for name, *_ in _GPU)


class Machine:
    """Reads what the kernel and the driver say. `families` may take milliseconds: not for a loop's thread."""

    def __init__(self) -> None:
        self._gpus: dict[str, Any] | None = None

    def families(self) -> Iterator[Family]:
        """Yield `nv_cpu_*`, and `nv_gpu_*` of every GPU that there is."""
        memory = psutil.virtual_memory()
        # since the last call; since the import of psutil at the first
        yield Family("nv_cpu_utilization", "gauge", "CPU utilization rate [0.0 - 1.0]", [({}, psutil.cpu_percent() / 100)])
        yield Family("nv_cpu_memory_total_bytes", "gauge", "CPU total memory (RAM), in bytes", [({}, memory.total)])
        yield Family("nv_cpu_memory_used_bytes", "gauge", "CPU used memory (RAM), in bytes", [({}, memory.total - memory.available)])
        if self._gpus is None:
            self._gpus = _find_gpus()
        for name, kind, words, read in _GPU:
            family = Family(name, kind, words)
            for uuid, gpu in self._gpus.items():
                number = _ask(read, gpu)
                if number is not None:
                    family.samples.append(({"gpu_uuid": uuid}, number))
            yield family


def _find_gpus() -> dict[str, Any]:
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        return {pynvml.nvmlDeviceGetUUID(handle): handle for handle in handles}
    except pynvml.NVMLError as none:
        _log.debug("no GPU: %s", none)
        return {}


def _ask(read: Callable[[Any], float], gpu: Any) -> float | None:
    try:
        return read(gpu)
    except pynvml.NVMLError:
        return None  # this GPU does not tell
