"""Real runs for the pages to show: finished, failed and empty ones, made once, to be looked at only."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from separatrix import Session, learn, preparing
from separatrix.errors import EngineError
from separatrix.mechanism import explain
from separatrix.store import Store
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.hub import Hub

HOLE = "4*((x^2 - 1)^2 + (x - y)^2) + 2*z^2 + 1e-6*sqrt(1.0 - (x - y))"
"""The Hummer-Szabo double well with a region where the energy is not a number: shots that enter it fail."""


def sample(path, config, steps):
    """Sample a new run in this process and return its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        Session.create(path, config).run(steps, workers=0, platform="Reference", progress=False)
    return path


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory):
    """Return the folder that holds the runs below."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def landscape_run(runs_folder):
    """Return a finished run of 300 shots on the Hummer-Szabo double well."""
    return sample(runs_folder / "landscape", {"system": {"kind": "hummer-szabo"}, "sampling": {"steps": 300}}, 300)


@pytest.fixture(scope="session")
def uniform_run(runs_folder):
    """Return a finished run of 150 shots of standard path sampling on the same landscape."""
    config = {"system": {"kind": "hummer-szabo"}, "sampling": {"steps": 150, "selector": "uniform", "seed": 7}}
    return sample(runs_folder / "uniform", config, 150)


@pytest.fixture(scope="session")
def molecule_run(runs_folder):
    """Return a finished run of 100 shots on alanine dipeptide in vacuum."""
    config = {
        "system": {"kind": "alanine-dipeptide"},
        "sampling": {"chains": 2, "steps": 100},
        "seeding": {"temperature": 1200.0},
    }
    return sample(runs_folder / "molecule", config, 100)


@pytest.fixture(scope="session")
def empty_run(runs_folder):
    """Return a run that was created and never started."""
    return Session.create(runs_folder / "empty", {"system": {"kind": "hummer-szabo"}}).path


@pytest.fixture(scope="session")
def failed_run(runs_folder):
    """Return a run with failed shots that could not go on after 40: its system was damaged."""
    table = {"A": "(x + 1)^2 + (y + 1)^2 < 0.0625", "B": "(x - 1)^2 + (y - 1)^2 < 0.0625"}
    config = {
        "system": {
            "kind": "potential",
            "expression": HOLE,
            "start": {"A": [-1.0, -1.0, 0.0], "B": [1.0, 1.0, 0.0]},
            "temperature": 120.272,
            "integrator": "brownian",
            "friction": 10.0,
            "timestep": 10.0,
        },
        "collective_variables": {"x": "x(0)", "y": "y(0)"},
        "states": table,
        "descriptors": {"columns": ["x", "y"]},
        "sampling": {"stride": 10, "max_frames": 2000, "steps": 200},
    }
    path = sample(runs_folder / "failed", config, 40)
    system = path / "system" / "system.xml"
    system.write_text(system.read_text()[:200])
    (path / "SHA256SUMS").unlink()
    with pytest.raises(EngineError, match=r"system\.xml"):
        Session.open(path).run(200, workers=0, platform="Reference", progress=False)
    return path


@pytest.fixture
def running_run(landscape_run, tmp_path):
    """Return a copy of a finished run that says it is running, and is locked by a writer as a running one is."""
    path = shutil.copytree(landscape_run, tmp_path / "running")
    with Store.open(path, writable=True) as store:
        store.commit({**store.notes, "state": "running", "target": 1000})
        yield path


@pytest.fixture(scope="session")
def table_run(runs_folder, tmp_path_factory):
    """Return a run that was made from a table of 300 configurations with two columns."""
    rng = np.random.default_rng(1)
    columns = {"x": rng.normal(size=300), "y": rng.normal(size=300)}
    n = rng.integers(1, 4, 300)
    n_b = rng.binomial(n, 1 / (1 + np.exp(-2 * columns["x"])))
    file = tmp_path_factory.mktemp("tables") / "shots.npz"
    np.savez(file, **columns, n_A=n - n_b, n_B=n_b)
    return learn(file, runs_folder / "table", counts=["n_A", "n_B"]).folder


@pytest.fixture(scope="session")
def states_run(runs_folder):
    """Return a finished run of 150 shots on a landscape with three states, explained as far as that goes."""
    path = sample(runs_folder / "states", {"system": {"kind": "three-basins"}, "sampling": {"steps": 150}}, 150)
    explain(path)
    return path


@pytest.fixture(params=["empty", "running", "failed", "finished", "molecule", "states"])
def any_run(request):
    """Return each kind of run in turn."""
    name = {"finished": "landscape_run", "molecule": "molecule_run"}.get(request.param, f"{request.param}_run")
    return request.getfixturevalue(name)


@pytest.fixture
def any_feed(any_run):
    """Return the feed of each kind of run in turn."""
    return Feed(any_run)


@pytest.fixture
def hub():
    """Return a hub without a folder, as notebooks use it."""
    hub = Hub()
    yield hub
    hub.close()
