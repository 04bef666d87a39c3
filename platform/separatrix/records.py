"""Frozen values that travel between sampler, workers and store. No behaviour beyond checks at construction."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from separatrix.solvent import are_solvent

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

NO_STATE = -1
"""End state of a half-trajectory that reached no state."""


def connects(ends: tuple[int, int]) -> bool:
    """Return whether two end states make a transition: both reached, and different."""
    return ends[0] != ends[1] and NO_STATE not in ends


class Reason(IntEnum):
    """Why a trial ended as it did; stored as an integer, shown by ``label``."""

    ACCEPTED = 0
    FIRST_TRANSITION = 1
    """Accepted unconditionally: the first transition of a chain replaces a seed path that is no equilibrium path."""
    SAME_STATE = 2
    TOO_LONG = 3
    """A half reached ``max_frames`` without entering a state."""
    METROPOLIS = 4
    FAILURE = 5
    """The machine failed on every attempt; counts as a rejection and is no training record."""
    GIVEN = 6
    """No trial of this run: a table says how often shots from here ended in which state."""

    @property
    def label(self) -> str:
        """Return the reason in words."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A configuration: where a shot starts.

    Attributes
    ----------
    positions : (n_atoms, 3) float32, nm
    box : (3, 3) float32, nm, or None without periodic boundaries
    """

    positions: Float32Array
    box: Float32Array | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of the wrong shape."""
        if self.positions.ndim != 2 or self.positions.shape[1] != 3:
            raise ValueError(f"expected positions of shape (n_atoms, 3) nm, got {self.positions.shape}")
        if self.box is not None and self.box.shape != (3, 3):
            raise ValueError(f"expected a box of shape (3, 3) nm, got {self.box.shape}")


