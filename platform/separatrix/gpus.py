"""GPUs of this machine and their load, through NVIDIA's management library or the program ``nvidia-smi``."""

from __future__ import annotations

import csv
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

INTERVAL: Final = 2.0
"""Seconds between looks at the load; whoever asks in between gets the last one."""

_MIB = 2**20
_FIELDS = ("index", "name", "driver_version", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU and its load; None where a device does not tell.

    Attributes
    ----------
    index : as the driver counts them
    driver : version of the driver
    memory_used, memory_total : bytes
    utilisation : share of the last moments in which something was computed, %
    temperature : degrees Celsius
    n_processes : that compute on it
    """

    index: int
    name: str
    driver: str
    memory_used: int
    memory_total: int
    utilisation: int | None = None
    temperature: int | None = None
    n_processes: int | None = None


class Monitor:
    """Looks at the GPUs of this machine, at most every ``INTERVAL`` seconds; where there are none, it does nothing.

    Parameters
    ----------
    load : returns the module ``pynvml``; raises ``ImportError`` where there is none
    """

    def __init__(self, load: Callable[[], Any] | None = None) -> None:
        self._load = load or _pynvml
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._asked = False
        self._looked, self._found = -INTERVAL, ()  # type: tuple[float, tuple[Gpu, ...]]

    def read(self) -> tuple[Gpu, ...]:
        """Return the GPUs with their load; none without NVIDIA's library or driver. Any thread may ask."""
        with self._lock:
            if not self._asked:
                self._asked = True
                self._start()
            if self._nvml is not None and time.monotonic() - self._looked >= INTERVAL:
                self._found = self._look()
                self._looked = time.monotonic()
            return self._found

    def _start(self) -> None:
        try:
            nvml = self._load()
        except ImportError:
            return
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:  # no driver
            return
        self._nvml = nvml

    def _look(self) -> tuple[Gpu, ...]:
        nvml = self._nvml
        try:
            driver = str(nvml.nvmlSystemGetDriverVersion())
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return tuple(self._gpu(index, handle, driver) for index, handle in enumerate(handles))
        except nvml.NVMLError:  # a device is being lost
            return ()

    def _gpu(self, index: int, handle: Any, driver: str) -> Gpu:
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        rates = self._asked_of(nvml.nvmlDeviceGetUtilizationRates, handle)
        processes = self._asked_of(nvml.nvmlDeviceGetComputeRunningProcesses, handle)
        return Gpu(
            index=index,
            name=str(nvml.nvmlDeviceGetName(handle)),
            driver=driver,
            memory_used=int(memory.used),
            memory_total=int(memory.total),
            utilisation=None if rates is None else int(rates.gpu),
            temperature=self._asked_of(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            n_processes=None if processes is None else len(processes),
        )

    def _asked_of(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a device answers, None for one that does not support the question."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None


def ask_nvidia_smi() -> tuple[Gpu, ...]:
    """Return the GPUs as ``nvidia-smi`` lists them, none without that program.

    Raises
    ------
    OSError
        If it cannot be run or fails, which tells of a broken driver.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(  # noqa: S603 - a fixed command, found by its full path
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except subprocess.SubprocessError as error:
        raise OSError(f"nvidia-smi failed: {error}") from error
    return tuple(_listed(row) for row in csv.reader(listing.splitlines(), skipinitialspace=True) if row)


def _listed(row: list[str]) -> Gpu:
    if len(row) != len(_FIELDS) or not row[0].isdigit():
        raise OSError(f"nvidia-smi printed {', '.join(row)!r} in place of a device")
    index, name, driver, *numbers = row
    used, total, utilisation, temperature = (int(text) if text.isdigit() else None for text in numbers)
    return Gpu(
        index=int(index),
        name=name,
        driver=driver,
        memory_used=(used or 0) * _MIB,
        memory_total=(total or 0) * _MIB,
        utilisation=utilisation,
        temperature=temperature,
    )


def _pynvml() -> Any:
    import pynvml  # noqa: PLC0415 - an extra

    return pynvml
