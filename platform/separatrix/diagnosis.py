"""What this machine can do for a run, what is wrong with it, and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from separatrix.engine import load_failures, measure_platforms, platform_names, platform_properties, serialize
from separatrix.systems import build_system, resolve

_PACKAGES = ("separatrix", "openmm", "torch", "zarr", "mdtraj", "numpy", "pydantic")
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
    return (_python(), *_packages(), _processors(), _memory(), _disk(folder), *_platforms(), _gpus())


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
    n_cores = os.cpu_count() or 1
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


def _gpus() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding(level="ok", subject="GPUs", found="none seen (no nvidia-smi): simulations run on processors")
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        listing = subprocess.run(  # noqa: S603 - a fixed command, found by its full path
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (subprocess.SubprocessError, OSError) as error:
        return Finding(
            level="note", subject="GPUs", found=f"nvidia-smi failed: {error}", advice="Check the NVIDIA driver."
        )
    found = "; ".join(line.strip() for line in listing.splitlines())
    return Finding(
        level="ok",
        subject="GPUs",
        found=found or "none",
        advice="The CUDA platform needs the package openmm-cuda of this OpenMM version." if found else "",
    )
