"""What a run found, for other programs: formulas, the network, transition paths, and the table of its shots."""

from __future__ import annotations

from separatrix.export.force import openmm_force
from separatrix.export.formulas import FORMULA_ENDINGS, chosen_formula, write_formula
from separatrix.export.network import NETWORK_ENDINGS, network_program, write_network
from separatrix.export.paths import write_paths
from separatrix.export.plumed import plumed_input
from separatrix.export.shots import write_shots

__all__ = [
    "FORMULA_ENDINGS",
    "NETWORK_ENDINGS",
    "chosen_formula",
    "network_program",
    "openmm_force",
    "plumed_input",
    "write_formula",
    "write_network",
    "write_paths",
    "write_shots",
]
