"""`separatrix doctor CONFIG.toml`: what is right passes, every kind of trouble is found, and what it says holds."""

from __future__ import annotations

import json
import shutil
import time
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import tomli_w
from tests.command_line import run_cli

from separatrix import config_check
from separatrix.config_check import check_config
from separatrix.session import Session
from separatrix.systems import build_system, resolve
from separatrix.timesteps import longest_timestep

PDB = Path(str(files("separatrix.systems") / "data" / "alanine-dipeptide.pdb"))
HELIX = Path(__file__).parents[1] / "data" / "helix"
VACUUM = {"system": {"kind": "alanine-dipeptide"}, "seeding": {"temperature": 1200.0}}
OWN = {
    "system": {"kind": "files", "topology": "ala.pdb", "force_field": ["amber99sbildn.xml"]},
    "collective_variables": {"phi": "dihedral('resid 0 and name C', 'resid 1 and name N', 8, 14)"},
    "states": {"left": "phi < -5", "right": "between(phi, 30, 90)"},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Measure briefly."""
    monkeypatch.setattr(config_check, "_PLATFORM_SECONDS", 0.05)
    monkeypatch.setattr(config_check, "MAX_SHOTS", 3)


def written(folder, data, **tables):
    merged = {**data, **{name: {**data.get(name, {}), **values} for name, values in tables.items()}}
    (folder / "run.toml").write_text(tomli_w.dumps(merged))
    shutil.copy(PDB, folder / "ala.pdb")
    return folder / "run.toml"


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


def test_a_good_configuration_passes_and_its_costs_are_told(tmp_path):
    config = written(tmp_path, VACUUM)
    result = run_cli("doctor", config, "--json")
    assert (result.code, result.err) == (0, "")
    found = {item["subject"]: item for item in json.loads(result.out)}
    assert {item["level"] for item in found.values()} == {"ok"}
    assert "22 particles, 12 constraints" in found["system"]["found"]
    assert "C7eq in C7eq" in found["starts"]["found"]
    assert "phi = dihedral of ACE1-C, ALA2-N, ALA2-CA, ALA2-C" in found["columns"]["found"]
    assert found["descriptors"]["found"].startswith("55, ")
    assert "hot run at 1200 K" in found["first path"]["found"]
    assert "s per shot on" in found["shots"]["found"]
    assert "for 1,000 shots" in found["disk"]["found"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "ala.pdb", config]
    words = " ".join(run_cli("doctor", config).out.split())
    assert "what --platform auto takes" in words


def test_a_landscape_has_neither_bonds_nor_inertia_to_check(tmp_path):
    found = by_subject(check_config(written(tmp_path, {"system": {"kind": "hummer-szabo"}})))
    assert {finding.level for finding in found.values()} == {"ok"}
    assert found["time step"].found.endswith("dynamics")


def test_progress_is_told(tmp_path):
    told = []
    check_config(written(tmp_path, {"system": {"kind": "hummer-szabo"}}), told.append)
    assert told[0] == "loading the system"
    assert told[-1] == "trial shots"


@pytest.mark.parametrize(
    ("tables", "subject", "says"),
    [
        ({"system": {"topology": "nowhere.pdb"}}, "system", "there is no file"),
        ({"system": {"force_field": ["tip3p.xml"]}}, "system", "no residue like ACE"),
        ({"collective_variables": {"phi": "dihedral('name C', 6, 8, 14)"}}, "columns", "'name C' selects 3"),
        ({"states": {"right": "phi < -20"}}, "starts", "overlap"),
        ({"states": {"left": "phi > 170"}}, "starts", "change a state"),
        ({"system": {"timestep": 4.0}}, "time step", "system.hydrogen_mass to 4"),
        ({"system": {"timestep": 3.0, "constraints": "none"}}, "time step", "system.constraints to h-bonds"),
        ({"seeding": {"trajectory": "ala.pdb"}}, "first path", "expected a path from one state to another"),
    ],
)
def test_trouble_is_found(tmp_path, monkeypatch, tables, subject, says):
    monkeypatch.setattr(config_check, "SEEDING_SECONDS", 0.1)
    config = written(tmp_path, OWN, **tables)
    result = run_cli("doctor", config, "--json")
    assert result.code == 1, result.err
    found = {item["subject"]: item for item in json.loads(result.out)}
    assert found[subject]["level"] == "problem"
    assert says in found[subject]["found"] + found[subject]["advice"]


def test_atoms_upon_each_other_are_named(tmp_path):
    config = written(tmp_path, OWN)
    lines = (tmp_path / "ala.pdb").read_text().splitlines()
    (first,) = [i for i, line in enumerate(lines) if line[12:16].strip() == "CB"]
    (last,) = [i for i, line in enumerate(lines) if line[12:16].strip() == "O" and line[17:20] == "ACE"]
    lines[last] = lines[last][:30] + lines[first][30:54] + lines[last][54:]
    (tmp_path / "ala.pdb").write_text("\n".join(lines) + "\n")
    found = by_subject(check_config(config))
    assert found["forces"].level == "problem"
    assert "minimise" in found["forces"].advice
    assert "ACE1-O" in found["forces"].advice or "ALA2-CB" in found["forces"].advice
    assert "shots" not in found


def test_without_a_first_path_shots_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(config_check, "SEEDING_SECONDS", 0.0)
    found = by_subject(check_config(written(tmp_path, OWN)))
    assert (found["first path"].level, found["shots"].level) == ("note", "note")
    assert "seeding.trajectory" in found["first path"].advice
    assert "at most" in found["shots"].found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, ["no such file"]),
        ("[system", ["not valid TOML"]),
        ("[system]\nkind = 'filez'", ["there is no 'filez'"]),
        ("[system]\nkind = 'files'\ntopology = 'x'\ntopolgy = 'x'", ["topolgy"]),
        ("[system]\nkind = 'table'\nfile = 'x'\nsha256 = ''", ["separatrix learn"]),
    ],
)
def test_what_is_no_configuration_ends_with_two(tmp_path, content, says):
    file = tmp_path / "run.toml"
    if content is not None:
        file.write_text(content)
    result = run_cli("doctor", file)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert all(part in line for part in says)


@pytest.mark.slow
def test_what_it_says_of_disk_holds(tmp_path, monkeypatch):
    """Against the bytes that a run of the same configuration wrote, of its shots and of nothing else."""
    monkeypatch.setattr(config_check, "MAX_SHOTS", 40)
    config = written(tmp_path, VACUUM, sampling={"chains": 1})
    case = by_subject(check_config(config))
    assert "MiB" in case["disk"].found
    told = float(case["disk"].found.split()[1]) * 2**20 / 1_000
    session = Session.create(tmp_path / "run", config)
    session.run(0, workers=0, platform="Reference", progress=False)
    before = weight(tmp_path / "run")
    session.run(200, workers=0, platform="Reference", progress=False)
    written_each = (weight(tmp_path / "run") - before) / 200
    assert told / 2.5 < written_each < 2.5 * told  # lengths of shots from a first path are not quite those of a chain


def weight(run):
    parts = ("shots", "frames", "trajectories")
    return sum(512 * path.stat().st_blocks for part in parts for path in (run / "run.zarr" / part).rglob("*"))


@pytest.mark.slow
def test_the_example_passes_within_a_minute():
    begun = time.monotonic()
    assert run_cli("doctor", HELIX / "helix.toml").code == 0
    assert time.monotonic() - begun < 60


# -- time steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "limit", "advice"),
    [
        ({"constraints": "none"}, 1.3, "h-bonds"),  # N-H swings in 10 fs
        ({"constraints": "h-bonds"}, 2.5, "hydrogen_mass"),
        ({"constraints": "all-bonds"}, 2.5, "hydrogen_mass"),
        ({"constraints": "all-bonds", "hydrogen_mass": 4.0}, 4.5, "timestep"),
    ],
)
def test_time_steps_follow_from_the_fastest_motion(tmp_path, settings, limit, advice):
    data = tomllib.loads(written(tmp_path, OWN).read_text())
    data["system"] |= {**settings, "topology": str(tmp_path / "ala.pdb")}
    found = longest_timestep(build_system(resolve(data)).openmm_system)
    assert found.femtoseconds == pytest.approx(limit, abs=0.2)
    assert advice in found.advice


def test_a_landscape_has_no_longest_time_step():
    assert longest_timestep(build_system(resolve({"system": {"kind": "two-gaussians"}})).openmm_system) is None
