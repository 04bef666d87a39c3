"""A run with symmetry functions: workers compute them, the reader predicts from them, exports say what they cannot."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from openmm import app, unit
from tests.command_line import run_cli

from separatrix import preparing
from separatrix.committor import Committor
from separatrix.config import RunConfig
from separatrix.engine import atoms_of
from separatrix.observables import Observables
from separatrix.reader import Reader
from separatrix.records import Snapshot
from separatrix.rows import restore_chains
from separatrix.session import Session
from separatrix.store import Store, write_result
from separatrix.symbolic.formula import symbols_for

FUNCTIONS = {"centers": "name CA", "neighbors": "not resname ALA", "r_s": [0.25, 0.4], "r_cutoff": 0.6}
CONFIG = {
    "system": {"kind": "alanine-dipeptide"},
    "descriptors": {"internal_coordinates": "none", "columns": ["phi"], "symmetry_functions": [FUNCTIONS]},
    "sampling": {"chains": 2, "max_frames": 2000},
}
N_COLUMNS = 2 + 4 * 2 * 11
"""Sine and cosine of phi; C, H, N and O around one centre."""
STEPS = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a finished run of alanine dipeptide, made by a worker process; its own atoms are the solvent."""
    path = tmp_path_factory.mktemp("symmetry") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        Session.create(path, CONFIG).run(STEPS, workers=1, platform="Reference", progress=False)
    return path


def test_frames_hold_what_the_positions_give(run):
    reader = Reader(run)
    frames, shots = reader.frames, reader.shots
    names = list(frames["feature"].values)
    assert len(names) == N_COLUMNS
    assert "G5(C, O, r_s=0.4, zeta=16, lambda=-1)" in names
    transitions = np.flatnonzero(shots["ends"].values[:, 0] != shots["ends"].values[:, 1])
    assert len(transitions) >= 2
    for shot in transitions:
        positions, box = reader.path_positions(int(shot))
        rows = frames["shot"].values == shot
        again = reader.observables.features(positions, box)
        np.testing.assert_allclose(again, frames["features"].values[rows], rtol=1e-4, atol=1e-5)
    solvent = frames["features"].values[:, 2:]
    assert np.isfinite(solvent).all()
    assert (np.ptp(solvent, axis=0) > 0).mean() > 0.5  # of N and of O there is one neighbour, which makes no pair


def test_the_reader_predicts_from_them(run):
    reader = Reader(run)
    assert reader.model_versions
    shot = int(np.flatnonzero(reader.shots["ends"].values[:, 0] != reader.shots["ends"].values[:, 1])[0])
    positions, _ = reader.path_positions(shot)
    p_B = reader.committor(positions)
    assert ((p_B > 0) & (p_B < 1)).all()
    rows = reader.frames["shot"].values == shot
    np.testing.assert_allclose(p_B, reader.predict(reader.frames["features"].values[rows]), atol=1e-3)
    rotated = positions @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=np.float32)
    np.testing.assert_allclose(reader.committor(rotated), p_B, atol=1e-3)


def test_chains_are_restored(run):
    store = Store.open(run)
    chains = restore_chains(store, Reader(run).observables, 2)
    assert [chain.path.features.shape[1] for chain in chains] == [N_COLUMNS] * 2


def test_explain_names_them(run):
    result = run_cli("explain", run, "--inputs", 2, "--generations", 2, "--json")
    assert result.code == 0, result.err
    found = {row["name"] for row in json.loads(result.out)["relevance"]}
    assert found & set(Reader(run).observables.descriptors.symmetry_functions.names)


