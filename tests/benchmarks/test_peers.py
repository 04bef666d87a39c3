"""Separatrix beside OpenPathSampling and aimmd: shooting on vacuum alanine dipeptide, learning on landscapes.

The peers run in an environment of their own, since they need an older NumPy. Prints tables and writes them, with all
figures, under build/peers; asserts nothing about them. `make bench-peers` installs what it takes and runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import mdtraj
import numpy as np
import psutil
import pytest
from tests.benchmarks.two_gaussians import sampled_committor

from separatrix.estimates import transition_region_error
from separatrix.session import Session
from separatrix.store import Store, write_trajectory
from separatrix.store.layout import read_path
from separatrix.training_data import end_counts

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "peers"
PEERS = Path(os.environ.get("SEPARATRIX_PEERS", ROOT / ".venv-peers")) / "bin" / "python"
RESULTS = ROOT / "build" / "peers"

if not PEERS.exists():
    pytest.skip(f"no environment of the peers at {PEERS}; make bench-peers makes it", allow_module_level=True)

pytestmark = pytest.mark.benchmark

# -- shooting ----------------------------------------------------------------------------------------------------------

ROUNDS, SECONDS = 5, 5.0
"""How often the contenders take turns, and how long a turn is about."""

ALANINE = {"system": {"kind": "alanine-dipeptide"}, "analysis": {"every": 0}}
"""No formulas are looked for meanwhile: the peers look for none."""

Program = tuple[Path, str, tuple[str, ...]]
"""Interpreter, script and arguments."""

CONTENDERS: dict[str, Program] = {
    "bare OpenMM, blocks of a stride": (Path(sys.executable), "bare.py", (".", "--block", "10")),
    "bare OpenMM, long blocks": (Path(sys.executable), "bare.py", (".", "--block", "5000")),
    "Separatrix, one worker": (Path(sys.executable), "ours.py", ("guided", "--workers", "1")),
    "Separatrix, in one process": (Path(sys.executable), "ours.py", ("serial", "--workers", "0")),
    "Separatrix, one worker, uniform selection": (Path(sys.executable), "ours.py", ("uniform", "--workers", "1")),
    "OpenPathSampling, uniform selection, no storage": (PEERS, "ops.py", (".", "--with", "nothing")),
    "OpenPathSampling, the same, MDTraj's dihedrals": (
        PEERS,
        "ops.py",
        (".", "--with", "nothing", "--dihedrals", "mdtraj"),
    ),
    "OpenPathSampling, uniform selection, storage": (PEERS, "ops.py", (".", "--with", "storage")),
    "OpenPathSampling and aimmd, storage": (PEERS, "ops.py", (".", "--with", "aimmd")),
}
"""All work on one and the same core."""


RATES = {
    "md_per_second": "MD steps/s",
    "md_per_cpu_second": "of processor",
    "per_minute": "Monte Carlo steps/min",
    "per_cpu_minute": "of processor",
    "transitions_per_cpu_minute": "transitions/min of processor",
}
"""Columns of the table: by the clock on the wall, and by the time of the processor, which other work hardly touches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a contender did in one turn: Monte Carlo steps, MD steps, transitions, seconds on the wall and at work."""

    steps: int
    md_steps: int
    transitions: int
    wall: float
    cpu: float


class Contender:
    """A program kept alive, asked for more Monte Carlo steps now and then."""

    def __init__(self, name: str, folder: Path, program: Program | None = None) -> None:
        python, script, arguments = program or CONTENDERS[name]
        self._log = (folder / f"{name}.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [python, SCRIPTS / script, *arguments],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._watched = psutil.Process(self._process.pid)
        if hasattr(self._watched, "cpu_affinity"):
            self._watched.cpu_affinity(psutil.Process().cpu_affinity()[-1:])
        self.versions = {key: value for key, value in self._hear().items() if key != "ready"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def make(self, steps: int) -> Turn:
        """Have it make more steps."""
        cpu, wall = self._cpu(), time.perf_counter()
        answer = self.ask(steps=steps)
        wall = time.perf_counter() - wall
        return Turn(**({"transitions": 0} | answer), wall=wall, cpu=self._cpu() - cpu)

    def ask(self, **question: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        answer = self._process.stdout.readline()
        assert answer, f"ended early: {Path(self._log.name).read_text(encoding='utf-8')[-2000:]}"
        return json.loads(answer)

    def _cpu(self) -> float:
        family = [self._watched, *self._watched.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)


def prepare(folder: Path) -> None:
    """Make the runs of Separatrix, and beside them what the others need: system, settings and the same first path."""
    for name, selector in (("guided", "lorentzian"), ("serial", "lorentzian"), ("uniform", "uniform")):
        run = Session.create(folder / name, ALANINE | {"sampling": {"selector": selector}})
    run.run(1, workers=0, platform="Reference", progress=False)
    store, config = Store.open(run.path), run.config
    for file in ("system.xml", "topology.pdb"):
        (folder / file).write_bytes((run.path / "system" / file).read_bytes())
    positions, _ = store.seed_path(0)
    sides = r"between\(phi, (-?\d+), (-?\d+)\) and between\(psi, (-?\d+), (-?\d+)\)"
    corners = [re.fullmatch(sides, text).groups() for text in config.states.values()]
    atoms = {name: re.findall(r"\d+", text) for name, text in config.collective_variables.items()}
    np.savez(
        folder / "path.npz",
        positions=positions,
        states=np.array(corners, dtype=float).reshape(-1, 2, 2),
        phi_atoms=np.array(atoms["phi"], dtype=int),
        psi_atoms=np.array(atoms["psi"], dtype=int),
        temperature=config.dynamics.temperature,
        friction=config.dynamics.friction,
        timestep=config.dynamics.timestep / 1000.0,
        stride=config.sampling.stride,
        max_frames=config.sampling.max_frames,
    )


def test_shooting_beside_openpathsampling(tmp_path: Path) -> None:
    """In turns, on one core; the first turn says how many steps a turn has and is not counted."""
    prepare(tmp_path)
    turns: dict[str, list[Turn]] = {name: [] for name in CONTENDERS}
    with contextlib.ExitStack() as stack:
        contenders = {name: stack.enter_context(Contender(name, tmp_path)) for name in CONTENDERS}
        versions = {key: value for one in contenders.values() for key, value in one.versions.items()}
        first = {name: one.make(50_000 if name.startswith("bare") else 20) for name, one in contenders.items()}
        for _ in range(ROUNDS):
            for name, one in contenders.items():
                last = (turns[name] or [first[name]])[-1]
                turns[name].append(one.make(max(2, round(last.steps * SECONDS / last.wall))))
    rows = [shooting_row(name, made) for name, made in turns.items()]
    table = [f"| on one core | {' | '.join(RATES.values())} |", "|---" * (1 + len(RATES)) + "|"]
    for row in rows:
        bare = row["name"].startswith("bare")
        known = ["" if bare and not key.startswith("md") else figure(*row[key]) for key in RATES]
        table.append(f"| {row['name']} | {' | '.join(known)} |")
    report("shooting", {"rows": rows, "turns": {k: [asdict(t) for t in v] for k, v in turns.items()}}, versions, table)


def shooting_row(name: str, turns: list[Turn]) -> dict[str, Any]:
    """Return the rates of a contender, each as its median and half the distance between the quartiles."""
    return {
        "name": name,
        "md_per_second": spread([turn.md_steps / turn.wall for turn in turns]),
        "md_per_cpu_second": spread([turn.md_steps / turn.cpu for turn in turns]),
        "per_minute": spread([60 * turn.steps / turn.wall for turn in turns]),
        "per_cpu_minute": spread([60 * turn.steps / turn.cpu for turn in turns]),
        "transitions_per_cpu_minute": spread([60 * turn.transitions / turn.cpu for turn in turns]),
    }


def spread(values: list[float]) -> tuple[float, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(middle), float(high - low) / 2


def figure(value: float, error: float) -> str:
    digits = max(0, 1 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


# -- learning ----------------------------------------------------------------------------------------------------------

CHECKPOINTS = (100, 200, 500, 1_000, 2_000)
AFTERWARDS = 1_000
"""Of so many shots aimmd learns all at once too: it takes a minute."""

SEEDS = (1, 2, 3)
MESH = (np.linspace(-1.8, 1.3, 201), np.linspace(-0.6, 2.2, 181))
"""Of the Mueller-Brown potential, nm."""

LEARNERS = ("Separatrix", "aimmd, shot by shot", "aimmd, all shots at once")
MOST_FRAMES = 20_000
"""Frames of each run on which the committors are compared, at most."""


@pytest.mark.parametrize("selector", ["lorentzian", "uniform"])
@pytest.mark.parametrize("kind", ["mueller-brown", "two-gaussians"])
def test_learning_beside_aimmd(kind: str, selector: str, tmp_path: Path) -> None:
    """The same recorded shots, in the order in which they were made."""
    errors = np.array([compare(kind, selector, seed, tmp_path / str(seed)) for seed in SEEDS])
    mean, error = errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(len(SEEDS))
    table = [f"| {kind}, {selector}: RMSE of p_B after | {' | '.join(f'{n:,}' for n in CHECKPOINTS)} shots |"]
    table.append("|---" * (1 + len(CHECKPOINTS)) + "|")
    for learner, values, uncertainties in zip(LEARNERS, mean, error, strict=True):
        known = zip(values, uncertainties, strict=True)
        cells = [f"{v:.3f} ± {u:.3f}" if np.isfinite(v) else "" for v, u in known]
        table.append(f"| {learner} | {' | '.join(cells)} |")
    data = {
        "learners": LEARNERS,
        "shots": CHECKPOINTS,
        "seeds": SEEDS,
        "rmse": np.where(np.isfinite(errors), errors, None).tolist(),
    }
    report(f"learning, {kind}, {selector}", data, {}, table)


def compare(kind: str, selector: str, seed: int, folder: Path) -> list[list[float]]:
    """Return the errors of a seed, (learners, checkpoints), on the frames that the whole run visited."""
    config = {"system": {"kind": kind}, "sampling": {"selector": selector, "seed": seed}}
    session = Session.create(folder / "run", config)
    models = []
    for checkpoint in CHECKPOINTS:
        session.run(checkpoint, workers=0, platform="Reference", progress=False)
        models.append(session.reader.model())
    shots, frames = session.reader.shots_with_frames()
    truth = sampled_committor(2_000) if kind == "two-gaussians" else session.reader.exact_committor(*MESH)
    chosen = np.linspace(0, len(frames["shot"]) - 1, min(MOST_FRAMES, len(frames["shot"]))).astype(int)
    features, p = frames["features"][chosen], truth.at(frames["cvs"][chosen])
    points = frames["features"][frames["offset"] == 0]
    assert len(points) == CHECKPOINTS[-1]
    np.savez(folder / "shots.npz", descriptors=points, counts=end_counts(shots), frames=features)
    command = [PEERS, SCRIPTS / "aimmd_learning.py", folder / "shots.npz", folder / "predictions.npz"]
    command += ["--seed", str(seed), "--afterwards", str(AFTERWARDS), "--checkpoints", *map(str, CHECKPOINTS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    theirs = np.load(folder / "predictions.npz")
    nothing = np.full(len(features), np.nan)
    afterwards = [theirs["afterwards"] if n == AFTERWARDS else nothing for n in CHECKPOINTS]
    predictions = [[model.p_B(features) for model in models], theirs["one_by_one"], afterwards]
    return [[transition_region_error(one, p).rmse for one in row] for row in predictions]


# -- storage -----------------------------------------------------------------------------------------------------------

N_PATHS, TURNS = 200, 5
Stored = dict[str, float]
"""Seconds to write and to read, bytes, and the greatest deviation of a coordinate, nm."""


def test_storage_beside_openpathsampling_and_mdtraj(tmp_path: Path) -> None:
    """The same transition paths of alanine dipeptide in every format, in turns; single precision, positions alone.

    OpenPathSampling's snapshots have velocities and box vectors besides; here they are zero.
    """
    session = Session.create(tmp_path / "run", ALANINE)
    session.run(3 * N_PATHS, workers=0, platform="Reference", progress=False)
    shots = Store.open(session.path).trajectory_shots()[-N_PATHS:]
    paths = [session.reader.path(shot) for shot in shots]
    np.savez(tmp_path / "paths.npz", **{str(number): path.xyz for number, path in enumerate(paths)})
    (tmp_path / "topology.pdb").write_bytes((session.path / "system" / "topology.pdb").read_bytes())
    made: dict[str, list[Stored]] = {}
    with Contender("storing", tmp_path, (PEERS, "storing.py", (".",))) as theirs:
        for turn in range(TURNS):
            folder = tmp_path / str(turn)
            made.setdefault("Separatrix, zarr", []).append(store_ours(paths, folder))
            made.setdefault("OpenPathSampling, netCDF", []).append(theirs.ask())
            for ending in ("h5", "xtc"):
                made.setdefault(f"MDTraj, {ending}, a file for each path", []).append(
                    store_files(paths, folder, ending)
                )
    n_frames = sum(path.n_frames for path in paths)
    table = [
        f"| {N_PATHS} paths, {n_frames:,} frames of 22 atoms | kB/path | written, frames/s | read, frames/s | off by |"
    ]
    table.append("|---|---|---|---|---|")
    for name, turns in made.items():
        write, read = (figure(*spread([n_frames / turn[key] for turn in turns])) for key in ("write", "read"))
        size, off = turns[0]["size"] / N_PATHS / 1e3, max(turn["deviation"] for turn in turns)
        table.append(f"| {name} | {size:.1f} | {write} | {read} | {off:.0e} nm |")
    report("storage", {"paths": N_PATHS, "frames": n_frames, "turns": made}, theirs.versions, table)


def store_ours(paths: list[mdtraj.Trajectory], folder: Path) -> Stored:
    """Write paths as workers do, and read them as a reader does."""
    (folder / "pending").mkdir(parents=True)
    begin = time.perf_counter()
    written = [folder / write_trajectory(folder, str(number), path.xyz, None) for number, path in enumerate(paths)]
    middle = time.perf_counter()
    found = [read_path(one)[0] for one in written]
    return measured(begin, middle, written, found, paths)


def store_files(paths: list[mdtraj.Trajectory], folder: Path, ending: str) -> Stored:
    """Write paths as files of MDTraj, and read them."""
    files = [folder / f"{number}.{ending}" for number in range(len(paths))]
    begin = time.perf_counter()
    for path, file in zip(paths, files, strict=True):
        path.save(file)
    middle = time.perf_counter()
    found = [mdtraj.load(file, **({} if ending == "h5" else {"top": paths[0].topology})).xyz for file in files]
    return measured(begin, middle, files, found, paths)


def measured(
    begin: float, middle: float, places: list[Path], found: list[np.ndarray], paths: list[mdtraj.Trajectory]
) -> Stored:
    read = time.perf_counter() - middle
    size = sum(file.stat().st_size for place in places for file in (place, *place.rglob("*")) if file.is_file())
    deviation = max(float(np.abs(one - path.xyz).max()) for one, path in zip(found, paths, strict=True))
    return {"write": middle - begin, "read": read, "size": size, "deviation": deviation}


# -- results -----------------------------------------------------------------------------------------------------------


def report(part: str, data: dict[str, Any], versions: dict[str, str], table: list[str]) -> None:
    """Print a table, and write it and all figures beside those of the other parts."""
    machine = f"{cpu_name()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"
    known = {name: metadata.version(name) for name in ("separatrix", "openmm", "torch", "numpy")} | versions
    made = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": machine, "versions": known, "table": table}
    (RESULTS / "parts").mkdir(parents=True, exist_ok=True)
    (RESULTS / "parts" / f"{part}.json").write_text(json.dumps(made | data, indent=1), encoding="utf-8")
    parts = sorted((RESULTS / "parts").glob("*.json"))
    results = {one.stem: json.loads(one.read_text(encoding="utf-8")) for one in parts}
    (RESULTS / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    pieces = [f"{name}; {one['date']}, {one['machine']}\n\n" + "\n".join(one["table"]) for name, one in results.items()]
    (RESULTS / "results.md").write_text("\n\n".join(pieces) + "\n", encoding="utf-8")
    about = ", ".join(f"{name} {version}" for name, version in known.items())
    print(f"\n{machine}; {about}\n", *table, sep="\n")


def cpu_name() -> str:
    """Return the name of the processor, as far as the system tells it."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", file.read_text(encoding="utf-8")) if file.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
