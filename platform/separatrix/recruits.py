"""The workers of a cluster as a session follows them: asked for, joining, lost, and told of in the run's log."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from separatrix.cluster import ClusterFile
from separatrix.config import RunConfig
from separatrix.preparing import any_snapshot
from separatrix.resources import Resources
from separatrix.shooting import ClusterSpec, join_cluster
from separatrix.store import Store
from separatrix.workers import TimeLimit

if TYPE_CHECKING:
    from separatrix.executors.dask import DaskExecutor


class Recruits:
    """Workers of a Dask cluster that shoot for one run.

    Parameters
    ----------
    store : of the run, open for writing
    config : of the run
    resources : which cluster
    limit : of the time of a shot

    Attributes
    ----------
    executor : gives them shots

    Raises
    ------
    ClusterError
        Dask is not installed, no scheduler answers, or it belongs to another installation.
    ConfigError
        The file that tells how to ask for workers is wrong.
    """

    def __init__(self, store: Store, config: RunConfig, resources: Resources, limit: TimeLimit) -> None:
        self._store = store
        self._n_chains = config.sampling.chains
        self._least = 1
        self._message: str | None = None
        self._joined = self._told_of_chains = False
        # Dask is optional, and takes a second to load.
        from separatrix.executors.dask import DaskExecutor  # noqa: PLC0415

        if resources.cluster is None:
            scheduler: Any = resources.scheduler
        else:
            scheduler = self._ask(Path(resources.cluster))
        beacon = store.path / "pending" / f"session-{uuid.uuid4().hex[:12]}"
        beacon.touch()
        spec = ClusterSpec(
            run=store.path,
            beacon=beacon,
            platform=resources.platform,
            precision=resources.precision or "mixed",
            descriptor_device=resources.descriptor_device,
            start=any_snapshot(store, config),
        )
        owner = f"the run at {store.path}"
        self.executor: DaskExecutor = DaskExecutor(scheduler, join_cluster, (spec,), owner, lambda: limit.seconds)

    def _ask(self, file: Path) -> Any:
        from separatrix.executors.slurm import SlurmWorkers  # noqa: PLC0415

        spec = ClusterFile.read(file).cluster
        self._least = min(spec.workers.min, self._n_chains)
        logs = self._store.path / "jobs"
        return SlurmWorkers(spec, min(spec.workers.max, self._n_chains), logs)

    @property
    def enough(self) -> bool:
        """Whether so many have joined that sampling may begin."""
        return self.executor.workers >= self._least

    def look(self) -> dict[str, Any]:
        """Log what happened to workers, and return what is new for the status.

        Raises
        ------
        ClusterError
            The scheduler is gone, or no worker can be used.
        """
        for news in self.executor.news():
            reason = {"reason": news.reason} if news.reason else {}
            self._store.log(f"worker {news.event}", worker=news.worker, **reason)
        workers = self.executor.workers
        changes: dict[str, Any] = {"workers": workers, "busy": self.executor.busy}
        if self.executor.reports and not self._joined:
            self._joined = True
            speed = self.executor.reports[0]
            changes |= {"platform": speed.platform, "raw_steps_per_second": speed.steps_per_second}
        message = self._in_words(workers)
        if message != self._message:
            self._message = changes["message"] = message
        return changes

    def _in_words(self, workers: int) -> str:
        if workers == 0:
            return "no worker of the cluster is left; waiting for others" if self._joined else "waiting for workers"
        if not self._joined and workers < self._least:
            return f"waiting for workers: {workers} of {self._least} have joined"
        if workers > self._n_chains:
            text = (
                f"{workers} workers, but {self._n_chains} chains with one shot at a time each: "
                f"{workers - self._n_chains} workers idle; make runs for this cluster with more sampling.chains"
            )
            if not self._told_of_chains:
                self._told_of_chains = True
                self._store.log("hint", text=text)
            return text
        return ""
