"""Executors keep the promises of ``concurrent.futures``; workers fail one by one and leave no orphans."""

from __future__ import annotations

import errno
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path

import psutil
import pytest

from separatrix.engine import limit_mesh_threads
from separatrix.errors import DeviceLostError, EngineError, WorkersLostError
from separatrix.executors import ProcessExecutor, SerialExecutor
from separatrix.executors import processes as processes_module


@pytest.fixture(params=["serial", "processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Give each kind of executor."""
    made: Executor = SerialExecutor() if request.param == "serial" else ProcessExecutor(2)
    yield made
    made.shutdown()


def test_results_and_errors_come_back(executor: Executor) -> None:
    futures = [executor.submit(pow, base, 2) for base in range(10)]
    assert [future.result(30) for future in futures] == [base**2 for base in range(10)]
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(30)
    assert executor.submit(pow, 3, 3).result(30) == 27


@pytest.fixture
def processes() -> Iterator[ProcessExecutor]:
    """Give two worker processes."""
    made = ProcessExecutor(2)
    yield made
    made.shutdown(wait=False)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Return whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_killed_worker_fails_its_own_task_alone_and_is_replaced(processes: ProcessExecutor) -> None:
    victim = processes.submit(os.getpid).result(30)
    tasks = [processes.submit(time.sleep, 8), processes.submit(time.sleep, 8)]
    assert wait_for(lambda: processes.busy == 2 and len(processes.process_ids) == 2)
    os.kill(victim, signal.SIGKILL)
    outcomes = [task.exception(30) for task in tasks]
    assert sorted((outcome is None) for outcome in outcomes) == [False, True]
    assert any(isinstance(outcome, BrokenExecutor) for outcome in outcomes)
    results = [processes.submit(pow, 2, n) for n in range(6)]
    assert [future.result(60) for future in results] == [1, 2, 4, 8, 16, 32]
    assert victim not in processes.process_ids


def test_a_task_in_a_dying_worker_raises_broken_executor(processes: ProcessExecutor) -> None:
    future = processes.submit(os._exit, 3)
    with pytest.raises(BrokenExecutor):
        future.result(30)
    assert processes.submit(pow, 2, 5).result(30) == 32


def test_a_task_that_never_ends_is_ended_and_its_worker_replaced() -> None:
    limit = [60.0]
    executor = ProcessExecutor(1, time_limit=lambda: limit[0])
    before = executor.submit(os.getpid).result(60)
    future = executor.submit(time.sleep, 10**6)
    assert wait_for(lambda: executor.busy == 1)
    limit[0] = 0.5  # asked again and again: what was learned meanwhile counts
    with pytest.raises(BrokenExecutor, match=r"ended after \d s: it took longer"):
        future.result(60)
    limit[0] = 60.0
    assert executor.submit(os.getpid).result(60) != before
    assert wait_for(lambda: not psutil.pid_exists(before), 30)
    executor.shutdown()


DIE_WHILE_SENDING = """
import os, signal
from multiprocessing.connection import Connection
def send(connection, buffer):
    if len(buffer) > 1_000_000:
        os.write(connection.fileno(), bytes(buffer[:50_000]))
        os.kill(os.getpid(), signal.SIGKILL)
    whole(connection, buffer)
whole, Connection._send = Connection._send, send
"""


def test_a_worker_killed_while_it_hands_over_a_result_is_noticed() -> None:
    executor = ProcessExecutor(1)
    executor.submit(exec, DIE_WHILE_SENDING, {}).result(30)
    assert isinstance(executor.submit(bytes, 2_000_000).exception(30), BrokenExecutor)
    assert len(executor.submit(bytes, 2_000_000).result(30)) == 2_000_000
    executor.shutdown()


def test_workers_that_cannot_start_say_why(tmp_path: Path) -> None:
    executor = ProcessExecutor(1, open, lambda worker: (str(tmp_path / "needed"),))
    with pytest.raises(WorkersLostError, match=r"could not start: FileNotFoundError: .*needed"):
        executor.submit(pow, 2, 5).result(60)
    executor.shutdown()


def test_what_cannot_be_sent_fails_alone(processes: ProcessExecutor) -> None:
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        processes.submit(lambda: 0).result(30)
    with pytest.raises(pickle.PicklingError, match="pickle"):
        processes.submit(eval, "lambda: 0").result(30)
    assert processes.submit(pow, 2, 5).result(30) == 32


def test_an_error_carries_the_lines_it_came_from(processes: ProcessExecutor) -> None:
    error = processes.submit(divmod, 1, 0).exception(30)
    assert error is not None
    assert any("Traceback" in note and "ZeroDivisionError" in note for note in error.__notes__)


def test_the_program_ends_though_nobody_shut_down(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import time\n"
        "from separatrix.executors import ProcessExecutor\n"
        "pool = ProcessExecutor(2)\n"
        "print(pool.submit(pow, 2, 5).result(30))\n"
        "pool.submit(time.sleep, 300)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("32\n", "")


def test_shutdown_without_waiting_ends_workers_at_once(processes: ProcessExecutor) -> None:
    pids = [processes.submit(os.getpid).result(30)]
    processes.submit(time.sleep, 60)
    assert wait_for(lambda: processes.busy == 1)
    start = time.monotonic()
    processes.shutdown(wait=False)
    assert wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), 5)
    assert time.monotonic() - start < 10


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from separatrix.executors import ProcessExecutor\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessExecutor(2)\n"
        "    futures = [pool.submit(time.sleep, 300) for _ in range(2)]\n"
        "    while len(pool.process_ids) < 2: time.sleep(0.05)\n"
        "    time.sleep(2)\n"
        "    print(*pool.process_ids, flush=True)\n"
        "    time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), 5)


def test_workers_do_not_run_the_main_script_again(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "from separatrix.executors import ProcessExecutor\n"
        "print('main script')\n"
        "pool = ProcessExecutor(1)\n"
        "print(pool.submit(pow, 2, 5).result(30), flush=True)\n"
        "pool.shutdown()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n") == ["main script", "32", ""]
    assert done.stderr == ""


def test_workers_ignore_interrupts_from_the_first_to_those_that_replace_others() -> None:
    executor = ProcessExecutor(1)
    for _ in range(2):
        (worker,) = {executor.submit(os.getpid).result(30)}
        task = executor.submit(time.sleep, 0.5)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker, number)
        assert task.exception(30) is None
        doomed = executor.submit(time.sleep, 60)
        os.kill(worker, signal.SIGKILL)
        assert isinstance(doomed.exception(30), BrokenExecutor)
    executor.shutdown(wait=False)


