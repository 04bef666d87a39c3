"""What a session adds to its shots, what learning takes, and how shots scale with workers. Prints; asserts no times."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from separatrix.insight import insights
from separatrix.loop import Control, Loop
from separatrix.reader import Reader
from separatrix.resources import Resources
from separatrix.session import Session
from separatrix.store import Store

pytestmark = pytest.mark.benchmark


class TimedLoop(Loop):
    """A loop that keeps the time its own work takes: asking, telling, storing, committing."""

    spent: dict[str, float]
    learner_seconds: float = 0.0

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        try:
            return work()
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - begin

    def _fill(self) -> None:
        self._timed("ask and submit", super()._fill)

    def _tell(self, flight: Any, outcome: Any) -> None:
        self._timed("tell and store", lambda: super(TimedLoop, self)._tell(flight, outcome))

    def _commit(self, **changes: Any) -> None:
        self._timed("commit", lambda: super(TimedLoop, self)._commit(**changes))
        self.spent["commits"] = self.spent.get("commits", 0.0) + 1

    def _adopt(self, finished: Any) -> None:
        self._timed("adopt a model", lambda: super(TimedLoop, self)._adopt(finished))

    def _shut_down(self) -> None:
        pids = self._teacher.process_ids if hasattr(self._teacher, "process_ids") else ()
        self.learner_seconds = sum(cpu_seconds(pid) for pid in pids)
        super()._shut_down()


def cpu_seconds(pid: int) -> float:
    """Return the processor time a process has taken."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def run(folder: Path, data: dict[str, Any], steps: int, workers: int) -> tuple[TimedLoop, float]:
    """Run a session and return its loop and the wall time of sampling."""
    session = Session.create(folder, data)
    loop = TimedLoop(
        Store.open(folder, writable=True),
        session.config,
        steps,
        Resources(workers=workers, platform="Reference"),
        Control(),
    )
    loop.spent = {}
    loop.run()
    shots = Reader(folder).shots
    told = shots["time"].values
    return loop, float(told[-1] - told[0])


def test_what_a_session_adds_per_shot(tmp_path: Path) -> None:
    """Vacuum alanine, 1,000 shots on two workers."""
    before = psutil.cpu_times()
    loop, seconds = run(tmp_path / "run", {"system": {"kind": "alanine-dipeptide"}}, 1_000, 2)
    after = psutil.cpu_times()
    spent, n_commits = dict(loop.spent), loop.spent.pop("commits")
    per_shot = {name: 1e3 * value / 1_000 for name, value in loop.spent.items()}
    total_cpu = after.user + after.system + after.nice - before.user - before.system - before.nice
    reports = [Reader(tmp_path / "run").model_report(v) for v in Reader(tmp_path / "run").model_versions]
    training = sum(report["seconds"] for report in reports)
    print(f"\nvacuum alanine, 2 workers: {1_000 / seconds:.0f} shots/s")
    print("  session per shot: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in per_shot.items()), end="; ")
    print(f"in all {sum(per_shot.values()):.2f} ms")
    print(f"  {n_commits:.0f} commits of {1e3 * spent['commit'] / n_commits:.1f} ms in the mean")
    print(
        f"  {len(reports)} trainings of {training:.1f} s in all; the learner took {loop.learner_seconds:.1f} s of "
        f"{total_cpu:.1f} s of processor time of the machine ({loop.learner_seconds / total_cpu:.0%}, imports included)"
    )


def test_two_workers_against_one(tmp_path: Path) -> None:
    """Implicit water: shots per second of sampling, four chains."""
    data = {"system": {"kind": "alanine-dipeptide", "solvent": "obc2"}, "sampling": {"chains": 4}}
    rates = {}
    for turn in range(2):
        for workers in (1, 2):
            loop, _ = run(tmp_path / f"run{workers}{turn}", data, 1_000, workers)
            shots = Reader(tmp_path / f"run{workers}{turn}").shots
            late = shots.isel(shot=slice(200, None))  # before, workers start and the learner competes with them
            seconds = float(late["time"][-1] - late["time"][0])
            rates.setdefault(workers, []).append(float(late["md_steps"].sum()) / seconds)
            assert loop.status.steps == 1_000
    one, two = (sum(rates[workers]) / 2 for workers in (1, 2))
    print(f"\nobc2: {one:,.0f} MD steps/s with one worker, {two:,.0f} with two: {two / one:.2f} times as many")


def test_what_the_mechanism_so_far_takes_from_the_shots(tmp_path: Path) -> None:
    """Vacuum alanine on two workers: shots per second with the mechanism found anew all the time, and without."""
    rates: dict[int, list[float]] = {0: [], 250: []}
    for pair in range(4):
        for every, rate in rates.items():
            config = {"system": {"kind": "alanine-dipeptide"}, "analysis": {"every": every}}
            session = Session.create(tmp_path / f"{pair}-{every}", config)
            session.run(4_000, workers=2, platform="Reference", progress=False)
            told = Reader(session.path).shots["time"].values[1_000:]
            rate.append((len(told) - 1) / float(told[-1] - told[0]))
    ratios = [a / b for a, b in zip(rates[250], rates[0], strict=True)]
    found = [len(insights(tmp_path / f"{pair}-250")) for pair in range(4)]
    print(f"\nshots per second with it : without: {', '.join(f'{ratio:.3f}' for ratio in ratios)}; found {found} times")
