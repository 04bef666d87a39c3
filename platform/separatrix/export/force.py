"""A formula as a force of OpenMM, whose energy in kJ/mol is q."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import openmm

from separatrix.collective_variables import Definition
from separatrix.export.terms import terms_of
from separatrix.reader import Reader
from separatrix.store import SYSTEM, check_files
from separatrix.symbolic import Formula


def openmm_force(reader: Reader, formula: Formula) -> openmm.CustomCVForce:
    """Return a force whose energy is the logit q of the committor, in kJ/mol.

    Put into a group of its own (``setForceGroup``), its energy is read with ``getState(energy=True, groups={group})``;
    leave the group out of ``integrator.setIntegrationForceGroups``, and it is watched without pulling at the system.

    Parameters
    ----------
    reader : of the run
    formula : for q, such as `chosen_formula` returns

    Raises
    ------
    ExportError
        If the run was made from a table, or the formula is a constant.
    """
    terms = terms_of(reader, formula)
    parts = [terms.formula.lepton]
    parts += [f"{column.name} = (1 + {column.form}({column.quantity}))/2" for column in terms.columns if column.form]
    force = openmm.CustomCVForce("; ".join(parts))
    check_files(reader.folder, SYSTEM)
    periodic = _is_periodic(reader.folder / SYSTEM)
    for name, definition in terms.quantities.items():
        variable = _VARIABLES[definition.name](definition)
        if not isinstance(variable, openmm.CustomExternalForce):
            variable.setUsesPeriodicBoundaryConditions(periodic)
        force.addCollectiveVariable(name, variable)
    force.setName("committor logit")
    return force


def openmm_xml(reader: Reader, formula: Formula) -> str:
    """Return the force as XML, for ``openmm.XmlSerializer.deserialize``; errors are those of `openmm_force`."""
    return str(openmm.XmlSerializer.serialize(openmm_force(reader, formula)))


def _is_periodic(system_xml: Path) -> bool:
    system = openmm.XmlSerializer.deserialize(system_xml.read_text(encoding="utf-8"))
    return bool(system.usesPeriodicBoundaryConditions())


def _position(definition: Definition) -> Any:
    force = openmm.CustomExternalForce(definition.name)
    force.addParticle(definition.terms[0][0], [])
    return force


def _distance(definition: Definition) -> Any:
    force = openmm.CustomBondForce("r")
    force.addBond(*definition.terms[0], [])
    return force


def _angle(definition: Definition) -> Any:
    force = openmm.CustomAngleForce("theta")
    force.addAngle(*definition.terms[0], [])
    return force


def _dihedral(definition: Definition) -> Any:
    force = openmm.CustomTorsionForce("theta")
    force.addTorsion(*definition.terms[0], [])
    return force


def _coordination(definition: Definition) -> Any:
    """Return the sum of (1 - ratio^n) / (1 - ratio^m) over pairs, as geometric sums: no singularity at r = r0."""
    r0, n, m = definition.parameters
    base = math.gcd(int(n), int(m))
    above, below = (_powers(int(exponent) // base) for exponent in (n, m))
    force = openmm.CustomBondForce(f"({above})/({below}); s = (r/{r0!r})^{base}")
    for pair in definition.terms:
        force.addBond(*pair, [])
    return force


def _powers(count: int) -> str:
    return " + ".join(["1", *(f"s^{power}" for power in range(1, count))])


_VARIABLES: Final[Mapping[str, Callable[[Definition], Any]]] = {
    "x": _position,
    "y": _position,
    "z": _position,
    "distance": _distance,
    "angle": _angle,
    "dihedral": _dihedral,
    "coordination": _coordination,
}
"""By kind of collective variable; a further kind needs its force here."""
