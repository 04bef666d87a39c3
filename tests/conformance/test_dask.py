"""Shots made by the workers of a Dask cluster: real schedulers and worker processes, which are killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from tests.command_line import run_cli
from tests.conformance.test_session_safety import check_run, committed, wait_for

from separatrix.errors import ClusterError
from separatrix.reader import Reader
from separatrix.records import Reason, RunState, Snapshot
from separatrix.session import Session
from separatrix.shooting import ClusterSpec, join_cluster
from separatrix.store import Store

pytest.importorskip("distributed")
from distributed import LocalCluster

from separatrix.executors.dask import DaskExecutor
from separatrix.executors.dask_worker import versions

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")

SYSTEM = {"system": {"kind": "hummer-szabo", "friction": 250.0}, "sampling": {"chains": 6}}


def local_cluster(n_workers):
    """Return a scheduler in this process, and worker processes of one thread each."""
    # Dask's server for statistics takes one port for all, and warns, unless it may choose.
    options = {"dashboard_address": "127.0.0.1:0", "silence_logs": "CRITICAL"}
    return LocalCluster(n_workers=n_workers, threads_per_worker=1, **options)


@pytest.fixture(scope="module")
def cluster():
    """Return a scheduler in this process, with worker processes that are replaced when they die."""
    with local_cluster(2) as made:
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
        wait_for(lambda: count(path, "worker joined") == 4, 180.0)  # Dask starts them, and waits 30 s where one is lost
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


def hang():
    """Keep a worker's own thread at work for ever, and let the worker answer all the same."""
    time.sleep(10**6)


def bench(threads):
    """Return a bench that has nothing but its process to tell of."""
    return SimpleNamespace(report=(threads, os.getpid()), abandon=lambda: None)


def test_a_task_that_never_ends_is_ended_with_its_worker(cluster):
    limit = [60.0]
    executor = DaskExecutor(cluster.scheduler_address, bench, (), "a test", lambda: limit[0])
    try:
        wait_for(lambda: executor.workers == 2)
        before = set(worker_pids(cluster))
        others = [executor.submit(pow, 2, number) for number in range(3)]
        assert [future.result(60) for future in others] == [1, 2, 4]
        stuck, behind = executor.submit(hang), [executor.submit(pow, 2, number) for number in range(8)]
        wait_for(lambda: sum(future.done() for future in behind) == 7)  # one waits behind it
        limit[0] = 1.0  # asked again and again: what was learned meanwhile counts
        with pytest.raises(BrokenExecutor, match=r"ended after \d s: it took longer"):
            stuck.result(60)
        limit[0] = 60.0
        assert [future.result(60) for future in behind] == [2**number for number in range(8)]
        wait_for(lambda: executor.workers == 2)
        assert len(before & set(worker_pids(cluster))) == 1
        assert next(news.reason for news in executor.news() if news.event == "lost").startswith("the task was ended")
    finally:
        executor.shutdown(wait=False)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_four_workers_of_which_one_is_killed_every_ten_seconds(path):
    rng = np.random.default_rng(4)
    with local_cluster(4) as cluster:
        session = start(path, cluster, 10**6)
        try:
            wait_for(lambda: session.status.workers == 4)
            before, n_kills = committed(path), 12
            for _ in range(n_kills):
                end = time.monotonic() + 10
                pids = worker_pids(cluster)
                kill(pids[rng.integers(len(pids))])
                time.sleep(max(0.0, end - time.monotonic()))
                assert committed(path) > before, "the run stands still"
                before = committed(path)
        finally:
            session.stop()
        steps = committed(path)
        again = start(path, cluster, steps + 50)
        assert again.wait(60)
    shots = check_run(path)["shots"]
    assert len(shots["chain"]) == again.status.steps == steps + 50
    failures = check_failures(path, again.status)
    lost = count(path, "worker lost")
    assert n_kills // 2 < lost <= n_kills  # who is killed before it has joined again is not lost
    assert 0 < len(failures) <= n_kills


# -- what can be wrong -------------------------------------------------------------------------------------------------


def test_a_scheduler_that_goes_away_ends_a_run_with_one_line(path):
    cluster = local_cluster(0)
    try:
        session = start(path, cluster, 10)
        wait_for(lambda: session.status.message == "waiting for workers" and session._loop._recruits is not None)
        address = cluster.scheduler_address
    finally:
        cluster.close()
    with pytest.raises(ClusterError, match=f"the Dask scheduler at {address} is gone; start one again"):
        session.wait(20)
    assert Reader(path).status().state is RunState.FAILED
    assert not list((path / "pending").iterdir())
    assert session.run(4, workers=0, platform="Reference", progress=False).steps == 4


