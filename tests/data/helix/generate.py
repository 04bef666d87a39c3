"""Make `helix.pdb`: ACE-(ALA)10-NME as an alpha helix, from ideal geometry, with hydrogens, at a minimum of the energy.

Run it: ``python generate.py``. The atoms of each residue are placed one after another, each by its bond length, bond
angle and dihedral to the three before it (bond lengths and angles: Engh & Huber, Acta Cryst. A47, 392 (1991);
phi = -57, psi = -47, omega = 180 degrees: Arnott & Dover, J. Mol. Biol. 30, 209 (1967)). OpenMM adds the hydrogens and
minimises with Amber ff14SB in implicit water (OBC2).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

N_RESIDUES = 10
PHI, PSI, OMEGA = -57.0, -47.0, 180.0
FORCE_FIELD = ("amber14/protein.ff14SB.xml", "implicit/obc2.xml")


def placed(a, b, c, length, angle, dihedral):
    """Return the point at a distance from c, at an angle to b-c and a dihedral to a-b-c; nm and degrees."""
    theta, phi = np.radians([angle, dihedral])
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    local = length * np.array([-np.cos(theta), np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi)])
    return c + local @ np.array([along, np.cross(normal, along), normal])


def heavy_atoms():
    """Return (residue, name, position in nm) of every atom but the hydrogens."""
    methyl, carbon = np.zeros(3), np.array([0.1522, 0.0, 0.0])
    oxygen = carbon + 0.1231 * np.array([np.cos(np.radians(59.6)), np.sin(np.radians(59.6)), 0.0])
    atoms = [("ACE", "CH3", methyl), ("ACE", "C", carbon), ("ACE", "O", oxygen)]
    before, last = methyl, carbon
    n = placed(oxygen, before, last, 0.1329, 116.2, 180.0)
    for _ in range(N_RESIDUES):
        alpha = placed(before, last, n, 0.1458, 121.7, OMEGA)
        c = placed(last, n, alpha, 0.1525, 111.2, PHI)
        beta = placed(last, n, alpha, 0.1521, 110.4, PHI - 122.6)
        o = placed(n, alpha, c, 0.1231, 120.8, PSI + 180.0)
        atoms += [("ALA", name, at) for name, at in (("N", n), ("CA", alpha), ("C", c), ("O", o), ("CB", beta))]
        n, before, last = placed(n, alpha, c, 0.1329, 116.2, PSI), alpha, c
    atoms += [("NME", "N", n), ("NME", "C", placed(before, last, n, 0.1458, 121.7, OMEGA))]
    return atoms


def topology_of(atoms):
    """Return the topology of the heavy atoms, bonds of standard residues included."""
    topology = app.Topology()
    chain = topology.addChain("A")
    residue = None
    for index, (name, atom, _) in enumerate(atoms):
        if index == 0 or atom == "N":
            residue = topology.addResidue(name, chain)
        topology.addAtom(atom, app.element.get_by_symbol(atom[0]), residue)
    topology.createStandardBonds()
    return topology


def main():
    """Write the PDB file."""
    atoms = heavy_atoms()
    positions = np.array([position for *_, position in atoms]) * unit.nanometer
    field = app.ForceField(*FORCE_FIELD)
    modeller = app.Modeller(topology_of(atoms), positions)
    modeller.addHydrogens(field)
    system = field.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(modeller.positions)
    openmm.LocalEnergyMinimizer.minimize(context)
    minimum = context.getState(positions=True).getPositions()
    with Path(__file__).with_name("helix.pdb").open("w", encoding="utf-8") as file:
        app.PDBFile.writeFile(modeller.topology, minimum, file)


if __name__ == "__main__":
    main()
