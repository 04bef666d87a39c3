"""How workers are asked of a batch system: a TOML file beside a run, since it tells nothing of what the run is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from separatrix.config import read_toml, validated
from separatrix.errors import ConfigError

Line = Annotated[str, StringConstraints(pattern=r"^[^\r\n]*$")]
"""Text that stays one line of a job script."""

Word = Annotated[str, StringConstraints(pattern=r"^[\w.,:/@+=-]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WorkerRange(_Section):
    """How many workers."""

    min: int = Field(1, ge=1, description="Sampling begins when so many have joined.")
    max: int = Field(..., ge=1, le=100_000, description="So many are asked for, but no more than there are chains.")


class SlurmCluster(_Section):
    """Jobs of SLURM, each with one or more workers."""

    kind: Literal["slurm"] = Field(..., description="The batch system.")
    workers: WorkerRange = Field(..., description="How many workers; a worker makes one shot at a time.")
    partition: Word | None = Field(None, description="Partition (sbatch --partition).")
    account: Word | None = Field(None, description="Account that is charged (sbatch --account).")
    walltime: Word = Field("01:00:00", description="Time limit of a job; jobs that ended are submitted anew.")
    cores: int = Field(1, ge=1, le=10_000, description="Cores of a job.")
    memory: Word = Field("4GB", description="Memory of a job.")
    workers_per_job: int = Field(1, ge=1, le=10_000, description="Workers that share the cores and memory of a job.")
    directives: list[Line] = Field([], description="Further lines for #SBATCH, such as --gres=gpu:1.")
    prologue: list[Line] = Field([], description="Lines of shell before the workers start, such as module load.")
    interface: Word | None = Field(None, description="Network interface of workers and scheduler, such as ib0.")
    scratch: Line | None = Field(None, description="Local folder for temporary files of Dask workers.")

    def jobs_of(self, workers: int) -> int:
        """Return how many jobs hold so many workers."""
        return -(-workers // self.workers_per_job)


class ClusterFile(_Section):
    """The whole file."""

    cluster: SlurmCluster

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read it.

        Raises
        ------
        ConfigError
            It is missing, no TOML, or wrong.
        """
        result = validated(cls, read_toml(file), where=str(file))
        spec = result.cluster
        if spec.workers.min > spec.workers.max:
            raise ConfigError(
                f"{file}: cluster.workers: expected min of at most max, got {spec.workers.min} and {spec.workers.max}"
            )
        if spec.workers_per_job > spec.cores:
            raise ConfigError(
                f"{file}: cluster.workers_per_job: expected at most one worker per core, got {spec.workers_per_job} "
                f"workers on {spec.cores} cores"
            )
        return result