# -- lost workers ------------------------------------------------------------------------------------------------------


def lose_device(text: str) -> None:
    raise DeviceLostError(text)


def start(worker: int, folder: Path) -> None:
    """Start a worker unless a file says no."""
    if (folder / f"no-{worker}").exists():
        raise EngineError(f"worker {worker} has no device")


def test_a_worker_that_lost_its_device_is_replaced(processes: ProcessExecutor) -> None:
    before = {processes.submit(os.getpid).result(30) for _ in range(2)}
    with pytest.raises(DeviceLostError, match="CUDA device 0"):
        processes.submit(lose_device, "CUDA device 0 is gone").result(30)
    assert wait_for(lambda: len(before & set(processes.process_ids)) <= 1)
    assert [processes.submit(pow, 2, n).result(30) for n in range(4)] == [1, 2, 4, 8]
    assert (processes.workers, processes.lost) == (2, {})


def test_tasks_of_workers_that_cannot_start_are_done_by_others(tmp_path: Path) -> None:
    (tmp_path / "no-0").touch()
    executor = ProcessExecutor(2, start, lambda worker: (worker, tmp_path))
    assert [future.result(60) for future in [executor.submit(pow, 3, n) for n in range(8)]] == [3**n for n in range(8)]
    assert wait_for(lambda: executor.submit(pow, 2, 2).result(30) == 4 and executor.workers == 1, 30)
    assert executor.lost == {0: "could not start: worker 0 has no device"}
    (tmp_path / "no-1").touch()
    with pytest.raises(DeviceLostError):  # what was begun fails by itself, and the worker does not come back
        executor.submit(lose_device, "gone").result(30)
    for _ in range(2):
        with pytest.raises(
            WorkersLostError, match=r"no worker is left: .* 5 times in a row, .*: worker 1 has no device"
        ):
            executor.submit(pow, 2, 3).result(60)
    assert (executor.workers, executor.busy) == (0, 0)
    executor.shutdown()


def test_one_that_starts_late_is_not_given_up(tmp_path: Path) -> None:
    (tmp_path / "no-0").touch()
    executor = ProcessExecutor(1, start, lambda worker: (worker, tmp_path))
    future = executor.submit(pow, 2, 3)
    time.sleep(0.5)
    (tmp_path / "no-0").unlink()
    assert future.result(30) == 8
    assert (executor.workers, executor.lost) == (1, {})
    executor.shutdown()


def refuse_starts(monkeypatch: pytest.MonkeyPatch, times: float) -> list[int]:
    """Have the system refuse so many new processes, and return how many were asked for."""
    asked: list[int] = []
    launch = processes_module._WorkerProcess._Popen

    def refuse(process: object) -> object:
        asked.append(1)
        if len(asked) <= times:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return launch(process)

    monkeypatch.setattr(processes_module._WorkerProcess, "_Popen", staticmethod(refuse))
    monkeypatch.setattr(processes_module, "_REST_SECONDS", 0.01)
    return asked


def test_a_process_that_the_system_has_no_room_for_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ProcessExecutor(1)
    before = executor.submit(os.getpid).result(60)
    files = psutil.Process().num_fds()
    asked = refuse_starts(monkeypatch, 2)
    with pytest.raises(BrokenExecutor):
        executor.submit(os._exit, 3).result(30)
    assert executor.submit(os.getpid).result(60) != before
    assert (len(asked), executor.workers, dict(executor.lost)) == (3, 1, {})
    assert psutil.Process().num_fds() <= files
    executor.shutdown()


def test_a_worker_that_the_system_never_has_room_for_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ProcessExecutor(1)
    executor.submit(os.getpid).result(60)
    refuse_starts(monkeypatch, math.inf)
    with pytest.raises(BrokenExecutor):
        executor.submit(os._exit, 3).result(30)
    with pytest.raises(WorkersLostError, match="could not start: BlockingIOError"):
        executor.submit(os.getpid).result(30)
    assert executor.workers == 0
    executor.shutdown()


def test_losses_in_a_row_end_a_serial_executor_too() -> None:
    executor = SerialExecutor()
    for _ in range(4):
        assert type(executor.submit(lose_device, "lost").exception()) is DeviceLostError
    assert executor.submit(pow, 2, 3).result() == 8
    errors = [type(executor.submit(lose_device, "lost").exception()) for _ in range(5)]
    assert errors == [DeviceLostError] * 4 + [WorkersLostError]


def test_a_worker_process_limits_the_threads_of_its_mesh_and_a_process_of_others_is_left_alone() -> None:
    before = os.environ.get("OPENMM_CPU_THREADS")
    limit_mesh_threads(7)
    assert os.environ.get("OPENMM_CPU_THREADS") == before
    executor = ProcessExecutor(1, limit_mesh_threads, lambda worker: (7,))
    try:
        assert executor.submit(os.getenv, "OPENMM_CPU_THREADS").result() == "7"
    finally:
        executor.shutdown()
