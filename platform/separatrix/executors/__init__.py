"""Where work runs: here, in worker processes, or on a cluster. All are ``concurrent.futures`` executors."""

from __future__ import annotations

from separatrix.executors.base import WorkerExecutor
from separatrix.executors.interruptible import until_interrupted
from separatrix.executors.processes import ProcessExecutor, yield_to_workers
from separatrix.executors.serial import SerialExecutor

__all__ = ["ProcessExecutor", "SerialExecutor", "WorkerExecutor", "until_interrupted", "yield_to_workers"]
