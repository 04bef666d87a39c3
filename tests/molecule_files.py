"""A molecule with an Amber force field, written in the formats of Amber and Gromacs: the same energy in other words.

Formats: "PARM topology file specification" (ambermd.org), and the file formats of the Gromacs reference manual.
"""

from __future__ import annotations

import numpy as np
import openmm
from openmm import unit

KCAL, ANGSTROM, CHARGE = 4.184, 0.1, 18.2223
E14, LJ14 = 1.2, 2.0
"""What Amber divides interactions by, three bonds apart."""


class Terms:
    """The terms of a molecule's System, made without constraints: nm, kJ/mol, elementary charges, degrees."""

    def __init__(self, topology, system):
        self.atoms = list(topology.atoms())
        forces = {type(force).__name__: force for force in system.getForces()}
        plain = unit.md_unit_system
        self.bonds, self.angles, self.torsions = (
            [
                [value.value_in_unit_system(plain) if unit.is_quantity(value) else value for value in getter(index)]
                for index in range(count)
            ]
            for getter, count in (
                (forces["HarmonicBondForce"].getBondParameters, forces["HarmonicBondForce"].getNumBonds()),
                (forces["HarmonicAngleForce"].getAngleParameters, forces["HarmonicAngleForce"].getNumAngles()),
                (forces["PeriodicTorsionForce"].getTorsionParameters, forces["PeriodicTorsionForce"].getNumTorsions()),
            )
        )
        force = forces["NonbondedForce"]
        self.nonbonded = [
            [value.value_in_unit_system(plain) for value in force.getParticleParameters(i)]
            for i in range(len(self.atoms))
        ]
        exceptions = [force.getExceptionParameters(i) for i in range(force.getNumExceptions())]
        self.excluded = {(min(a, b), max(a, b)) for a, b, *_ in exceptions}
        self.pairs = {(min(a, b), max(a, b)) for a, b, q, _, e in exceptions if q._value or e._value}
        self.bonded = {frozenset((a.index, b.index)) for a, b in topology.bonds()}
        turned = {(min(a, d), max(a, d)) for a, b, c, d, *_ in self.torsions if self.is_proper(a, b, c, d)}
        for a, d in sorted(self.pairs - turned):  # Amber counts pairs by their torsions, of which forces lack some
            middle = next(
                (b, c) for b in range(len(self.atoms)) for c in range(len(self.atoms)) if self.is_proper(a, b, c, d)
            )
            self.torsions.append([a, *middle, d, 1, 0.0, 0.0])

    def is_proper(self, i, j, k, m):
        return all(frozenset(pair) in self.bonded for pair in ((i, j), (j, k), (k, m)))


def gromacs_top(terms, name="molecule"):
    """Return a Gromacs topology."""
    residues = [atom.residue for atom in terms.atoms]
    lines = ["[ defaults ]", f"1 2 yes {1 / LJ14} {1 / E14:.10f}", "[ atomtypes ]"]
    lines += [
        f"T{i} {a.element.atomic_number} {a.element.mass._value} 0.0 A {sigma:.10g} {epsilon:.10g}"
        for i, (a, (_, sigma, epsilon)) in enumerate(zip(terms.atoms, terms.nonbonded, strict=True))
    ]
    lines += ["[ moleculetype ]", f"{name} 3", "[ atoms ]"]
    lines += [
        f"{i + 1} T{i} {r.index + 1} {r.name} {a.name} {i + 1} {q:.8f} {a.element.mass._value}"
        for i, (a, r, (q, *_)) in enumerate(zip(terms.atoms, residues, terms.nonbonded, strict=True))
    ]
    lines += ["[ bonds ]", *(f"{a + 1} {b + 1} 1 {r:.10g} {k:.10g}" for a, b, r, k in terms.bonds)]
    lines += ["[ pairs ]", *(f"{a + 1} {b + 1} 1" for a, b in sorted(terms.pairs))]
    lines += ["[ angles ]"]
    lines += [f"{a + 1} {b + 1} {c + 1} 1 {np.degrees(t):.10g} {k:.10g}" for a, b, c, t, k in terms.angles]
    lines += ["[ dihedrals ]"]
    lines += [
        f"{a + 1} {b + 1} {c + 1} {d + 1} {9 if terms.is_proper(a, b, c, d) else 4} {np.degrees(p):.10g} {k:.10g} {n}"
        for a, b, c, d, n, p, k in terms.torsions
    ]
    return "\n".join([*lines, "[ system ]", name, "[ molecules ]", f"{name} 1", ""])


