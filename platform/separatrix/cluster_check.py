"""What a file that tells how to ask a batch system for workers comes to, before any job is submitted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from separatrix.cluster import ClusterFile, SlurmCluster
from separatrix.diagnosis import Finding


def check_cluster(file: Path) -> tuple[Finding, ...]:
    """Check such a file, and return what was found: what is asked for, whether that can be done here, and the job.

    Nothing is submitted.

    Parameters
    ----------
    file : TOML

    Raises
    ------
    ConfigError
        If it is missing, no TOML, or wrong.
    """
    return tuple(_findings(ClusterFile.read(file).cluster))


def _findings(spec: SlurmCluster) -> Iterator[Finding]:
    yield Finding(level="ok", subject="workers", found=_demand(spec))
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        advice = "Ask for workers on a login node of the cluster, where sbatch is."
        yield Finding(level="problem", subject="SLURM", found="no sbatch on this machine", advice=advice)
    else:
        yield Finding(level="ok", subject="SLURM", found=sbatch)
    try:
        from separatrix.executors.slurm import job_script  # noqa: PLC0415 - Dask is optional, and slow to load
    except ModuleNotFoundError as error:
        advice = 'python -m pip install "separatrix[cluster]"'
        yield Finding(level="problem", subject="Dask", found=f"no module {error.name}", advice=advice)
    else:
        yield Finding(level="ok", subject="job", found=job_script(spec).strip())


def _demand(spec: SlurmCluster) -> str:
    each = f"{spec.workers_per_job} workers on {spec.cores} cores with {spec.memory}"
    return (
        f"sampling begins with {spec.workers.min}; up to {spec.workers.max} are asked for, but no more than a run has "
        f"chains: {spec.jobs_of(spec.workers.max)} jobs, each of {each} for {spec.walltime}"
    )
