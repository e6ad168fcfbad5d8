"""The machine's memory and GPUs, for Prometheus: asked when somebody asks, in the thread that writes the answer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import psutil
import pynvml
import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GpuNumbers:
    """One GPU at one moment."""

    uuid: str
    utilization: float  # 0 to 1
    used_bytes: float
    total_bytes: float


class Gpus(Protocol):
    """Where the numbers of GPUs come from."""

    def numbers(self) -> list[GpuNumbers]:
        """Of all; none where there are none."""


_UNKNOWN: Final = GpuNumbers("", math.nan, math.nan, math.nan)


class Machine:
    """This machine."""

    def __init__(self, gpus: Gpus | None = None) -> None:
        self._gpus = gpus or NvidiaGpus()

    def families(self) -> Iterator[Metric]:
        """Its numbers; NaN for those of a GPU where there is none."""
        yield _memory()
        yield from _gpu_families(self._gpus.numbers() or [_UNKNOWN])


def _memory() -> Metric:
    seen = psutil.virtual_memory()
    family = GaugeMetricFamily("modelmora_system_memory_bytes", "Memory of the machine.", labels=["state"])
    family.add_metric(["Total"], seen.total)
    family.add_metric(["Available"], seen.available)
    return family


def _gpu_families(gpus: list[GpuNumbers]) -> Iterator[Metric]:
    utilization = GaugeMetricFamily(
        "modelmora_gpu_utilization_ratio", "Share of the time in which a GPU computed; NaN without one.", labels=["gpu"]
    )
    memory = GaugeMetricFamily(
        "modelmora_gpu_memory_bytes", "Memory of a GPU; NaN without one.", labels=["gpu", "state"]
    )
    for gpu in gpus:
        utilization.add_metric([gpu.uuid], gpu.utilization)
        memory.add_metric([gpu.uuid, "Used"], gpu.used_bytes)
        memory.add_metric([gpu.uuid, "Total"], gpu.total_bytes)
    yield utilization
    yield memory


class NvidiaGpus:
    """Those that NVML sees. A driver that is not there is not asked for again."""

    def __init__(self) -> None:
        self._open: bool | None = None

    def numbers(self) -> list[GpuNumbers]:
        """Of all; none where NVML cannot be used."""
        if self._open is None:
            self._open = _opened()
        if not self._open:
            return []
        try:
            return [_numbers(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            log.warning("the GPUs do not answer", why=str(error))
            return []


def _opened() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("no GPU to be seen", why=str(error))
        return False
    return True


def _numbers(index: int) -> GpuNumbers:
    gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return GpuNumbers(pynvml.nvmlDeviceGetUUID(gpu), _utilization(gpu), memory.used, memory.total)


def _utilization(gpu: object) -> float:
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu) / 100
    except pynvml.NVMLError_NotSupported:  # by a part of a GPU
        return math.nan
