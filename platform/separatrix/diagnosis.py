"""What this machine can do for a run, what is wrong with it, and what to do about it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from separatrix.engine import (
    devices_of,
    load_failures,
    measure_platforms,
    platform_names,
    platform_properties,
    serialize,
)
from separatrix.gpus import Gpu, Monitor, ask_nvidia_smi
from separatrix.resources import usable_cores
from separatrix.systems import build_system, resolve

_PACKAGES = ("separatrix", "openmm", "torch", "zarr", "mdtraj", "numpy", "pydantic")
_CUDA_PACKAGES = ("openmm-cuda-13", "openmm-cuda-12")
_CUDA_ADVICE = (
    "For a driver of CUDA 13 (580 or later): python -m pip install 'separatrix[cuda]'; for one of CUDA 12: "
    "python -m pip install 'openmm[cuda12]' in the version of OpenMM that is here."
)
_MEASURE_SECONDS = 0.5
_GIB = 2**30
_LITTLE_DISK = 2 * _GIB
_LITTLE_MEMORY = 2 * _GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at.

    Attributes
    ----------
    level : "ok", "note" (works, could be better) or "problem" (will not work)
    advice : what to do, empty when nothing
    """

    level: Literal["ok", "note", "problem"]
    subject: str
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding as plain data."""
        return asdict(self)


def diagnose(folder: Path) -> tuple[Finding, ...]:
    """Look at Python, packages, processors, memory, disk, simulation platforms and GPUs.

    Parameters
    ----------
    folder : where runs would be stored
    """
    return (_python(), *_packages(), _processors(), _memory(), _disk(folder), *_platforms(), *_gpus())


def _python() -> Finding:
    return Finding(level="ok", subject="Python", found=f"{sys.version.split()[0]} at {sys.executable}")


def _packages() -> list[Finding]:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    findings = [Finding(level="ok", subject="packages", found=", ".join(found))]
    if missing:
        advice = "Install Separatrix again: python -m pip install ."
        findings.append(Finding(level="problem", subject="packages", found=f"no {', '.join(missing)}", advice=advice))
    return findings


def _processors() -> Finding:
    n_cores = usable_cores()
    if n_cores == 1:
        advice = "Sampling, learning and display share one core; two or more are better."
        return Finding(level="note", subject="processors", found="1 core", advice=advice)
    return Finding(level="ok", subject="processors", found=f"{n_cores} cores: up to {n_cores} workers make sense")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    if memory.available < _LITTLE_MEMORY:
        advice = "Each worker needs about 0.3 GiB, the learner about 0.6 GiB: use fewer workers or close programs."
        return Finding(level="note", subject="memory", found=found, advice=advice)
    return Finding(level="ok", subject="memory", found=found)


def _disk(folder: Path) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free at {folder.resolve()}"
    if not os.access(folder, os.W_OK):
        return Finding(level="problem", subject="disk", found=f"{found}, not writable", advice="Choose another folder.")
    if free < _LITTLE_DISK:
        advice = "1,000 shots of alanine dipeptide take about 50 MB, solvated systems far more: free some space."
        return Finding(level="note", subject="disk", found=found, advice=advice)
    return Finding(level="ok", subject="disk", found=found)


def _platforms() -> list[Finding]:
    config = resolve({"system": {"kind": "alanine-dipeptide"}})
    system = build_system(config)
    snapshot = next(iter(system.starts.values()))
    xml, _ = serialize(system.openmm_system, system.topology, snapshot)
    platforms = {name: platform_properties(name) for name in platform_names()}
    speeds = measure_platforms(xml, config, snapshot, platforms, seconds=_MEASURE_SECONDS)
    findings = []
    for rank, speed in enumerate(speeds):
        if speed.error:
            advice = "Not used; check its driver if you expected it to work."
            findings.append(
                Finding(level="note", subject=f"platform {speed.platform}", found=speed.error, advice=advice)
            )
            continue
        found = f"{speed.steps_per_second:,.0f} steps/s on vacuum alanine dipeptide, one thread"
        if rank == 0:
            found += "; the fastest here, and what --platform auto takes"
        findings.append(Finding(level="ok", subject=f"platform {speed.platform}", found=found))
    return findings + _plugins(load_failures())


def _plugins(failures: Iterable[str]) -> list[Finding]:
    """Return one finding for each library that platform plugins miss."""
    missing: dict[str, list[str]] = {}
    for failure in failures:
        plugin, _, reason = failure.removeprefix("Error loading library ").partition(": ")
        missing.setdefault(reason, []).append(Path(plugin).stem)
    advice = "Harmless without a GPU of this make; otherwise install its driver."
    return [
        Finding(level="note", subject="plugins", found=f"{', '.join(plugins)} not loaded: {reason}", advice=advice)
        for reason, plugins in missing.items()
        if not any(part in reason for others in missing.values() for part in others)  # they miss one of these
    ]


def _gpus() -> list[Finding]:
    """Return a finding for each GPU, and one for what OpenMM makes of them."""
    try:
        found = Monitor().read() or ask_nvidia_smi()
    except OSError as error:
        return [Finding(level="note", subject="GPUs", found=str(error), advice="Check the NVIDIA driver.")]
    if not found:
        words = "none seen (no NVIDIA driver): simulations run on processors"
        return [Finding(level="ok", subject="GPUs", found=words)]
    return [*(Finding(level="ok", subject=f"GPU {gpu.index}", found=gpu_words(gpu)) for gpu in found), _cuda()]


def gpu_words(gpu: Gpu) -> str:
    """Return what a GPU is and does, in a line."""
    memory = f"{gpu.memory_used / _GIB:.1f} of {gpu.memory_total / _GIB:.1f} GiB used"
    rest = [
        "" if gpu.utilisation is None else f"{gpu.utilisation} % busy",
        "" if gpu.temperature is None else f"{gpu.temperature} °C",
        "" if gpu.n_processes is None else f"{gpu.n_processes} processes",
    ]
    return ", ".join([gpu.name, memory, *filter(None, rest), f"driver {gpu.driver}"])


def _cuda() -> Finding:
    """Tell whether OpenMM computes on the GPUs: its CUDA platform is a package of its own, of the same version."""
    devices = devices_of("CUDA") if "CUDA" in platform_names() else ()
    packages = {name: _version(name) for name in _CUDA_PACKAGES}
    installed = {name: version for name, version in packages.items() if version}
    words = ", ".join(f"{name} {version}" for name, version in installed.items())
    if devices:
        seen = ", ".join(f"{number}: {device.get('DeviceName', '?')}" for number, device in enumerate(devices))
        return Finding(level="ok", subject="CUDA", found=f"OpenMM sees {seen}{f'; {words}' if words else ''}")
    strange = [name for name, version in installed.items() if version != _version("openmm")]
    if strange:
        found = f"{words} belongs to another version than openmm {_version('openmm')}"
        return Finding(level="note", subject="CUDA", found=found, advice=_CUDA_ADVICE)
    found = f"OpenMM sees none of these GPUs, with {words}" if words else "OpenMM has no CUDA platform"
    return Finding(level="note", subject="CUDA", found=found, advice=_CUDA_ADVICE)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