class Frames(Protocol):
    """The positions of a path, an array (n_frames, n_atoms, 3) float32 nm or its like on disk."""

    def __len__(self) -> int:
        """Return the number of frames."""
        ...

    def __getitem__(self, frame: int, /) -> Float32Array:
        """Return the positions of one frame, (n_atoms, 3)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotTask:
    """One trial to be made by a worker.

    Attributes
    ----------
    chain, step : the Monte Carlo chain and its step this trial belongs to
    seed : seed of the velocities and of the thermostat, derived from (run seed, chain, step)
    model : version of the committor model that selected the shooting point
    frame : index of the shooting point in the chain's current path
    """

    chain: int
    step: int
    snapshot: Snapshot
    seed: int
    model: int
    frame: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotOutcome:
    """What two half-trajectories gave; frames run from the end of the backward half to the end of the forward half.

    Transitions are oriented from the lower-indexed to the higher-indexed state. Descriptors are dear in water: there
    are those of the frames that a run keeps, and no others.

    Attributes
    ----------
    positions : (n_frames, n_atoms, 3) float32, nm; None when the trial is no transition, or they lie in ``trajectory``
    box : (n_frames, 3, 3) float32, nm, or None without periodic boundaries or a transition
    n_frames : saved frames, the shooting point counted once
    kept : (n_kept,) int32, ascending; the frames a run keeps, all of a transition
    features : (n_kept, n_descriptors) float32
    cvs : (n_kept, n_collective_variables) float32
    shooting_frame : index of the shooting point among the frames
    ends : state indices of the first and the last frame, ``NO_STATE`` for none
    md_steps : integration steps done for this trial
    seconds : wall time of the trial in the worker
    trajectory : folder, relative to the run, where the worker wrote the positions; None when it wrote none
    """

    chain: int
    step: int
    positions: Frames | None
    box: Float32Array | None
    n_frames: int
    kept: IntArray
    features: Float32Array
    cvs: Float32Array
    shooting_frame: int
    ends: tuple[int, int]
    md_steps: int
    seconds: float
    trajectory: str | None = None

    def __post_init__(self) -> None:
        """Refuse frames that do not line up."""
        n_frames, n_kept = self.n_frames, len(self.kept)
        if (len(self.features), len(self.cvs)) != (n_kept, n_kept):
            raise ValueError(f"expected {n_kept} kept frames in every array of shot ({self.chain}, {self.step})")
        if self.positions is not None and (len(self.positions), n_kept) != (n_frames, n_frames):
            raise ValueError(f"expected all {n_frames} frames of the transition ({self.chain}, {self.step})")
        if not 0 <= self.shooting_frame < n_frames:
            raise ValueError(f"expected a shooting frame in 0..{n_frames - 1}, got {self.shooting_frame}")

    @property
    def is_transition(self) -> bool:
        """Whether the two ends lie in two different states."""
        return connects(self.ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryTask:
    """One trajectory of committor shooting: from a configuration, with fresh velocities, into a state.

    Attributes
    ----------
    configuration, trajectory : which of the configurations, and which of its trajectories
    seed : seed of the velocities and of the thermostat
    """

    configuration: int
    trajectory: int
    snapshot: Snapshot
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryOutcome:
    """Where a trajectory of committor shooting ended.

    Attributes
    ----------
    state : index of the state, ``NO_STATE`` when it reached none within ``max_frames``
    n_frames : saved frames, the first one not counted
    md_steps : integration steps
    seconds : wall time in the worker
    """

    configuration: int
    trajectory: int
    state: int
    n_frames: int
    md_steps: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Configurations:
    """Where committor shooting starts: frames of a run's transition paths.

    Attributes
    ----------
    positions : (n, n_atoms, 3) float32, nm
    box : (n, 3, 3) float32, nm, or None
    features : (n, n_descriptors) float32
    cvs : (n, n_collective_variables) float32
    q : (n,) logit of p_B by the model that they were drawn with
    shot, frame : (n,) which frame of which shot's path each one is
    model : version of that model
    """

    positions: Float32Array
    box: Float32Array | None
    features: Float32Array
    cvs: Float32Array
    q: FloatArray
    shot: IntArray
    frame: IntArray
    model: int

    def snapshot(self, configuration: int) -> Snapshot:
        """Return one of them to shoot from."""
        return Snapshot(
            positions=self.positions[configuration], box=None if self.box is None else self.box[configuration]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShootingProgress:
    """How far committor shooting is.

    Attributes
    ----------
    done, total : trajectories that are there and wanted, those of earlier calls included
    made : trajectories made by this call
    seconds : since it began to make them, 0 before
    """

    done: int
    total: int
    made: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotFailure:
    """A trial that a machine could not finish; returned, never raised, so that one bad shot ends no run."""

    task: ShotTask | TrajectoryTask
    error: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The current path of a chain.

    Attributes
    ----------
    shot : row of the shot that made it, or -1 for the seed path
    positions : (n_frames, n_atoms, 3) float32, nm
    box : (n_frames, 3, 3) float32, nm, or None
    features : (n_frames, n_descriptors) float32
    shared_frame : index of the one frame taken over from the path before, or -1 for the seed path
    """

    shot: int
    positions: Frames
    box: Float32Array | None
    features: Float32Array
    shared_frame: int = -1

    @property
    def n_frames(self) -> int:
        """Number of saved frames, the two in-state ends included."""
        return len(self.features)

    def snapshot(self, frame: int) -> Snapshot:
        """Return one frame as a configuration to shoot from."""
        return Snapshot(positions=self.positions[frame], box=None if self.box is None else self.box[frame])


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainState:
    """Where a Monte Carlo chain stands after ``step`` trials.

    ``equilibrated`` is False while the path still descends from frames of the seed path (burn-in).
    """

    chain: int
    step: int
    path: Path
    equilibrated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainStep:
    """The verdict on one trial.

    Attributes
    ----------
    p_acc : Metropolis-Hastings acceptance probability (0 for a trial that is no transition)
    q : logit of the committor predicted at the shooting point before the shot, for more than two states the effective
        one
    p_transition : predicted probability that this shot gives a transition, ``1 - sum_i p_i^2``
    burn_in : whether the chain had not yet left its seed path behind when the trial was made
    """

    accepted: bool
    reason: Reason
    p_acc: float
    q: float
    p_transition: float
    burn_in: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """Histogram of predicted p_B over the frames of the accepted paths, for the density correction (METHOD: 1/rho).

    Attributes
    ----------
    counts : counts in equal bins on [0, 1], for more than two states in the bins of `selector.density_of`; add-one
        smoothing not included
    """

    counts: tuple[int, ...] = field(default=(0,) * 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Atoms:
    """What is to know of the atoms of a system; pseudo-atoms of a landscape have no element and no bonds.

    Attributes
    ----------
    names : one readable name per atom, such as ``ALA2-CA``
    bonds : pairs of 0-based atom indices
    atom_names : the bare name of each atom, such as ``CA``
    elements : symbol of each atom, empty for a pseudo-atom or a virtual site
    residues : index of the residue of each atom, counted from 0 through all chains
    residue_names, residue_numbers : name and number of that residue, as in the PDB format
    chains : index of the chain of each atom, counted from 0
    """

    names: tuple[str, ...]
    bonds: tuple[tuple[int, int], ...]
    atom_names: tuple[str, ...]
    elements: tuple[str, ...]
    residues: tuple[int, ...]
    residue_names: tuple[str, ...]
    residue_numbers: tuple[int, ...]
    chains: tuple[int, ...]

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.names)

    @property
    def solute(self) -> tuple[int, ...]:
        """Indices of the atoms that are no solvent; all of them where there is none."""
        numbers = sorted(set(self.residues))
        residues: dict[int, list[str]] = {number: [] for number in numbers}
        names = dict(zip(self.residues, self.residue_names, strict=True))
        for number, element in zip(self.residues, self.elements, strict=True):
            residues[number].append(element)
        hidden = dict(zip(numbers, are_solvent([(names[n], residues[n]) for n in numbers]), strict=True))
        return tuple(atom for atom, number in enumerate(self.residues) if not hidden[number])


