"""Sessions of visitors keep to their limits, belong to one visitor each, and leave nothing behind."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from separatrix import preparing
from separatrix.errors import ConfigError, SeparatrixError
from separatrix.reader import Reader
from separatrix.records import RunState
from separatrix.session import Session
from separatrix.store import Store
from separatrix.systems import build_system, resolve
from separatrix_dashboards.access import PermissionDeniedError
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.sandbox import LANDSCAPES, Limits, Sandbox, SandboxFullError, VisitOverError, Wish, sweep
from separatrix_dashboards.sessions import SessionPool
from separatrix_dashboards.views.live_figures import find_reference

PATIENCE = 60.0
FAST = Limits(pace=1e9)
WISH = Wish(landscape="hummer-szabo")


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    """Measure speeds briefly, and look for temporary folders in one of this test's own."""
    monkeypatch.setattr(preparing, "_MEASURE_SECONDS", 0.02)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))


@pytest.fixture
def make(tmp_path):
    """Return what makes sandboxes; they are closed with the test, and nothing is left of them."""
    made = []

    def make(limits=FAST, max_workers=1):
        folder = tmp_path / "runs"
        folder.mkdir(exist_ok=True)
        pool = SessionPool(max_workers)
        hub = Hub(folder, pool)
        made.append(Sandbox(hub, pool, limits))
        return made[-1], hub

    yield make
    for sandbox in made:
        assert sandbox.pool.close(PATIENCE) == ()
        sandbox.close()
        assert not sandbox.folder.exists()


