"""A run, read-only: what notebooks, pages and `separatrix show` see. Follows a live run by cursor, takes no lock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import mdtraj
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from separatrix.committor import Committor
from separatrix.config import RunConfig
from separatrix.engine import read_atoms
from separatrix.errors import AnalysisError, ConfigError, SeparatrixError, StoreError
from separatrix.estimates import (
    Grid,
    clopper_pearson,
    landscape_committor,
    transition_yield,
    transitions_by_pair,
)
from separatrix.observables import Observables, TableObservables
from separatrix.records import Atoms, FloatArray, IntArray, Reason, RunState, Status
from separatrix.rows import are_transitions, outcome_counts, restore_status
from separatrix.store import (
    CONFIG,
    TOPOLOGY,
    GrowingTable,
    Store,
    Validations,
    check_files,
    is_locked,
    read_events,
    read_result,
    shot_columns,
    shot_dimensions,
)
from separatrix.systems import build_system
from separatrix.training_data import TrainingData, build_training_data
from separatrix.trajectory import imaged, molecules_of
from separatrix.units import thermal_energy

_MOST_SHOWN: Final = 30
"""Names in one message."""

_MODELS_KEPT: Final = 8
"""A run that is followed for a week has thousands, of some MB each where there are many descriptors."""


class Reader:
    """Reads one run.

    Properties look at the disk anew each time, so a reader of a live run is never behind its last commit; what was
    read once is kept, and only new rows are fetched.

    Parameters
    ----------
    path : folder of the run

    Raises
    ------
    RunNotFoundError
        If there is no run.
    StoreError
        If it is damaged or of another version.
    """

    def __init__(self, path: Path | str) -> None:
        self.folder = Path(path).absolute()
        self._store = Store.open(self.folder)
        where = self.folder / CONFIG
        self.config = _read_config(where)
        sources = [CONFIG] if self.config.table is not None else [CONFIG, TOPOLOGY]
        try:
            self._observe()
        except SeparatrixError:
            check_files(self.folder, *sources)  # which may be why
            raise
        self._check_config(where)
        # Last: that a number is another one could not be told otherwise. The system is looked at by who simulates it.
        check_files(self.folder, *sources)
        store = self._store  # the tables may not know the reader
        rows = {"shots": store.shots, "frames": store.frames}
        self._tables = {name: GrowingTable(read, lambda: store.history) for name, read in rows.items()}
        self._models: dict[tuple[int, int], Committor] = {}

    def _observe(self) -> None:
        self.observables: Observables | TableObservables
        if self.config.table is not None:
            self.observables = TableObservables(self.config)
        else:
            atoms = _read_atoms(self.folder / TOPOLOGY)
            self.observables = Observables(self.config, atoms)
            self._molecules = molecules_of(atoms)

    def _check_config(self, where: Path) -> None:
        """Refuse a configuration that was changed since: what is stored would mean something else."""
        for what, given, stored in (
            ("states", self.observables.states.names, self._store.state_names),
            ("collective variables", self.observables.columns.names, self._store.cv_names),
            ("descriptors", self.observables.descriptors.names, self._store.feature_names),
        ):
            if tuple(given) != tuple(stored):
                raise StoreError(
                    f"{where}: expected the {what} this run was made with ({_few(stored, given)}), "
                    f"found {_few(given, stored)}; a run's configuration is fixed: undo the change, or make a new run"
                )

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states, in the order of their indices."""
        return self._store.state_names

    @property
    def shots(self) -> xr.Dataset:
        """Every committed trial: one row each, in the order in which they were told; the row is the shot's number.

        Variables are those of the store (``shots["chain"]``, ``shots["q"]``, ...); ``ends`` is (shot, end), and
        ``reason`` is in words. Where two states have ``n_A`` and ``n_B``, more have ``n_ends`` (shot, state).
        """
        columns = self.columns("shots")
        known = shot_columns(len(self.state_names))
        data: dict[str, Any] = {}
        for name, column in columns.items():
            _, units, meaning = known[name]
            values = np.array([reason.label for reason in Reason])[column] if name == "reason" else column
            data[name] = (("shot", *shot_dimensions(name)), values, {"units": units, "long_name": meaning})
        coordinates: dict[str, Any] = {"shot": np.arange(len(columns["chain"]))}
        if "n_ends" in columns:
            coordinates["state"] = list(self.state_names)
        return xr.Dataset(data, coords=coordinates, attrs={"states": self.state_names})

    @property
    def frames(self) -> xr.Dataset:
        """Kept frames of all shots: ``cvs`` (frame, cv), ``features`` (frame, feature), ``shot``, ``offset``.

        ``offset`` counts frames from the shooting point: below 0 the backward half, above 0 the forward half, of the
        trial as stored.
        """
        columns = self.columns("frames")
        return xr.Dataset(
            {
                "cvs": (("frame", "cv"), columns["cvs"]),
                "features": (("frame", "feature"), columns["features"]),
                "shot": ("frame", columns["shot"]),
                "offset": ("frame", columns["offset"]),
            },
            coords={"cv": list(self._store.cv_names), "feature": list(self._store.feature_names)},
            attrs={"states": self.state_names},
        )

    @property
    def model_versions(self) -> list[int]:
        """Versions of the committor models that exist, oldest first; version 0, the untrained one, is not stored."""
        self._store.refresh()
        return self._store.model_versions()

    def model(self, version: int | None = None) -> Committor:
        """Return a committor model, the newest by default.

        Parameters
        ----------
        version : counted from 1; 0 is a model that was never trained

        Raises
        ------
        StoreError
            If there is no such version.
        ColumnMismatchError
            If it was trained on other descriptors than those of this run.
        """
        versions = self.model_versions
        if version is None:
            version = versions[-1] if versions else 0
        key = self._store.history, version
        model = self._models.pop(key, None) or self._load(version)
        self._models[key] = model  # the last of them; the first was asked for the longest ago
        if len(self._models) > _MODELS_KEPT:
            del self._models[next(iter(self._models))]
        return model

    def _load(self, version: int) -> Committor:
        if version == 0:
            return Committor.untrained(self._store.feature_names, self._store.state_names)
        model = Committor.from_bytes(self._store.model(version))
        model.check_columns(self._store.feature_names)
        return model

    def shots_with_frames(self) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]:
        """Return the columns of the shots and those of their frames; of shots that came between, there are none."""
        shots, frames = self.columns("shots"), self.columns("frames")
        n_frames = int(np.searchsorted(frames["shot"], len(shots["chain"])))
        return shots, {name: column[:n_frames] for name, column in frames.items()}

    @property
    def history(self) -> int:
        """How often the run was found cut back, as by a repair; rows and models may be others than before."""
        self._store.refresh()
        return self._store.history

    @property
    def n_frames(self) -> int:
        """Number of committed frames."""
        return self._store.refresh().frames

    def frame_rows(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return the raw columns of some of the frames, read from the disk each time.

        Parameters
        ----------
        start, stop : rows, the last one not among them
        """
        return self._store.frames(start, stop)

    def shooting_points(self) -> TrainingData:
        """Return the shooting points of all shots that ended in a state, with what each came to."""
        shots, frames = self.shots_with_frames()
        return build_training_data(
            shots=shots,
            frames=frames,
            n_states=len(self.state_names),
            config=self.config.committor.model_copy(update={"frames": False}),
            by_chain=self.config.holds_out_groups,
        )

    def check_two_states(self, what: str) -> None:
        """Refuse what is for two states so far.

        Parameters
        ----------
        what : is for two states, to begin the error

        Raises
        ------
        AnalysisError
            If the run has more.
        """
        if len(self.state_names) != 2:
            raise AnalysisError(
                f"{self.folder}: {what}: expected a run with two states, found {len(self.state_names)} "
                f"({', '.join(self.state_names)}); look at one pair of them in a run of its own"
            )

    def trained_model(self) -> Committor:
        """Return the newest committor model.

        Raises
        ------
        AnalysisError
            If there is no trained model yet.
        """
        if not self.model_versions:
            raise AnalysisError(
                f"{self.folder}: expected a trained committor, found none; the first training comes after ten shots: "
                f"{self.more_shots()}"
            )
        return self.model()

    def more_shots(self) -> str:
        """Return how this run comes by more shots, for the end of an error message."""
        if self.config.table is not None:
            return "make a run from a table with more rows, or with more groups"
        return f"sample more with separatrix run {self.folder}"

    def model_report(self, version: int) -> dict[str, Any]:
        """Return what the training of a version gave: losses, learning rate, efficiency factor, calibration.

        Parameters
        ----------
        version : of the model, counted from 1
        """
        self._store.refresh()
        return self._store.model_report(version)

    def path_positions(self, shot: int) -> tuple[FloatArray, FloatArray | None]:
        """Return positions (n_frames, n_atoms, 3) nm and box (n_frames, 3, 3) nm or None of a transition.

        They are as they were simulated, with molecules wherever they went; of a reduced path they are the solute's.

        Parameters
        ----------
        shot : number of the shot, its row in `shots`
        """
        self._store.refresh()
        return self._store.trajectory(shot)

    def path_frames(self, shot: int, *, solute: bool = False) -> tuple[FloatArray, FloatArray | None]:
        """Return a transition as one wants to look at it: the solute in the middle of the box, its molecules together.

        Parameters
        ----------
        shot : number of the shot, its row in `shots`
        solute : leave the other atoms out

        Returns
        -------
        positions : (n_frames, n_atoms, 3), nm; of a reduced path those of the solute alone
        box : (n_frames, 3, 3), nm, or None
        """
        positions, box = self.path_positions(shot)
        if solute and positions.shape[1] > len(self.solute):
            positions = positions[:, self.solute]
        return self._centred(positions, box), box

    def _centred(self, positions: FloatArray, box: FloatArray | None) -> FloatArray:
        solute, molecules = self.solute, self._molecules
        if positions.shape[1] < len(molecules):
            solute, molecules = np.arange(len(solute)), molecules[solute]
        return imaged(positions, box, molecules, solute)

    @property
    def solute(self) -> IntArray:
        """Indices of the atoms that are no solvent: neither waters nor, beside other molecules, salt."""
        return self.observables.solute

    def has_whole_path(self, shot: int) -> bool:
        """Return whether all atoms of the path of a shot are stored, not the solute alone.

        Parameters
        ----------
        shot : number of the shot, its row in `shots`
        """
        return self._store.is_whole(shot)

    def path_trajectory(self, positions: FloatArray, box: FloatArray | None) -> mdtraj.Trajectory:
        """Return positions, of all atoms or of the solute, as an MDTraj trajectory with topology and time axis (ps).

        In a periodic box the solute is in its middle, its molecules together, and the others are around it.

        Parameters
        ----------
        positions : (n_frames, n_atoms, 3), nm
        box : (n_frames, 3, 3), nm, or None without one
        """
        topology = mdtraj.load_topology(str(self.folder / TOPOLOGY))
        if positions.shape[1] < topology.n_atoms:
            topology = topology.subset(self.solute)
        positions = self._centred(positions, box)
        spacing = self.config.sampling.stride * self.config.dynamics.timestep / 1000.0
        trajectory = mdtraj.Trajectory(positions, topology, time=np.arange(len(positions)) * spacing)
        if box is not None:
            trajectory.unitcell_vectors = box
        return trajectory

    def path(self, shot: int) -> mdtraj.Trajectory:
        """Return the path of a shot, from the lower-indexed to the higher-indexed state.

        In a periodic box the solute is in its middle, its molecules together, and the others are around it. Of a
        reduced path (``sampling.stored_paths = "solute"``) there is the solute alone.

        Parameters
        ----------
        shot : number of the shot, its row in `shots`

        Raises
        ------
        StoreError
            If the shot is no transition (only those are stored) or does not exist.
        """
        return self.path_trajectory(*self.path_positions(shot))

    def committor(self, positions_nm: ArrayLike, box: ArrayLike | None = None) -> FloatArray:
        """Return p_B (n,) of configurations, by the newest model; for more than two states p of each, (n, n_states).

        Parameters
        ----------
        positions_nm : (n, n_atoms, 3), nm
        box : (n, 3, 3), nm, for a periodic system; by default that of the configurations it was started from

        Raises
        ------
        AnalysisError
            If the run was made from a table, which knows no positions.
        """
        positions = np.asarray(positions_nm, dtype=np.float32)
        if isinstance(self.observables, TableObservables):
            raise AnalysisError(
                f"{self.folder} was made from a table and knows no positions; "
                f"give predict() the columns {', '.join(self._store.feature_names)}"
            )
        n_atoms = self.observables.n_atoms
        if positions.ndim != 3 or positions.shape[1:] != (n_atoms, 3):
            raise ValueError(f"expected positions of shape (n, {n_atoms}, 3) nm, got {positions.shape}")
        vectors = self._own_box(len(positions)) if box is None else np.asarray(box, dtype=np.float32)
        return self.predict(self.observables.features(positions, vectors))

    def _own_box(self, n_frames: int) -> FloatArray | None:
        """Return the box of the run's starts for each of some frames, None without periodic boundaries."""
        starts = self._store.starts()
        box = next(iter(starts.values())).box if starts else None
        return None if box is None else np.repeat(box[None], n_frames, axis=0)

    def predict(self, features: ArrayLike) -> FloatArray:
        """Return p_B (n,) of descriptors (n, d) in the order of ``frames["feature"]``, by the newest model.

        For more than two states it is the probability of each, (n, n_states), in the order of ``state_names``.

        Parameters
        ----------
        features : (n, d), in the units of the columns
        """
        values = np.asarray(features, dtype=np.float32)
        expected = len(self._store.feature_names)
        if values.ndim != 2 or values.shape[1] != expected:
            raise ValueError(f"expected descriptors of shape (n, {expected}), got {values.shape}")
        model = self.model()
        return model.p_B(values) if model.n_outputs == 1 else model.probabilities(values)

    def exact_committor(self, x: ArrayLike, y: ArrayLike) -> Grid:
        """Return the exact p_B of a two-dimensional landscape on a mesh, of overdamped motion, to hold models against.

        Parameters
        ----------
        x, y : (n_x,), (n_y,) ascending, nm; wide enough for all that can be reached, as nothing leaves the mesh

        Raises
        ------
        AnalysisError
            If the run is of a molecule or was made from a table.
        ConfigError
            If there is no such map, see `estimates.landscape_committor`.
        """
        config = self.config
        landscape = None if config.table is not None else build_system(config).landscape
        if landscape is None:
            raise AnalysisError(f"{self.folder}: expected a landscape, found {config.system.kind}: no exact committor")
        kT = thermal_energy(config.dynamics.temperature)
        return landscape_committor(landscape, kT, config.collective_variables, config.states, x, y)

    def status(self) -> Status:
        """Return how the run stands by its last commit."""
        status = restore_status(self._store, self.config.sampling.steps, self.columns("shots"))
        live = status.state in (RunState.RUNNING, RunState.SEEDING, RunState.PAUSED)
        if live and not is_locked(self.folder):
            return replace(status, state=RunState.INTERRUPTED)
        return status

    def summary(self) -> dict[str, Any]:
        """Return what ``separatrix show --json`` prints."""
        status = self.status()
        shots, names = self.columns("shots"), self.state_names
        share = transition_yield(are_transitions(shots["ends"]))
        pairs = transitions_by_pair(shots["ends"], shots["accepted"], len(names))
        report = self.model_report(status.model_version) if status.model_version else {}
        return {
            "path": str(self.folder),
            "system": self.config.system.kind,
            "state": status.state.value,
            "steps": status.steps,
            "target": status.target,
            "transitions": status.transitions,
            "expected_transitions": status.expected_transitions,
            "accepted": status.accepted,
            "failures": status.failures,
            "yield": status.yield_,
            "yield_error": _finite(share.error),
            "pairs": [
                {
                    "states": [names[state] for state in pair.states],
                    "transitions": pair.transitions,
                    "accepted": pair.accepted,
                    "yield": _finite(pair.share.value),
                    "yield_error": _finite(pair.share.error),
                }
                for pair in pairs
            ],
            "md_steps": status.md_steps,
            "seconds": status.seconds,
            "md_steps_per_second": status.md_steps_per_second,
            "raw_md_steps_per_second": status.raw_steps_per_second,
            "platform": status.platform,
            "model_version": status.model_version,
            "validation_loss": status.validation_loss,
            "calibration": report.get("calibration"),
            "message": status.message,
        }

    def result(self, name: str) -> dict[str, Any] | None:
        """Return the result of an analysis, ``mechanism``, ``validation`` or ``test``; None when the run holds none.

        Parameters
        ----------
        name : ``mechanism``, ``validation`` or ``test``
        """
        return read_result(self.folder, name)

    @property
    def stored_validations(self) -> Validations:
        """The committor shooting that the run holds, as it is on disk."""
        return self._store.validations

    @property
    def validation(self) -> xr.Dataset | None:
        """The validation worked on last, one row for each configuration; None before the first.

        Variables (configuration): the counts ``n_A``, ``n_B``, ``n_neither`` (no state within ``max_frames``) and
        ``n_failed``, the ``observed`` p_B with its exact 95 % interval ``lower`` and ``upper``, ``p_B`` by the newest
        network, and the ``shot`` and ``frame`` of the path that the configuration is from; ``features`` and ``cvs`` as
        in `frames`. Scores are in ``result("validation")``; other validations are opened with
        ``validation_of(number)``.
        """
        numbers = self.stored_validations.numbers()
        if not numbers:
            return None
        latest = (self.result("validation") or {}).get("number", numbers[-1])
        return self.validation_of(latest if latest in numbers else numbers[-1])

    def validation_of(self, number: int) -> xr.Dataset:
        """Return a validation by its number, counted from 0, as `validation` does.

        Parameters
        ----------
        number : of the validation

        Raises
        ------
        StoreError
            If there is none with this number.
        """
        self.check_two_states("validation")
        stored = self.stored_validations.open(number)
        starts, model = stored.configurations(), self.trained_model()
        names = ("n_A", "n_B", "n_neither", "n_failed")
        columns: dict[str, Any] = dict(
            zip(names, outcome_counts(stored.outcomes(), len(starts.positions)), strict=True)
        )
        n = columns["n_A"] + columns["n_B"]
        columns["observed"] = np.divide(columns["n_B"], n, out=np.full(len(n), np.nan), where=n > 0)
        columns["lower"], columns["upper"] = clopper_pearson(columns["n_B"], n)
        columns |= {"p_B": model.p_B(starts.features), "shot": starts.shot, "frame": starts.frame}
        data: dict[str, Any] = {name: ("configuration", column) for name, column in columns.items()}
        data |= {
            "features": (("configuration", "feature"), starts.features),
            "cvs": (("configuration", "cv"), starts.cvs),
        }
        return xr.Dataset(
            data,
            coords={"cv": list(self._store.cv_names), "feature": list(self._store.feature_names)},
            attrs={
                "states": self.state_names,
                "number": number,
                "seed": stored.settings["seed"],
                "drawn_with": starts.model,
                "model": model.version,
            },
        )

    def log(self) -> list[dict[str, Any]]:
        """Return the events of the run, oldest first; in place of a line that a crash cut or a disk changed, that."""
        return read_events(self.folder)

    def columns(self, table: str) -> Mapping[str, NDArray[Any]]:
        """Return the raw columns of ``shots`` or ``frames``, read-only, fetching only the rows that are new.

        Parameters
        ----------
        table : ``shots`` or ``frames``
        """
        self._store.refresh()
        return self._tables[table].columns()


def _few(names: Sequence[str], others: Sequence[str]) -> str:
    """Return names in a line; of very many, those that the others lack, and their number."""
    if len(names) <= _MOST_SHOWN:
        return ", ".join(names)
    lacking = sorted(set(names) - set(others), key=names.index)[:3]
    return f"{len(names):,}" + (f", among them {', '.join(lacking)}" if lacking else " in another order")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read_config(file: Path) -> RunConfig:
    try:
        return RunConfig.read(file)
    except ConfigError as error:
        raise StoreError(f"the run is damaged: {error}; restore this file from a copy") from error


def _read_atoms(topology: Path) -> Atoms:
    try:
        return read_atoms(topology)
    except Exception as error:  # OpenMM's parser raises whatever it runs into
        raise StoreError(f"the run is damaged: cannot read {topology}: {error}; restore it from a copy") from error


def count_names(reader: Reader) -> tuple[str, ...]:
    """Return what the columns are called that count the shots which ended in each state, in tables of this run."""
    if reader.config.table is not None:
        return tuple(reader.config.states.values())
    return ("n_A", "n_B") if len(reader.state_names) == 2 else tuple(f"n_{name}" for name in reader.state_names)


def read(path: Path | str) -> Reader:
    """Open a run for reading.

    Parameters
    ----------
    path : folder of the run
    """
    return Reader(path)
