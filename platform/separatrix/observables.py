"""What a run measures on every frame: collective variables, states and descriptors, bundled from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from separatrix.collective_variables import Columns, by_index
from separatrix.config import RunConfig
from separatrix.descriptors import Descriptors
from separatrix.errors import ConfigError, ExpressionError, StateOverlapError
from separatrix.kernels import Measure
from separatrix.records import Atoms, Float32Array, FloatArray, Snapshot
from separatrix.selection import select
from separatrix.states import States
from separatrix.symmetry_functions import SymmetryFunctions

_N_PROBES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumns:
    """Columns of a table: their names, and what is not known of them."""

    names: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def units(self) -> tuple[str, ...]:
        """One per column, empty."""
        return ("",) * len(self.names)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """One per column, False."""
        return (False,) * len(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStates:
    """States of which a table tells how often shots ended in them, and not where they are."""

    names: tuple[str, ...]
    constants: tuple[float, ...] = ()


class TableObservables:
    """What is known of the configurations of a run that was made from a table: its columns, as descriptors.

    Parameters
    ----------
    config : of the run

    Attributes
    ----------
    columns, descriptors : the columns of the table; ``sin X`` and ``cos X`` belong to one quantity X
    states : the two that shots ended in
    n_atoms : 0
    """

    n_atoms = 0
    solute = np.zeros(0, dtype=np.intp)

    def __init__(self, config: RunConfig) -> None:
        names = tuple(config.descriptors.columns)
        self.columns = self.descriptors = TableColumns(names=names, groups=tuple(_quantity(n, names) for n in names))
        self.states = TableStates(names=tuple(config.states))


def _quantity(name: str, names: tuple[str, ...]) -> str:
    """Return the dihedral whose sine and cosine are both there, else the column itself."""
    form, _, rest = name.partition(" ")
    other = {"sin": "cos", "cos": "sin"}.get(form)
    return rest if other is not None and f"{other} {rest}" in names else name


class Observables:
    """Collective variables, states and descriptors of one run.

    Parameters
    ----------
    config : the resolved configuration
    atoms : of the system
    device : of torch, where symmetry functions are computed

    Attributes
    ----------
    definitions : the collective variables by name, with atom numbers in the place of selections

    Raises
    ------
    ConfigError
        If an expression is wrong or a required table is empty.
    """

    def __init__(self, config: RunConfig, atoms: Atoms, device: str = "cpu") -> None:
        self.n_atoms = n_atoms = len(atoms.names)
        solute = set(atoms.solute)
        self.solute = np.array(sorted(solute), dtype=np.intp)
        self._own_starts = config.system.kind == "potential"
        self._own_path = config.seeding.trajectory is not None
        if not config.collective_variables:
            raise ConfigError('collective_variables: expected at least one, such as phi = "dihedral(4, 6, 8, 14)"')
        self.definitions = {
            name: _by_index(text, atoms, f"collective variable {name!r}")
            for name, text in config.collective_variables.items()
        }
        self.columns = Columns(self.definitions, n_atoms)
        self.states = States(config.states, self.columns.names)
        solvent = config.descriptors.symmetry_functions
        self.descriptors = Descriptors(
            columns=[
                column if column in self.definitions else _by_index(column, atoms, "descriptors.columns")
                for column in config.descriptors.columns
            ],
            internal_coordinates=config.descriptors.internal_coordinates,
            cvs=self.definitions,
            bonds=_bonds(config, atoms, solute),
            atom_names=atoms.names,
            n_atoms=n_atoms,
            symmetry_functions=SymmetryFunctions(solvent, atoms, device) if solvent else None,
        )

    @property
    def measure(self) -> Measure:
        """What is looked at between integration steps, for the engine."""
        return Measure(table=self.columns.table, states=self.states.program)

    def state_of(self, snapshot: Snapshot) -> int:
        """Return the index of the state a configuration lies in, -1 for none."""
        return self.states.scalar(self.cvs_of(snapshot).tolist())

    def cvs(self, positions: FloatArray, box: FloatArray | None) -> Float32Array:
        """Return collective variables (n_frames, k), nm and degrees, of positions (n_frames, n_atoms, 3) nm."""
        return self.columns.array(positions, box)

    def cvs_of(self, snapshot: Snapshot) -> Float32Array:
        """Return the collective variables (k,) of one configuration, nm and degrees."""
        box = None if snapshot.box is None else snapshot.box[None]
        cvs: Float32Array = self.cvs(snapshot.positions[None], box)[0]
        return cvs

    def features(self, positions: FloatArray, box: FloatArray | None) -> Float32Array:
        """Return descriptors (n_frames, d) of positions (n_frames, n_atoms, 3) nm."""
        return self.descriptors.array(positions, box)

    def starts_in_states(self, starts: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
        """Return for each state the first of the starts inside it, in the order of the states; some may have none."""
        found: dict[int, Snapshot] = {}
        for start in starts.values():
            found.setdefault(self.state_of(start), start)
        return {name: found[index] for index, name in enumerate(self.states.names) if index in found}

    def check_starts(self, starts: Mapping[str, Snapshot]) -> None:
        """Refuse states that no start lies in, and states that overlap.

        The starts of a custom landscape belong to its states by name. Those of the catalogue need not, the states may
        be the user's own: one start in any of them is enough, and none is needed with a path of one's own.
        Overlap is looked for at the starts and at 20,000 points of the space of collective variables.

        Raises
        ------
        ConfigError
            Naming the state and the collective variables of its start, or a cut-off that is too long for the box.
        StateOverlapError
            Naming both states and a point in both.
        """
        if self.descriptors.symmetry_functions is not None:
            self.descriptors.symmetry_functions.check_boxes(starts.values())
        names = self.states.names
        values = {name: self.cvs_of(start) for name, start in starts.items()}
        if self._own_starts:
            self._check_own_starts(values)
        elif not (self.starts_in_states(starts) or self._own_path):
            found = "; ".join(self._describe(point) for point in values.values())
            raise ConfigError(
                f"states: expected a start of the system inside one of them ({', '.join(names)}), but its starts lie "
                f"at {found}; change a state, or give a transition of your own with seeding.trajectory"
            )
        probes = self._probes(np.stack(list(values.values())))
        if (overlap := self.states.overlap(probes)) is not None:
            first, second, row = overlap
            raise StateOverlapError(
                f"states: {names[first]!r} and {names[second]!r} overlap, for example at "
                f"{self._describe(probes[row])}; make them exclude each other"
            )

    def _check_own_starts(self, values: Mapping[str, FloatArray]) -> None:
        names = self.states.names
        if set(values) != set(names):
            raise ConfigError(
                f"system.start: expected one configuration for each state ({', '.join(names)}), "
                f"got {', '.join(values) or 'none'}"
            )
        for name, point in values.items():
            found = int(self.states.array(point[None])[0])
            if found != names.index(name):
                where = "outside every state" if found < 0 else f"in state {names[found]!r}"
                raise ConfigError(
                    f"system.start.{name}: expected a configuration inside state {name!r}, this one lies {where} "
                    f"({self._describe(point)}); state {name} = {self.states.expressions[name]!r}"
                )

    def _probes(self, values: Float32Array) -> Float32Array:
        """Return points (n, k) where two states might meet: all angles; other columns around starts and constants."""
        rng = np.random.default_rng(0)
        constants = np.asarray(self.states.constants, dtype=float)
        columns = []
        for column, periodic in enumerate(self.columns.periodic):
            if periodic:
                low, high = -180.0, 180.0
            else:
                marks = np.concatenate([values[:, column], constants])
                margin = 0.5 * (np.ptp(values[:, column]) + 1e-3)
                low, high = marks.min() - margin, marks.max() + margin
            draws = rng.uniform(low, high, _N_PROBES)
            # Half of the points stay near the starts, where states are: a wide box alone would miss small discs.
            spread = 0.25 * (np.ptp(values[:, column]) + 1e-3) if not periodic else 60.0
            near = rng.choice(values[:, column], _N_PROBES // 2) + rng.normal(0, spread, _N_PROBES // 2)
            draws[: _N_PROBES // 2] = (near + 180.0) % 360.0 - 180.0 if periodic else near
            columns.append(draws)
        return np.stack(columns, axis=1).astype(np.float32)

    def _describe(self, values: FloatArray) -> str:
        pairs = zip(self.columns.names, values, self.columns.units, strict=True)
        return ", ".join(f"{name} = {value:.4g} {unit}".rstrip() for name, value, unit in pairs)


def _bonds(config: RunConfig, atoms: Atoms, solute: set[int]) -> list[tuple[int, int]]:
    """Return the bonds that internal coordinates follow: those of the chosen atoms, or of all but the solvent."""
    chosen, descriptors = solute, config.descriptors
    if descriptors.atoms is not None:
        if descriptors.internal_coordinates == "none":
            raise ConfigError("descriptors.atoms: expected internal_coordinates beside it; choose rotatable or all")
        try:
            chosen = set(select(atoms, descriptors.atoms))
        except ExpressionError as error:
            raise ExpressionError(f"descriptors.atoms: {error}") from None
    return [bond for bond in atoms.bonds if chosen.issuperset(bond)]


def _by_index(text: str, atoms: Atoms, where: str) -> str:
    if "'" not in text and '"' not in text:  # nothing is selected; what is wrong is told when it is used
        return text
    try:
        return by_index(text, atoms)
    except ExpressionError as error:
        raise ExpressionError(f"{where}: {error}") from None