def test_a_worker_without_separatrix_is_refused_and_told(path):
    code = "import sys; sys.modules['separatrix'] = None; from distributed.cli.dask_worker import main; main()"
    with local_cluster(0) as cluster:
        worker = subprocess.Popen(
            [sys.executable, "-c", code, cluster.scheduler_address, "--no-dashboard", "--nworkers=1", "--no-nanny"],
            stderr=subprocess.DEVNULL,
        )
        try:
            session = start(path, cluster, 10)
            with pytest.raises(
                ClusterError, match=r"none of 1 Dask workers can be used: on .* there is separatrix none"
            ):
                session.wait(30)
        finally:
            worker.kill()
            worker.wait()
    assert count(path, "worker refused") == 1


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused(path, cluster, monkeypatch):
    monkeypatch.setattr("separatrix.executors.dask.versions", lambda: versions() | {"numpy": "1.0"})
    session = start(path, cluster, 10)
    with pytest.raises(ClusterError, match=r"none of 2 Dask workers can be used: .* there is numpy .* \(here 1.0\)"):
        session.wait(30)


def test_a_scheduler_of_another_version_is_refused(path, cluster, monkeypatch):
    monkeypatch.setattr("separatrix.executors.dask.versions", lambda: versions() | {"separatrix": "9.9"})
    with pytest.raises(ClusterError, match=r"expected separatrix 9.9 as in this session, found .*; start scheduler"):
        start(path, cluster, 10).wait(30)


def test_a_worker_that_does_not_see_the_run_says_so(path):
    spec = ClusterSpec(
        run=path,
        beacon=path / "pending" / "not-there",
        platform="Reference",
        precision="mixed",
        descriptor_device="cpu",
        start=Snapshot(positions=np.zeros((1, 3), np.float32)),
    )
    with pytest.raises(ClusterError, match="expected the run on a file system that the session and all workers see"):
        join_cluster(1, spec)


SLURM = """
[cluster]
kind = "slurm"
partition = "short"
workers = { min = 1, max = 2 }
directives = ["--gres=gpu:1"]
"""

MISTAKES = {
    "no scheduler": (["--executor", "dask"], ["executor = dask", "scheduler", "cluster", "got neither"]),
    "two clusters": (
        ["--executor", "dask", "--scheduler", "tcp://a:1", "--cluster", "cluster.toml"],
        ["executor = dask", "got both"],
    ),
    "scheduler alone": (["--scheduler", "tcp://a:1"], ["scheduler", "executor = dask alone", "processes"]),
    "unknown executor": (["--executor", "mpi"], ["executor", "processes or dask", "'mpi'"]),
    "workers": (["--executor", "dask", "--scheduler", "tcp://a:1", "--workers", 2], ["workers", "the cluster decides"]),
    "platform": (
        ["--executor", "dask", "--scheduler", "tcp://a:1", "--platform", "GPU"],
        ["platform", "there is no 'GPU'"],
    ),
    "no file": (["--executor", "dask", "--cluster", "none.toml"], ["none.toml", "no such file"]),
    "unknown key": (
        ["--executor", "dask", "--cluster", "cluster.toml"],
        ["cluster.toml", "cluster.partitions", "unknown key", "'partition'"],
        SLURM.replace("partition", "partitions"),
    ),
    "lines": (
        ["--executor", "dask", "--cluster", "cluster.toml"],
        ["cluster.toml", "cluster.partition"],
        SLURM.replace("short", "short\\nrm"),
    ),
    "range": (
        ["--executor", "dask", "--cluster", "cluster.toml"],
        ["cluster.workers", "min of at most max", "got 5 and 2"],
        SLURM.replace("min = 1", "min = 5"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch, mistake):
    arguments, says, *text = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.toml").write_text(text[0] if text else SLURM)
    done = run_cli("run", "run", "--system", "hummer-szabo", *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert all(part in done.err for part in says), done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_no_scheduler_is_one_clear_line(path):
    done = run_cli("run", path, "--executor", "dask", "--scheduler", "tcp://127.0.0.1:9")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("error: no Dask scheduler answered at tcp://127.0.0.1:9 within 10 s")


SBATCH = """#!/bin/sh
cp "$1" "$JOBS/job.$$"
setsid sh "$JOBS/job.$$" > "$JOBS/out.$$" 2>&1 &
echo $! > "$JOBS/pid.$!"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -9 -- "-$job"; echo "$job" >> "$JOBS/cancelled"; done
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Return a function that puts two scripts in the place of SLURM's commands, and where they note what they did."""
    bin_, jobs = tmp_path / "bin", tmp_path / "jobs"
    for folder in (bin_, jobs):
        folder.mkdir()
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(jobs))
    (tmp_path / "cluster.toml").write_text(SLURM.replace("min = 1", "min = 2"))

    def install(sbatch):
        for name, text in (("sbatch", sbatch), ("scancel", SCANCEL)):
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        return jobs

    return install


@pytest.mark.slow
def test_slurm_is_asked_for_workers_that_come_and_are_cancelled(path, tmp_path, slurm):
    """A job is started here, and killed."""
    jobs = slurm(SBATCH)
    interrupt = signal.getsignal(signal.SIGINT)
    session = Session.open(path)
    session.start(60, executor="dask", cluster=tmp_path / "cluster.toml", platform="Reference")
    try:
        assert session.wait(120)
    finally:
        session.stop()
    assert session.status.steps == 60
    assert session.status.workers == 2
    assert signal.getsignal(signal.SIGINT) is interrupt
    check_run(path)
    scripts = [file.read_text() for file in jobs.glob("job.*")]
    assert len(scripts) == 2
    for script in scripts:
        assert "#SBATCH -p short" in script
        assert "#SBATCH --gres=gpu:1" in script
    started = {int(file.read_text()) for file in jobs.glob("pid.*")}
    assert {int(line) for line in (jobs / "cancelled").read_text().split()} == started
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in started), 10)


