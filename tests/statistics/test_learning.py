"""What a whole session learns, against the exact committor: error, calibration, yield. Serial, so reproducible."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from separatrix.estimates import calibration, landscape_committor, mean_with_error, perfect_yield
from separatrix.reader import Reader
from separatrix.session import Session
from separatrix.systems import build_system
from separatrix.units import thermal_energy

pytestmark = pytest.mark.statistics

STEPS = 2_000
MESHES = {
    "hummer-szabo": (np.linspace(-2, 2, 201), np.linspace(-2.2, 2.2, 221)),
    "mueller-brown": (np.linspace(-1.8, 1.3, 201), np.linspace(-0.6, 2.2, 181)),
}


@dataclass(frozen=True)
class Learned:
    """A finished run and its exact committor on the frames it visited."""

    reader: Reader
    exact: np.ndarray


@pytest.fixture(scope="module", params=MESHES)
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Run 2,000 shots on a landscape."""
    folder = tmp_path_factory.mktemp("learning") / request.param
    session = Session.create(folder, {"system": {"kind": request.param}})
    session.run(STEPS, workers=0, platform="Reference", progress=False)
    config, reader = session.config, session.reader
    landscape = build_system(config).landscape
    assert landscape is not None
    exact = landscape_committor(
        landscape,
        thermal_energy(config.system.temperature),
        config.collective_variables,
        config.states,
        *MESHES[request.param],
    )
    return Learned(reader, exact.at(reader.frames["cvs"].values))


def test_the_committor_is_right_where_the_run_has_been(learned: Learned) -> None:
    frames = learned.reader.frames
    predicted = learned.reader.predict(frames["features"].values)
    counted = (learned.exact > 0.05) & (learned.exact < 0.95)
    assert counted.sum() > 10_000
    error = float(np.sqrt(np.mean((predicted - learned.exact)[counted] ** 2)))
    print(f"\n{learned.reader.config.system.kind}: RMSE {error:.3f} over {counted.sum()} frames")
    assert error <= 0.05
    guess = float(np.sqrt(np.mean((0.5 - learned.exact)[counted] ** 2)))
    assert guess > 0.2  # knowing nothing would not pass


def test_the_committor_is_calibrated(learned: Learned) -> None:
    shots = learned.reader.shots
    report = learned.reader.model_report(learned.reader.model_versions[-1])
    held_out = report["calibration"]
    prospective = shots.isel(shot=slice(200, None))
    fresh = calibration(prospective["q"].values, prospective["n_A"].values, prospective["n_B"].values)
    print(
        f"\n{learned.reader.config.system.kind}: slope {held_out['slope']:.2f} +- {held_out['slope_error']:.2f} held "
        f"out, {fresh.slope.value:.2f} +- {fresh.slope.error:.2f} predicted before each shot"
    )
    assert 0.8 <= held_out["slope"] <= 1.2
    assert abs(held_out["intercept"]) < 0.3


def late_yield(kind: str, selector: str, seeds: tuple[int, ...], steps: int, folder: Path) -> tuple[float, float]:
    """Return transitions per shot over the last 500 shots of each seed, and its standard error."""
    found = []
    for seed in seeds:
        config = {"system": {"kind": kind}, "sampling": {"selector": selector, "seed": seed}}
        session = Session.create(folder / f"{selector}{seed}", config)
        session.run(steps, workers=0, platform="Reference", progress=False)
        ends = session.reader.shots["ends"].values[-500:]
        found.append(mean_with_error((ends[:, 0] != ends[:, 1]).astype(float)))
    error = np.sqrt(sum(one.error**2 for one in found)) / len(found)
    return float(np.mean([one.value for one in found])), float(error)


def test_the_yield_is_near_its_limit_and_uniform_selection_far_below(tmp_path: Path) -> None:
    guided, error = late_yield("hummer-szabo", "lorentzian", (2, 3, 4), STEPS, tmp_path)
    plain, plain_error = late_yield("hummer-szabo", "uniform", (2, 3), STEPS // 2, tmp_path)
    print(
        f"\nhummer-szabo, transitions per shot: {guided:.3f} +- {error:.3f} guided (limit {perfect_yield(1.0):.3f}), "
        f"{plain:.3f} +- {plain_error:.3f} uniform"
    )
    assert guided >= 0.38
    assert plain + 4 * plain_error < 0.38