class RunState(StrEnum):
    """What a run is doing."""

    NEW = "new"
    SEEDING = "seeding"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    """The process that wrote it is gone without a word; everything up to its last commit is there."""
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """An immutable picture of a run, replaced as a whole whenever something changes.

    Attributes
    ----------
    steps, target : trials made and wanted, summed over chains
    transitions : trials that connected two states
    expected_transitions : sum of the predicted transition probabilities
    failures : attempts that a machine could not finish
    seconds : wall time spent sampling
    raw_steps_per_second : speed of bare integration of one worker on this platform, 0 when not measured
    devices : GPUs that workers share, 0 on processors
    workers, busy : worker processes, and how many are at work
    message : what is going on, or what went wrong, in one line
    """

    state: RunState
    steps: int = 0
    target: int = 0
    transitions: int = 0
    expected_transitions: float = 0.0
    accepted: int = 0
    failures: int = 0
    md_steps: int = 0
    seconds: float = 0.0
    raw_steps_per_second: float = 0.0
    devices: int = 0
    platform: str = ""
    workers: int = 0
    busy: int = 0
    model_version: int = 0
    validation_loss: float | None = None
    message: str = ""

    @property
    def yield_(self) -> float:
        """Transitions per trial, 0 before the first."""
        return self.transitions / self.steps if self.steps else 0.0

    @property
    def all_raw_steps_per_second(self) -> float:
        """Speed of bare integration, one context on each device, or on processors one for each worker."""
        return self.raw_steps_per_second * (self.devices or max(1, self.workers))

    @property
    def md_steps_per_second(self) -> float:
        """Integration steps per second of wall time, all workers together."""
        return self.md_steps / self.seconds if self.seconds else 0.0
