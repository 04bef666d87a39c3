"""Dask workers as jobs of SLURM."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from separatrix.cluster import SlurmCluster
from separatrix.errors import ClusterError


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Keep what Ctrl-C does: loading dask-jobqueue 0.9 replaces it, and fails outside the main thread."""
    install = signal.signal
    signal.signal = lambda *_: None
    try:
        yield
    finally:
        signal.signal = install


with _own_interrupts():
    from dask_jobqueue import SLURMCluster
    from dask_jobqueue.slurm import SLURMJob


class SlurmWorkers:
    """Workers that SLURM starts for this session, and a Dask scheduler of its own in this process.

    Parameters
    ----------
    spec : what to ask for
    n_workers : how many workers to ask for
    logs : folder where jobs write what they say

    Raises
    ------
    ClusterError
        This machine has no ``sbatch``, or no scheduler can be started.
    """

    def __init__(self, spec: SlurmCluster, n_workers: int, logs: Path) -> None:
        if shutil.which("sbatch") is None:
            raise ClusterError(
                "expected SLURM's sbatch on this machine, found none; run this on a login node of the cluster, "
                "or start Dask workers yourself and use --scheduler"
            )
        self._n_jobs = spec.jobs_of(n_workers)
        try:
            self.cluster: Any = SLURMCluster(
                **_options(spec, str(logs)),
                scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterError(f"no Dask scheduler can be started here: {error}") from None

    @property
    def job_script(self) -> str:
        """What is given to ``sbatch``."""
        return str(self.cluster.job_script())

    async def ask(self) -> None:
        """Ask for the jobs that are missing: all at first, later those that ended.

        Raises
        ------
        ClusterError
            SLURM refuses them.
        """
        self.cluster.scale(jobs=self._n_jobs)
        try:
            await self.cluster
        except RuntimeError as error:
            _, _, said = str(error).partition("stderr:\n")
            raise ClusterError(f"sbatch refuses the job: {' '.join((said or str(error)).split())}") from None

    def close(self) -> None:
        """Cancel the jobs and end the scheduler."""
        with suppress(Exception):  # what is gone need not be ended
            self.cluster.close(timeout=10)


def job_script(spec: SlurmCluster) -> str:
    """Return what would be given to ``sbatch``, with words in place of what is known when a session starts."""
    return str(SLURMJob(scheduler="ADDRESS-OF-THE-SESSION", name="NAME", **_options(spec, "RUN/jobs")).job_script())


def _options(spec: SlurmCluster, logs: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "queue": spec.partition,
        "account": spec.account,
        "walltime": spec.walltime,
        "cores": spec.cores,
        "processes": spec.workers_per_job,
        "memory": spec.memory,
        "job_extra_directives": spec.directives,
        "job_script_prologue": spec.prologue,
        "interface": spec.interface,
        "local_directory": spec.scratch,
        "log_directory": logs,
        "job_name": "separatrix",
    }
    return {name: value for name, value in options.items() if value is not None}
