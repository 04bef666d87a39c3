r"""Symmetry functions: how the solvent is arranged around centre atoms, the same for whichever molecules do it.

For a centre i and its neighbours j of one element (Behler, J. Chem. Phys. 134, 074106 (2011); for solvents Geiger &
Dellago, J. Chem. Phys. 139, 164105 (2013); parameters as Jung, Covino & Hummer, arXiv:1901.04595, use them):

.. math::
    f_c(r) &= \frac{1}{1 + \exp(\alpha (r - r_c + 1/\sqrt{\alpha}))}, \quad f_c(r \ge r_c) = 0 \\
    G_2 &= \sum_j f_c(r_j) \exp(-\eta (r_j - r_s)^2) \\
    G_5 &= \sum_{j<k} (1 + \lambda \cos\theta_{jk})^\zeta \exp(-\eta ((r_j - r_s)^2 + (r_k - r_s)^2)) f_c(r_j) f_c(r_k)

with eta = 200 /nm^2 in G2 and 120 /nm^2 in G5, zeta in {1, 2, 4, 16, 64}, lambda = +1 and -1; alpha is 150, its root
taken of the bare number, with distances in nm.

Every function is divided by what it would be on average in a solvent without structure: atoms spread evenly and
independently, with the density of bulk water. With ``I(eta) = rho \int 4 pi r^2 f_c(r) exp(-eta (r - r_s)^2) dr`` that
is I(200) for G2 and ``2^zeta / (zeta + 1) * I(120)^2 / 2`` for G5, since (1 + lambda cos)^zeta has the mean
2^zeta / (zeta + 1) over the sphere. rho is 33.3 /nm^3, that of water molecules at 300 K and 1 bar, and twice that for
hydrogen. So the scale follows from the definition alone, never from data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ETA_G2: Final = 200.0
ETA_G5: Final = 120.0
"""1/nm^2."""
ALPHA: Final = 150.0
ZETAS: Final = (1, 2, 4, 16, 64)
"""Ascending, each a power of two times the one before: powers come from repeated squaring."""
LAMBDAS: Final = (1, -1)
WATER_DENSITY: Final = 33.3
"""Molecules per nm^3 of water at 300 K and 1 bar (0.9965 g/cm^3)."""
_RADII: Final = 4001
"""Points of the integral of the normalisation; f_c falls within some 0.03 nm."""


def cutoff_exponent(r: Any, r_cutoff: float) -> Any:
    """Return the exponent in f_c, ``alpha (r - r_c + 1/sqrt(alpha))``, of distances in nm (numpy or torch)."""
    return ALPHA * (r - (r_cutoff - ALPHA**-0.5))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surroundings:
    """Centres and their neighbours of one element.

    Attributes
    ----------
    centers : (n_centers,) int64
    neighbors : (n_neighbors,) int64; a centre among them is no neighbour of itself
    r_s : nm
    r_cutoff : nm
    normalisation : (n_r_s, 1 + n_zeta * n_lambda), what the sums over j and over j != k of
        ``((1 + lambda cos)/2)^zeta`` and so on are multiplied by
    """

    centers: NDArray[np.int64]
    neighbors: NDArray[np.int64]
    r_s: tuple[float, ...]
    r_cutoff: float
    normalisation: NDArray[np.float64]

    @property
    def n_columns(self) -> int:
        """Number of functions, of all centres."""
        return len(self.centers) * self.normalisation.size


def normalisation(r_s: Sequence[float], r_cutoff: float, density: float) -> NDArray[np.float64]:
    """Return the factors of the functions of every r_s, (n_r_s, 1 + n_zeta * n_lambda).

    Parameters
    ----------
    r_s, r_cutoff : nm
    density : of the neighbours where there is no structure, 1/nm^3
    """
    r = np.linspace(0.0, r_cutoff, _RADII)
    shell = density * 4.0 * np.pi * r**2 / (1.0 + np.exp(cutoff_exponent(r, r_cutoff)))
    squares = np.square(r - np.array(r_s)[:, None])
    one, pair = (np.trapezoid(shell * np.exp(-eta * squares), r, axis=1)[:, None] for eta in (ETA_G2, ETA_G5))
    angles = np.repeat([zeta + 1.0 for zeta in ZETAS], len(LAMBDAS))
    return np.hstack([1.0 / one, angles / pair**2])
