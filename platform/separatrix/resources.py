"""What a session may use of a machine, as one value."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from separatrix.errors import ConfigError

GPU_PLATFORMS: Final = frozenset({"CUDA", "OpenCL", "HIP"})
"""OpenMM platforms that compute on devices which are chosen by number."""

PLATFORMS: Final = ("Reference", "CPU", "CUDA", "HIP", "OpenCL")
"""OpenMM platforms that some machine may have."""

PRECISIONS: Final = ("single", "mixed", "double")

CORES: Final = "SEPARATRIX_CORES"
"""Environment variable with the most cores that anything here takes by default, as on a machine shared with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a session may use.

    Attributes
    ----------
    workers : worker processes in all; 0 works in the process of the session, reproducibly shot by shot. By default one
        per core, on GPUs some for each device, and no more than have something to do
    platform : OpenMM platform, or "auto" for the fastest on the system at hand
    devices : numbers of the GPUs to use, as the platform counts them; all of them by default
    workers_per_device : in place of ``workers``, how many share each device
    precision : of GPU platforms: single, mixed (the default) or double
    learner_device : where the committor is trained: cpu, cuda, or cuda:N for one of several
    descriptor_device : where workers compute symmetry functions: cpu, cuda for the GPU that each simulates on, or auto
        for that GPU where workers simulate on CUDA and PyTorch can use it, else the processor
    executor : what makes shots: "processes" of this machine, or the workers of a "dask" cluster
    scheduler : address of a Dask scheduler whose workers are used, whenever they join
    cluster : file that tells how workers are asked of a batch system, see `separatrix.cluster`
    shots_per_second : at most, so that people can watch the committor learn; by default as fast as it goes
    shot_time_limit : seconds that a shot may take before it is ended, with its worker, and made again; by default ten
        times what the longest that there can be would take, five minutes at least. Not with ``workers`` = 0, where
        nobody could end it

    Raises
    ------
    ConfigError
        If a value is impossible, or two contradict each other.
    """

    workers: int | None = None
    platform: str = "auto"
    devices: tuple[int, ...] | None = None
    workers_per_device: int | None = None
    precision: str | None = None
    learner_device: str = "cpu"
    descriptor_device: str = "auto"
    executor: str = "processes"
    scheduler: str | None = None
    cluster: Path | str | None = None
    shots_per_second: float | None = None
    shot_time_limit: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no machine could do."""
        self._check_executor()
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers: expected 0 (in this process) or more, got {self.workers}")
        if self.shots_per_second is not None and not self.shots_per_second > 0:
            raise ConfigError(f"shots-per-second: expected more than 0, got {self.shots_per_second:g}")
        self._check_time_limit()
        if self.devices is not None:
            self._check_devices(self.devices)
        if self.workers_per_device is not None and self.workers_per_device < 1:
            raise ConfigError(f"workers-per-device: expected 1 or more, got {self.workers_per_device}")
        if self.workers is not None and self.workers_per_device is not None:
            raise ConfigError(
                f"workers-per-device: expected it or workers, got both ({self.workers_per_device} and {self.workers}); "
                "workers is the number of all of them"
            )
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ConfigError(f"precision: expected {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.needs_gpu and self.platform not in (*GPU_PLATFORMS, "auto"):
            raise ConfigError(
                f"platform: expected CUDA, OpenCL or HIP with devices, workers-per-device or precision, "
                f"got {self.platform!r}, which knows none of them; leave them out, or choose another platform"
            )
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.learner_device):
            raise ConfigError(f"learner-device: expected cpu, cuda or cuda:N, got {self.learner_device!r}")
        if self.descriptor_device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"descriptor-device: expected auto, cpu or cuda, got {self.descriptor_device!r}")

    @property
    def needs_gpu(self) -> bool:
        """Whether something is wanted that only GPU platforms have."""
        return any(value is not None for value in (self.devices, self.workers_per_device, self.precision))

    @property
    def on_cluster(self) -> bool:
        """Whether other machines make the shots."""
        return self.executor == "dask"

    def _check_executor(self) -> None:
        if self.executor not in ("processes", "dask"):
            raise ConfigError(f"executor: expected processes or dask, got {self.executor!r}")
        given = [name for name in ("scheduler", "cluster") if getattr(self, name) is not None]
        if given and not self.on_cluster:
            raise ConfigError(f"{given[0]}: expected it with executor = dask alone, got executor = {self.executor}")
        if self.on_cluster and len(given) != 1:
            raise ConfigError(
                "executor = dask: expected scheduler (the address of one that runs) or cluster (a file that says how "
                f"to ask for workers), got {'both' if given else 'neither'}"
            )
        for name in ("workers", "devices", "workers_per_device"):
            if self.on_cluster and getattr(self, name) is not None:
                raise ConfigError(
                    f"{name.replace('_', '-')}: expected it without executor = dask, where the cluster decides; "
                    f"leave it out"
                )

    def _check_time_limit(self) -> None:
        limit = self.shot_time_limit
        if limit is None:
            return
        if not limit > 0:
            raise ConfigError(f"shot-time-limit: expected more than 0 seconds, got {limit:g}")
        if self.workers == 0:
            raise ConfigError(
                "shot-time-limit: expected workers, got workers = 0, where nobody could end the shot; leave it out"
            )

    def _check_devices(self, devices: tuple[int, ...]) -> None:
        if not devices or len(set(devices)) < len(devices) or min(devices) < 0:
            raise ConfigError(
                f"devices: expected numbers from 0 on, each once, such as 0,1, got {','.join(map(str, devices)) or '-'}"
            )
        if self.workers == 0 and len(devices) > 1:
            raise ConfigError(f"devices: expected one for workers = 0, which is this process alone, got {len(devices)}")


def parse_devices(text: str) -> tuple[int, ...]:
    """Return the devices named in a text such as ``0,1``.

    Raises
    ------
    ConfigError
        If it is no list of numbers.

    >>> parse_devices("0, 2")
    (0, 2)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"devices: expected numbers such as 0,1, got {text!r}") from None


def usable_cores() -> int:
    """Return how many cores this process may use, 1 at least.

    Of the cores of the machine, those it may run on, no more than the quota of its container or batch job gives, and no
    more than ``SEPARATRIX_CORES`` says.

    Raises
    ------
    ConfigError
        If ``SEPARATRIX_CORES`` is no such number.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [limit for limit in (core_quota(), _wanted_cores()) if limit is not None]
    return max(1, round(min([allowed, *limits])))


def core_quota(root: Path = Path("/")) -> float | None:
    """Return how many cores' worth of time the control groups of this process give it; None if they set no limit.

    A group is limited by those it lies in, too. In a container the path of the own group may be that of the machine
    outside, of which only the last part is mounted: folders that are not there are passed over.

    Parameters
    ----------
    root : of the file system

    References
    ----------
    Linux kernel documentation: control groups v2 (``cpu.max``) and CFS bandwidth control (``cpu.cfs_quota_us``).
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None  # no Linux
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = mount / path.strip("/")
        groups = [own, *own.parents[: len(own.parts) - len(mount.parts)]]
        quotas += [quota for group in groups if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _quota_of(group: Path) -> float | None:
    try:
        if (limit := group / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such group or file; "max"
        return None


def _wanted_cores() -> int | None:
    text = os.environ.get(CORES)
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{CORES}: expected 1 or more, got {text!r} in the environment")
    return int(text)
