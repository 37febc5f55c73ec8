"""What the GPUs of this machine are doing, from NVIDIA's management library (NVML): GPUtil's figures, and more.

GPUtil (2018) reads the text of `nvidia-smi`, and no longer imports on Python 3.12 and later, where `distutils` is gone.
`nvidia-ml-py` (module `pynvml`) is NVIDIA's own. Its figures are the driver's: they count all processes, and of PyTorch
its cache and its context too, not only live tensors.

Source: NVML reference, https://docs.nvidia.com/deploy/nvml-api/
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torchcourse.units import format_bytes


@dataclass(frozen=True)
class Gpu:
    """One GPU, now. What its driver does not tell is None."""

    number: int
    name: str
    memory_used: int
    """Bytes, of all processes together."""
    memory_total: int
    busy: int | None
    """Percent of the last moment in which a kernel ran. It does not say how much of the GPU that kernel used."""
    temperature: int | None
    """Degrees Celsius."""
    watts: float | None
    watts_limit: float | None
    processes: tuple[tuple[int, int | None], ...]
    """Process number, and the bytes of GPU memory that it holds. The driver tells a container mostly of none."""

    def __str__(self) -> str:
        told = [
            f"memory {format_bytes(self.memory_used)} of {format_bytes(self.memory_total)}",
            *([f"busy {self.busy}%"] if self.busy is not None else []),
            *([f"{self.temperature} °C"] if self.temperature is not None else []),
            *([f"{self.watts:.0f} of {self.watts_limit:.0f} W"] if self.watts is not None and self.watts_limit else []),
        ]
        held = [f"{number} ({'?' if size is None else format_bytes(size)})" for number, size in self.processes]
        return f"GPU {self.number}, {self.name}: {', '.join(told)}; processes: {', '.join(held) or 'none told'}"


@dataclass(frozen=True)
class Status:
    """The GPUs, or the reason why there are none. Print it."""

    gpus: tuple[Gpu, ...]
    reason: str = ""

    def __repr__(self) -> str:
        return self.reason or "\n".join(map(str, self.gpus))

    def _repr_html_(self) -> str:
        return "<br>".join(html.escape(line) for line in repr(self).splitlines())


def gpu_status() -> Status:
    """Return what each NVIDIA GPU is doing now. Without one, a sentence says why. Starts nothing on the GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return Status((), "No NVIDIA driver is installed here, so there is no GPU to report on.")
    except pynvml.NVMLError as error:
        return Status((), f"The NVIDIA driver does not answer ({error}), so there is no GPU to report on.")
    try:
        count = pynvml.nvmlDeviceGetCount()
        if count == 0:
            return Status((), "The NVIDIA driver is installed, but it finds no GPU.")
        return Status(tuple(_look(pynvml, number) for number in range(count)))
    finally:
        pynvml.nvmlShutdown()


def _look(nvml: Any, number: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)

    def told(ask: Callable[[], Any]) -> Any:
        """The answer, or None: many cards and virtual GPUs do not know all figures."""
        try:
            return ask()
        except nvml.NVMLError:
            return None

    name, memory = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetMemoryInfo(handle)
    rates = told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    watts = told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
    limit = told(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000)
    running = told(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    return Gpu(
        number=number,
        name=name.decode() if isinstance(name, bytes) else name,
        memory_used=memory.used,
        memory_total=memory.total,
        busy=None if rates is None else rates.gpu,
        temperature=told(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        watts=watts,
        watts_limit=limit,
        processes=tuple((process.pid, process.usedGpuMemory) for process in running),
    )