def wait_for(condition, seconds=PATIENCE):
    """Wait until a condition holds, and assert that it does in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def steps(visit):
    return Store.open(visit.path).committed.shots


def samples(sandbox, visit):
    return sandbox.pool.session(visit.path) is not None


# -- what may be wanted ------------------------------------------------------------------------------------------------


def test_visitors_are_offered_landscapes_and_all_of_them():
    assert {"hummer-szabo", "mueller-brown", "three-basins", "two-gaussians"} <= set(LANDSCAPES)
    for name in LANDSCAPES:
        assert build_system(resolve({"system": {"kind": name}})).landscape is not None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"landscape": "alanine-dipeptide"}, "landscape: expected one of .*, got 'alanine-dipeptide'"),
        ({"landscape": "../../etc"}, "landscape: expected one of"),
        ({"landscape": None}, "landscape: expected one of"),
        ({"selection": "gaussian"}, "selection: expected guided or uniform, got 'gaussian'"),
        ({"shots": 2_001}, "shots: expected 1 to 2000, got 2001"),
        ({"shots": 0}, "shots: expected 1 to 2000, got 0"),
        ({"shots": 10.5}, "shots: expected 1 to 2000, got 10.5"),
        ({"shots": "100"}, "shots: expected 1 to 2000, got '100'"),
    ],
)
def test_what_is_not_offered_is_refused(make, changes, says):
    sandbox, _ = make()
    with pytest.raises(ConfigError, match=says):
        sandbox.begin("ada", replace(WISH, **changes))
    assert sandbox.of("ada") is None
    assert [path.name for path in sandbox.folder.iterdir()] == ["lock"]


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_a_session_belongs_to_its_visitor_and_is_in_no_gallery(make):
    sandbox, hub = make(Limits(shots=400, pace=100.0))
    key = sandbox.begin("ada", replace(WISH, selection="uniform", shots=300))
    visit = sandbox.find(key)
    assert len(key) >= 32
    assert (sandbox.of("ada"), sandbox.of("ben"), sandbox.of("")) == (visit, None, None)
    assert (sandbox.owns("ada", key), sandbox.owns("ben", key), sandbox.owns("", key)) == (True, False, False)
    wait_for(lambda: samples(sandbox, visit) and sandbox.pool.session(visit.path).status.steps > 0)
    for control in (sandbox.pause, sandbox.resume, sandbox.stop, sandbox.go_on, sandbox.discard):
        for other in ("ben", ""):
            with pytest.raises(PermissionDeniedError, match="only the visitor who began a session may"):
                control(other, key)
        with pytest.raises(VisitOverError):
            control("ada", "a guess")
    assert samples(sandbox, visit)
    assert hub.runs() == ()
    for name in (visit.path, key, f"../{key}"):
        with pytest.raises((SeparatrixError, OSError)):
            hub.feed(name)
    sandbox.pause("ada", key)
    wait_for(lambda: sandbox.pool.session(visit.path).status.state is RunState.PAUSED)
    sandbox.resume("ada", key)
    wait_for(lambda: sandbox.pool.session(visit.path).status.state is RunState.RUNNING)
    sandbox.stop("ada", key)
    wait_for(lambda: not samples(sandbox, visit))
    config = Reader(visit.path).config
    assert (config.sampling.selector, config.sampling.steps) == ("uniform", 300)
    assert 0 < steps(visit) < 300
    sandbox.discard("ada", key)
    assert sandbox.find(key) is None
    wait_for(lambda: not visit.path.parent.exists())


def test_no_session_of_another_visitor_is_a_reference(make, tmp_path):
    sandbox, hub = make()
    config = {"system": {"kind": "hummer-szabo"}, "committor": {"members": 1}}
    uniform = config | {"sampling": {"selector": "uniform"}}
    for path, data in ((sandbox.folder / "a" / "own", config), (sandbox.folder / "b" / "other", uniform)):
        Session.create(path, data).run(12, workers=0, platform="Reference", progress=False)
        sandbox.hub.feed(path)
    own = sandbox.hub.feed(sandbox.folder / "a" / "own").snapshot
    assert find_reference(sandbox.hub, own) is None
    shutil.copytree(sandbox.folder / "b" / "other", tmp_path / "runs" / "prepared")
    hub._scanned = -1e9
    assert find_reference(sandbox.hub, own).name == "prepared"


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shots_are_limited_and_so_is_what_is_added(make):
    sandbox, _ = make(Limits(shots=60, pace=1e9))
    key = sandbox.begin("ada", replace(WISH, shots=20))
    visit = sandbox.find(key)
    wait_for(lambda: steps(visit) == 20 and not samples(sandbox, visit))
    sandbox.go_on("ada", key)
    wait_for(lambda: steps(visit) == 60 and not samples(sandbox, visit))
    with pytest.raises(VisitOverError, match="60 shots"):
        sandbox.go_on("ada", key)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(seconds=1.0), id="time"),
        pytest.param(Limits(size=1_000), id="disk", marks=pytest.mark.slow),
    ],
)
def test_time_and_disk_are_limited_even_while_it_is_paused(make, monkeypatch, limits):
    monkeypatch.setattr("separatrix_dashboards.sandbox._WEIGH_SECONDS", 0.0)
    sandbox, _ = make(limits)
    key = sandbox.begin("ada", replace(WISH, shots=2_000))
    visit = sandbox.find(key)
    wait_for(lambda: samples(sandbox, visit) or visit.over)
    with contextlib.suppress(SeparatrixError):  # it may be over already
        sandbox.pause("ada", key)
    wait_for(lambda: visit.over and not sandbox._busy(visit))
    assert "begin another" in visit.over
    assert ("1 s" in visit.over) == (limits.seconds == 1.0)
    assert steps(visit) < 2_000
    with pytest.raises(VisitOverError):
        sandbox.go_on("ada", key)


def test_there_are_so_many_at_once_and_one_for_each_visitor(make):
    sandbox, _ = make(Limits(sessions=2))
    assert sandbox.wait() == 0.0
    first = sandbox.find(sandbox.begin("ada", WISH))
    wait_for(lambda: samples(sandbox, first))
    second = sandbox.find(sandbox.begin("ben", WISH))
    assert sandbox.pool.place(second.path) == 1
    assert 0.0 < sandbox.wait(second) <= sandbox.limits.seconds < sandbox.wait() <= 2 * sandbox.limits.seconds
    assert not samples(sandbox, second)
    with pytest.raises(SandboxFullError, match="all 2 places for visitors are taken"):
        sandbox.begin("cleo", WISH)
    assert sandbox.of("cleo") is None
    sandbox.stop("ada", first.key)
    wait_for(lambda: samples(sandbox, second))
    third = sandbox.find(sandbox.begin("cleo", WISH))  # in the place of what ended
    assert sandbox.find(first.key) is None
    sandbox.discard("ben", second.key)
    wait_for(lambda: samples(sandbox, third) and not second.path.parent.exists())
    again = sandbox.begin("cleo", WISH)
    assert sandbox.of("cleo").key == again
    assert sandbox.find(third.key) is None
    wait_for(lambda: samples(sandbox, sandbox.find(again)) and not third.path.parent.exists())


@pytest.mark.slow
def test_what_nobody_looks_at_goes(make):
    sandbox, _ = make(Limits(unseen=1.5, pace=1e9), max_workers=2)
    seen, unseen = (sandbox.find(sandbox.begin(name, replace(WISH, shots=10))) for name in ("ada", "ben"))
    leave = sandbox.enter(seen.key)
    wait_for(lambda: not unseen.path.parent.exists())
    time.sleep(1.0)
    assert sandbox.find(seen.key) is seen
    leave()
    wait_for(lambda: not seen.path.parent.exists())


# -- what is left ------------------------------------------------------------------------------------------------------

_SERVER = """
import sys, time, tempfile
from pathlib import Path
tempfile.tempdir = sys.argv[1]
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.sandbox import Sandbox
from separatrix_dashboards.sessions import SessionPool
pool = SessionPool(1)
print(Sandbox(Hub(Path(sys.argv[1]), pool), pool).folder, flush=True)
time.sleep(600)
"""


def test_what_a_killed_server_left_goes_when_the_next_one_starts():
    folder = tempfile.gettempdir()
    command = [sys.executable, "-c", _SERVER, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        left = Path(process.stdout.readline().strip())
        (left / "key" / "run").mkdir(parents=True)
        sweep()
        assert left.exists(), "a server that lives keeps what is its own"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert left.exists()
    young = Path(tempfile.mkdtemp(prefix="separatrix-demo-"))
    other = Path(tempfile.mkdtemp(prefix="something-else-"))
    sweep()
    assert (left.exists(), young.exists(), other.exists()) == (False, True, True)