def test_a_job_that_slurm_refuses_is_one_clear_line(path, tmp_path, slurm, capfd):
    slurm("#!/bin/sh\necho 'sbatch: error: invalid partition specified: short' >&2; exit 1\n")
    session = Session.open(path)
    session.start(60, executor="dask", cluster=tmp_path / "cluster.toml", platform="Reference")
    with pytest.raises(ClusterError, match="sbatch refuses the job: sbatch: error: invalid partition specified: short"):
        session.wait(30)
    assert capfd.readouterr().err == ""


def test_without_slurm_a_cluster_file_is_refused(path, tmp_path):
    (tmp_path / "cluster.toml").write_text(SLURM)
    session = Session.open(path)
    session.start(60, executor="dask", cluster=tmp_path / "cluster.toml", platform="Reference")
    with pytest.raises(ClusterError, match="expected SLURM's sbatch on this machine, found none"):
        session.wait(30)


def test_the_doctor_shows_the_job_that_is_submitted(path, tmp_path, slurm):
    """With a command that notes the job: line for line the same, but for what a session alone knows."""
    jobs = slurm('#!/bin/sh\ncp "$1" "$JOBS/job"; echo refused >&2; exit 1\n')
    checked = run_cli("doctor", tmp_path / "cluster.toml", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(checked.out)}
    assert checked.code == 0, findings
    assert "begins with 2; up to 2" in findings["workers"]["found"]
    assert not (jobs / "job").exists()
    session = Session.open(path)
    session.start(60, executor="dask", cluster=tmp_path / "cluster.toml")
    with pytest.raises(ClusterError, match="refused"):
        session.wait(30)
    submitted = (jobs / "job").read_text().strip().replace(str(path), "RUN")
    submitted = re.sub(r"tcp://\S+", "ADDRESS-OF-THE-SESSION", submitted)
    assert findings["job"]["found"] == re.sub(r"--name \S+", "--name NAME", submitted)


def test_the_doctor_says_where_no_job_can_be_submitted(tmp_path):
    (tmp_path / "cluster.toml").write_text(SLURM)
    checked = run_cli("doctor", tmp_path / "cluster.toml")
    assert checked.code == 1
    assert "no sbatch on this machine" in checked.out
    assert "#SBATCH --gres=gpu:1" in checked.out
    (tmp_path / "cluster.toml").write_text(SLURM.replace("partition", "partitions"))
    assert "cluster.partitions: unknown key" in run_cli("doctor", tmp_path / "cluster.toml").err