def test_exports_write_them_or_say_that_they_cannot(run, tmp_path):
    column = "G5(C, O, r_s=0.4, zeta=2, lambda=+1)"
    symbols = {name: sign for sign, name in symbols_for(Reader(run).observables.descriptors.names).items()}
    symbol = symbols[column]
    row = {"expression": f"2*{symbol}", "symbols": {symbol: column}, "complexity": 1}
    losses = {"training_loss": 0.6, "validation_loss": 0.6}
    write_result(run, "mechanism", {"expressions": [row | losses], "recommended": row["expression"]})
    for ending in ("dat", "xml"):
        result = run_cli("export", "formula", run, tmp_path / f"formula.{ending}")
        assert result.code == 2
        assert result.err.count("\n") == 1
        assert f"has the symmetry function {column}, which PLUMED and OpenMM cannot be given" in result.err
        assert not (tmp_path / f"formula.{ending}").exists()
    for ending in ("py", "tex"):
        assert run_cli("export", "formula", run, tmp_path / f"formula.{ending}").code == 0
        words = (tmp_path / f"formula.{ending}").read_text()
        assert "of atoms 0-5, 16-21, r_c=0.6, r_s=0.4, zeta=2, lambda=+1" in words
    assert run_cli("export", "network", run, tmp_path / "network.pt2").code == 0
    extra = {"separatrix.json": ""}
    torch.export.load(tmp_path / "network.pt2", extra_files=extra)
    columns = {item["name"]: item for item in json.loads(extra["separatrix.json"])["columns"]}
    assert columns[column]["unit"] == ""
    assert columns[column]["v"].startswith("G5(8, O of atoms 0-5, 16-21, r_c=0.6")


def test_a_reader_folds_positions_into_the_box_of_its_run(tmp_path):
    """Without a box of their own, configurations are in that of the run's starts."""
    rng = np.random.default_rng(1)
    topology, positions, box = app.Topology(), rng.uniform(0, 2.2, size=(41, 3)), 2.2 * np.eye(3)
    chain = topology.addChain()
    for name in ("LI", *["HOH"] * 40):
        element = app.Element.getBySymbol("Li" if name == "LI" else "O")
        topology.addAtom(element.symbol.upper(), element, topology.addResidue(name, chain))
    config = RunConfig.from_data(
        {
            "system": {"kind": "lithium-chloride"},
            "collective_variables": {"r": "distance(0, 1)"},
            "states": {"A": "r < 0.3", "B": "r > 0.5"},
            "descriptors": {"symmetry_functions": [{"centers": "element Li"}]},
        }
    )
    observables = Observables(config, atoms_of(topology))
    start = Snapshot(positions=positions.astype(np.float32), box=box.astype(np.float32))
    pdb = io.StringIO()
    app.PDBFile.writeFile(topology, positions * unit.nanometer, pdb)
    names = observables.descriptors.names
    store = Store.create(
        tmp_path / "run",
        config_toml=config.to_toml(),
        topology_pdb=pdb.getvalue(),
        starts={"A": start},
        feature_names=names,
        cv_names=["r"],
        state_names=["A", "B"],
    )
    model = Committor.untrained(names, ["A", "B"])
    weights = [*model.weights[:-2], 100.0 * torch.ones_like(model.weights[-2]), model.weights[-1]]
    store.write_model(1, replace(model, version=1, weights=tuple(weights)).to_bytes(), {"density": [0] * 10})
    store.commit({})
    store.close()
    reader = Reader(tmp_path / "run")
    shifted = positions + rng.integers(-1, 2, size=(41, 3)) @ box
    inside = reader.committor(positions[None], box[None])
    np.testing.assert_allclose(reader.committor(positions[None]), inside, atol=1e-5)
    np.testing.assert_allclose(reader.committor(shifted[None]), inside, atol=1e-4)
    assert abs(reader.committor(shifted[None], 50 * box[None]) - inside).max() > 1e-3


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("[{centers = 'element Zn'}]", ["descriptors.symmetry_functions.0.centers", "'element Zn'", "selects no atom"]),
        ("[{centers = 'name CA'}]", ["descriptors.symmetry_functions.0.neighbors", "'water'", "selects no atom"]),
        ("[{neighbors = 'all'}]", ["descriptors.symmetry_functions.0.centers", "missing"]),
        ("[{centers = 'all', neighbors = [99]}]", ["there is no atom 99", "22 atoms"]),
        ("[{centers = 'all', neighbors = 'all', r_s = [1.5]}]", ["r_s", "below r_cutoff, 1 nm, got 1.5 nm"]),
        ("[{centers = 'all', neighbors = 'all', cutoff = 1}]", ["cutoff", "did you mean 'r_cutoff'?"]),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, table, says):
    result = run_cli(
        "new", tmp_path / "run", "--system", "alanine-dipeptide", "--set", f"descriptors.symmetry_functions={table}"
    )
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for part in says:
        assert part in result.err
    assert not (tmp_path / "run").exists()
