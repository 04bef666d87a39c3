"""Shots made by the workers of a Dask cluster: real schedulers and worker processes, which are killed meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from tests.command_line import run_cli
from tests.conformance.test_session_safety import check_run, committed, wait_for

from separatrix.reader import Reader
from separatrix.records import Reason, RunState
from separatrix.session import Session
from separatrix.store import Store

pytest.importorskip("distributed")
from distributed import LocalCluster

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")

SYSTEM = {"system": {"kind": "hummer-szabo", "friction": 250.0}, "sampling": {"chains": 6}}


@pytest.fixture(scope="module")
def cluster():
    """Return a scheduler in this process, with worker processes that are replaced when they die."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL") as made:
        yield made


@pytest.fixture
def path(tmp_path):
    """Return a new run."""
    Session.create(tmp_path / "run", SYSTEM)
    return tmp_path / "run"


def start(path, cluster, steps, **resources):
    session = Session.open(path)
    session.start(steps, executor="dask", scheduler=cluster.scheduler_address, platform="Reference", **resources)
    return session


def worker_pids(cluster):
    """Return the processes of the workers that are there now."""
    return [worker.process.pid for worker in cluster.workers.values() if worker.process is not None]


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def left_in(cluster):
    """Return what sessions have left in a scheduler and its workers."""
    scheduler = cluster.scheduler
    clients = [name for name in scheduler.clients if name != "fire-and-forget"]
    plugins = [name for name in scheduler.worker_plugins if name.startswith("separatrix")]
    return [*scheduler.tasks, *clients, *plugins]


def failures_of(path):
    return [event for event in Reader(path).log() if event["event"] == "failure"]


def check_failures(path, status):
    """Assert that every failure is in the log, in a row and in the totals, once."""
    events = failures_of(path)
    shots = Store.open(path).shots()
    assert not (shots["reason"] == Reason.FAILURE).any()
    assert status.failures == shots["retries"].sum() == len(events)
    for event in events:
        (row,) = np.flatnonzero((shots["chain"] == event["chain"]) & (shots["step"] == event["step"]))
        assert shots["seed"][row] == event["seed"]
    return events


def count(path, event):
    return sum(each["event"] == event for each in Reader(path).log())


def test_workers_that_are_killed_lose_no_shot_and_others_join(path, cluster):
    session = start(path, cluster, 10**6)
    try:
        wait_for(lambda: session.status.workers == 2 and session.status.steps >= 10)
        for pid in worker_pids(cluster):
            kill(pid)
        wait_for(lambda: count(path, "worker lost") == 2)
        wait_for(lambda: count(path, "worker joined") == 4)
        before = session.status.steps
        wait_for(lambda: session.status.steps >= before + 5)
    finally:
        session.stop()
    steps = committed(path)
    assert steps == session.status.steps >= 10
    again = start(path, cluster, steps + 50)
    assert again.wait(60)
    assert again.status.state is RunState.FINISHED
    assert len(check_run(path)["shots"]["chain"]) == again.status.steps == steps + 50
    assert 0 < len(check_failures(path, again.status)) <= 2
    assert not list((path / "pending").iterdir())
    wait_for(lambda: not left_in(cluster), 10)


@pytest.mark.slow
def test_a_paused_and_stopped_session_leaves_nothing(path, cluster):
    session = start(path, cluster, 10**6)
    try:
        wait_for(lambda: session.status.steps >= 10)
        assert session.status.workers == 2
        session.pause()
        wait_for(lambda: Reader(path).status().state is RunState.PAUSED)
        steps = session.status.steps
        assert committed(path) == steps
        assert Reader(path).status().workers == 2
        assert not [key for key in cluster.scheduler.tasks if "join" not in key]
        session.resume()
        wait_for(lambda: session.status.steps > steps)
    finally:
        session.stop()
    assert session.wait()
    assert session.status.state is RunState.STOPPED
    wait_for(lambda: not left_in(cluster), 10)
    assert not list((path / "pending").iterdir())
    check_run(path)
    # The same run goes on with processes of this machine, and on the cluster again.
    steps = committed(path)
    assert session.run(steps + 10, workers=1, platform="Reference", progress=False).steps == steps + 10
    again = start(path, cluster, steps + 20)
    assert again.wait(60)
    assert len(check_run(path)["shots"]["chain"]) == steps + 20


def test_a_session_that_is_killed_leaves_nothing_and_its_run_goes_on(path, cluster):
    long = "--platform=Reference", "--executor=dask", f"--scheduler={cluster.scheduler_address}"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from separatrix.cli import main; main()",
            "run",
            str(path),
            "--steps",
            "1000000",
            *long,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: committed(path) > 20)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not left_in(cluster), 10)
    wait_for(lambda: all(psutil.Process(pid).cpu_percent(0.2) < 50 for pid in worker_pids(cluster)), 10)
    steps = len(check_run(path)["shots"]["chain"])
    session = start(path, cluster, steps + 20)
    assert session.wait(60)
    assert len(check_run(path)["shots"]["chain"]) == steps + 20
    assert not list((path / "pending").iterdir())


def test_no_scheduler_is_one_clear_line(path):
    done = run_cli("run", path, "--executor", "dask", "--scheduler", "tcp://127.0.0.1:9")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("error: no Dask scheduler answered at tcp://127.0.0.1:9 within 10 s")