def gro(terms, positions, box=(0.0, 0.0, 0.0)):
    """Return positions (n_atoms, 3) nm in Gromacs' format."""
    lines = ["made for a test", f"{len(terms.atoms):5d}"]
    for i, (atom, at) in enumerate(zip(terms.atoms, positions, strict=True)):
        residue = atom.residue
        lines.append(
            f"{residue.index + 1:5d}{residue.name:<5s}{atom.name:>5s}{i + 1:5d}" + "".join(f"{x:15.10f}" for x in at)
        )
    return "\n".join([*lines, " ".join(f"{edge:10.5f}" for edge in box), ""])


def inpcrd(positions):
    """Return positions (n_atoms, 3) nm in Amber's format."""
    values = [f"{x / ANGSTROM:12.7f}" for x in np.ravel(positions)]
    rows = ["".join(values[i : i + 6]) for i in range(0, len(values), 6)]
    return "\n".join(["made for a test", f"{len(positions):5d}", *rows, ""])


def prmtop(terms):
    """Return an Amber topology."""
    types = sorted({tuple(row[1:]) for row in terms.nonbonded})
    kinds = [types.index(tuple(row[1:])) + 1 for row in terms.nonbonded]
    hydrogen = [atom.element.symbol == "H" for atom in terms.atoms]
    n, n_types = len(terms.atoms), len(types)
    index, a_coefficients, b_coefficients = [0] * n_types**2, [], []
    for i, (sigma_i, epsilon_i) in enumerate(types):
        for j, (sigma_j, epsilon_j) in enumerate(types[: i + 1]):
            index[i * n_types + j] = index[j * n_types + i] = len(a_coefficients) + 1
            depth = np.sqrt(epsilon_i * epsilon_j) / KCAL
            minimum = 2 ** (1 / 6) * 0.5 * (sigma_i + sigma_j) / ANGSTROM
            a_coefficients.append(depth * minimum**12)
            b_coefficients.append(2 * depth * minimum**6)
    bonds, angles, dihedrals = [[], []], [[], []], [[], []]
    for number, (a, b, *_) in enumerate(terms.bonds, 1):
        bonds[not (hydrogen[a] or hydrogen[b])] += [3 * a, 3 * b, number]
    for number, (a, b, c, *_) in enumerate(terms.angles, 1):
        angles[not (hydrogen[a] or hydrogen[b] or hydrogen[c])] += [3 * a, 3 * b, 3 * c, number]
    counted = set()
    for number, (*quad, _, _, _) in enumerate(terms.torsions, 1):
        a, b, c, d = quad if quad[2] and quad[3] else quad[::-1]  # 0 has no sign
        pair, proper = (min(a, d), max(a, d)), terms.is_proper(a, b, c, d)
        third = 3 * c if proper and pair in terms.pairs - counted else -3 * c
        counted |= {pair} if proper else set()
        row = [3 * a, 3 * b, third, 3 * d if proper else -3 * d, number]
        dihedrals[not any(hydrogen[i] for i in quad)] += row
    excluded = [sorted(b for a, b in terms.excluded if a == i) for i in range(n)]
    residues = list(dict.fromkeys(atom.residue for atom in terms.atoms))
    pointers = [n, n_types, len(bonds[0]) // 3, len(bonds[1]) // 3, len(angles[0]) // 4, len(angles[1]) // 4]
    pointers += [len(dihedrals[0]) // 5, len(dihedrals[1]) // 5, 0, 0, sum(max(len(row), 1) for row in excluded)]
    pointers += [len(residues), len(bonds[1]) // 3, len(angles[1]) // 4, len(dihedrals[1]) // 5, len(terms.bonds)]
    pointers += [
        len(terms.angles),
        len(terms.torsions),
        n_types,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        max(map(len, excluded)),
        0,
        0,
    ]
    sections = [
        ("POINTERS", "I", pointers),
        ("ATOM_NAME", "A", [atom.name for atom in terms.atoms]),
        ("CHARGE", "E", [q * CHARGE for q, *_ in terms.nonbonded]),
        ("ATOMIC_NUMBER", "I", [atom.element.atomic_number for atom in terms.atoms]),
        ("MASS", "E", [atom.element.mass._value for atom in terms.atoms]),
        ("ATOM_TYPE_INDEX", "I", kinds),
        ("NUMBER_EXCLUDED_ATOMS", "I", [max(len(row), 1) for row in excluded]),
        ("NONBONDED_PARM_INDEX", "I", index),
        ("RESIDUE_LABEL", "A", [residue.name for residue in residues]),
        ("RESIDUE_POINTER", "I", [next(residue.atoms()).index + 1 for residue in residues]),
        ("BOND_FORCE_CONSTANT", "E", [0.5 * k / KCAL * ANGSTROM**2 for *_, k in terms.bonds]),
        ("BOND_EQUIL_VALUE", "E", [r / ANGSTROM for _, _, r, _ in terms.bonds]),
        ("ANGLE_FORCE_CONSTANT", "E", [0.5 * k / KCAL for *_, k in terms.angles]),
        ("ANGLE_EQUIL_VALUE", "E", [angle for *_, angle, _ in terms.angles]),
        ("DIHEDRAL_FORCE_CONSTANT", "E", [k / KCAL for *_, k in terms.torsions]),
        ("DIHEDRAL_PERIODICITY", "E", [float(m) for *_, m, _, _ in terms.torsions]),
        ("DIHEDRAL_PHASE", "E", [phase for *_, phase, _ in terms.torsions]),
        ("SCEE_SCALE_FACTOR", "E", [E14] * len(terms.torsions)),
        ("SCNB_SCALE_FACTOR", "E", [LJ14] * len(terms.torsions)),
        ("SOLTY", "E", [0.0] * n_types),
        ("LENNARD_JONES_ACOEF", "E", a_coefficients),
        ("LENNARD_JONES_BCOEF", "E", b_coefficients),
        ("BONDS_INC_HYDROGEN", "I", bonds[0]),
        ("BONDS_WITHOUT_HYDROGEN", "I", bonds[1]),
        ("ANGLES_INC_HYDROGEN", "I", angles[0]),
        ("ANGLES_WITHOUT_HYDROGEN", "I", angles[1]),
        ("DIHEDRALS_INC_HYDROGEN", "I", dihedrals[0]),
        ("DIHEDRALS_WITHOUT_HYDROGEN", "I", dihedrals[1]),
        ("EXCLUDED_ATOMS_LIST", "I", [b + 1 for row in excluded for b in row or [-1]]),
        ("HBOND_ACOEF", "E", []),
        ("HBOND_BCOEF", "E", []),
        ("HBCUT", "E", []),
        ("AMBER_ATOM_TYPE", "A", [f"t{kind}" for kind in kinds]),
        ("TREE_CHAIN_CLASSIFICATION", "A", ["M"] * n),
        ("JOIN_ARRAY", "I", [0] * n),
        ("IROTAT", "I", [0] * n),
        ("RADII", "E", [1.2 if is_hydrogen else 1.7 for is_hydrogen in hydrogen]),
        ("SCREEN", "E", [0.85 if is_hydrogen else 0.72 for is_hydrogen in hydrogen]),
    ]
    lines = ["%VERSION  VERSION_STAMP = V0001.000  DATE = 01/01/25  00:00:00", "%FLAG TITLE", "%FORMAT(20a4)", "test"]
    for name, kind, values in sections:
        form, per_line, width = {"I": ("10I8", 10, 8), "E": ("5E16.8", 5, 16), "A": ("20a4", 20, 4)}[kind]
        text = [f"{v:<4s}" if kind == "A" else f"{v:{width}.8E}" if kind == "E" else f"{v:8d}" for v in values]
        rows = ["".join(text[i : i + per_line]) for i in range(0, len(text), per_line)] or [""]
        lines += [f"%FLAG {name}", f"%FORMAT({form})", *rows]
    return "\n".join([*lines, ""])


def energy(system, positions):
    """Return the potential energy of a configuration, kJ/mol."""
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions.astype(float))
    return context.getState(energy=True).getPotentialEnergy()._value
