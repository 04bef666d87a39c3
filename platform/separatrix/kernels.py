"""Kernels: one formula for each kind of collective variable, written once for single numbers, arrays and symbols.

A kernel works on the components of displacement vectors and is given the namespace of its functions: numpy for blocks
of frames, `Trace` for the function that looks at one frame between integration steps. Distances in nm, angles in
degrees. Displacements obey the minimum-image convention; x, y and z are positions as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final

Number = Any
"""A float, an array of floats or a symbol."""

Vector = tuple[Number, Number, Number]
"""Components x, y, z; nm."""

DEGREES: Final = 180.0 / math.pi

FLOATS: Final = SimpleNamespace(any=bool, where=lambda condition, yes, no: yes if condition else no)
"""What `minimum_image` needs of numpy, for plain floats."""


def x_position(_: Any, position: Vector) -> Number:
    """Return x, nm."""
    return position[0]


def y_position(_: Any, position: Vector) -> Number:
    """Return y, nm."""
    return position[1]


def z_position(_: Any, position: Vector) -> Number:
    """Return z, nm."""
    return position[2]


def distance(ns: Any, u: Vector) -> Number:
    """Return the length of the displacement u = i -> j, nm."""
    x, y, z = u
    return ns.sqrt(x * x + y * y + z * z)


def angle(ns: Any, u: Vector, v: Vector) -> Number:
    """Return the angle between u = j -> i and v = j -> k, degrees; exact near 0 and 180 degrees too."""
    (ux, uy, uz), (vx, vy, vz) = u, v
    nx = uy * vz - uz * vy
    ny = uz * vx - ux * vz
    nz = ux * vy - uy * vx
    return DEGREES * ns.atan2(ns.sqrt(nx * nx + ny * ny + nz * nz), ux * vx + uy * vy + uz * vz)


def angle_circle(ns: Any, u: Vector, v: Vector) -> tuple[Number]:
    """Return the cosine of an angle."""
    (ux, uy, uz), (vx, vy, vz) = u, v
    norms = ns.sqrt((ux * ux + uy * uy + uz * uz) * (vx * vx + vy * vy + vz * vz))
    return ((ux * vx + uy * vy + uz * vz) / norms,)


def dihedral(ns: Any, u: Vector, v: Vector, w: Vector) -> Number:
    """Return the dihedral of u = i -> j, v = j -> k, w = k -> l, degrees in -180..180."""
    return DEGREES * ns.atan2(*_dihedral_legs(ns, u, v, w))


def dihedral_circle(ns: Any, u: Vector, v: Vector, w: Vector) -> tuple[Number, Number]:
    """Return sine and cosine of a dihedral."""
    sine, cosine = _dihedral_legs(ns, u, v, w)
    radius = ns.sqrt(sine * sine + cosine * cosine)
    return sine / radius, cosine / radius


def _dihedral_legs(ns: Any, u: Vector, v: Vector, w: Vector) -> tuple[Number, Number]:
    """Return |v| u.(v x w) and (u x v).(v x w), sine and cosine of the dihedral up to a factor.

    The sign is IUPAC's, as in MDTraj (Blondel & Karplus, J. Comput. Chem. 17, 1132).
    """
    (ux, uy, uz), (vx, vy, vz), (wx, wy, wz) = u, v, w
    mx = uy * vz - uz * vy
    my = uz * vx - ux * vz
    mz = ux * vy - uy * vx
    nx = vy * wz - vz * wy
    ny = vz * wx - vx * wz
    nz = vx * wy - vy * wx
    sine = ns.sqrt(vx * vx + vy * vy + vz * vz) * (ux * nx + uy * ny + uz * nz)
    return sine, mx * nx + my * ny + mz * nz


def coordination(ns: Any, u: Vector, r0: float, n: float, m: float) -> Number:
    """Return one pair's share of a coordination number: (1 - (r/r0)^n) / (1 - (r/r0)^m).

    With y = (r/r0)^gcd(n, m) both are geometric sums, ``sum_{k<n/g} y^k / sum_{k<m/g} y^k``: no singularity at r = r0.
    """
    divisor = math.gcd(int(n), int(m))
    ratio = distance(ns, u) / r0
    base = math.prod([ratio] * divisor)
    numerator = denominator = 1.0
    for _ in range(int(n) // divisor - 1):
        numerator = numerator * base + 1.0
    for _ in range(int(m) // divisor - 1):
        denominator = denominator * base + 1.0
    return numerator / denominator


def minimum_image(ns: Any, u: Vector, cell: Sequence[Number]) -> Vector:
    """Return a displacement folded to its nearest periodic image.

    Parameters
    ----------
    u : displacement, nm
    cell : ax, bx, by, cx, cy, cz of reduced box vectors, nm (OpenMM's form: a along x, b in the xy plane)

    Notes
    -----
    Folding along c, b and a in turn gives the nearest image up to half the shortest of ax, by and cz. Beyond that, in
    a triclinic box, the neighbouring images are compared too, as MDTraj does.
    """
    (x, y, z), (ax, bx, by, cx, cy, cz) = u, cell
    shift = _nearest_integer(z / cz)
    x, y, z = x - shift * cx, y - shift * cy, z - shift * cz
    shift = _nearest_integer(y / by)
    x, y = x - shift * bx, y - shift * by
    x = x - _nearest_integer(x / ax) * ax
    if not (ns.any(bx) or ns.any(cx) or ns.any(cy)):
        return x, y, z
    folded, best = (x, y, z), x * x + y * y + z * z
    if not (ns.any(4.0 * best > ax * ax) or ns.any(4.0 * best > by * by) or ns.any(4.0 * best > cz * cz)):
        return folded
    for k, j in itertools.product((-1, 0, 1), repeat=2):
        near_z = folded[2] + k * cz
        near_y = folded[1] + k * cy + j * by
        rest = near_y * near_y + near_z * near_z
        if not ns.any(rest < best):
            continue
        near_x = folded[0] + k * cx + j * bx
        near_x = near_x - _nearest_integer(near_x / ax) * ax
        squared = rest + near_x * near_x
        closer = squared < best
        x, y, z = ns.where(closer, near_x, x), ns.where(closer, near_y, y), ns.where(closer, near_z, z)
        best = ns.where(closer, squared, best)
    return x, y, z


def _nearest_integer(value: Number) -> Number:
    # Adding 1.5 * 2**52 leaves no bits for the fraction: rounds floats and arrays alike, and lets nan pass.
    return (value + 6755399441055744.0) - 6755399441055744.0


def _check_switching(r0: float, n: float, m: float) -> str | None:
    if r0 <= 0:
        return f"expected r0 > 0 nm, got {r0}"
    if n != int(n) or m != int(m) or not 1 <= n < m <= 100:
        return f"expected whole exponents 1 <= n < m <= 100, got n={n}, m={m}"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of collective variable.

    Attributes
    ----------
    usage : how a definition is written
    unit : of the value; empty without one
    kernel : function of a namespace, of the ``vectors`` and of the parameters
    vectors : displacements from and to the n-th atom of the definition; a single atom stands for its position
    circle : for angles, function of the same that returns the components on the unit circle named by ``forms``
    forms : names of these components
    atoms : how many atoms one evaluation of the kernel takes
    pairwise : whether the definition gives two lists of atoms and the kernel is summed over all pairs
    parameters : default of each named parameter
    check : says what is wrong with the parameters
    """

    usage: str
    unit: str
    kernel: Callable[..., Number]
    vectors: tuple[tuple[int, ...], ...]
    atoms: int
    circle: Callable[..., tuple[Number, ...]] | None = None
    forms: tuple[str, ...] = ("",)
    periodic: bool = False
    pairwise: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)
    check: Callable[..., str | None] = lambda: None


KINDS: Final[Mapping[str, Kind]] = {
    "x": Kind(usage="x(i)", unit="nm", kernel=x_position, vectors=((0,),), atoms=1),
    "y": Kind(usage="y(i)", unit="nm", kernel=y_position, vectors=((0,),), atoms=1),
    "z": Kind(usage="z(i)", unit="nm", kernel=z_position, vectors=((0,),), atoms=1),
    "distance": Kind(usage="distance(i, j)", unit="nm", kernel=distance, vectors=((0, 1),), atoms=2),
    "angle": Kind(
        usage="angle(i, j, k)",
        unit="degrees",
        kernel=angle,
        circle=angle_circle,
        forms=("cos",),
        vectors=((1, 0), (1, 2)),
        atoms=3,
    ),
    "dihedral": Kind(
        usage="dihedral(i, j, k, l)",
        unit="degrees",
        kernel=dihedral,
        circle=dihedral_circle,
        forms=("sin", "cos"),
        vectors=((0, 1), (1, 2), (2, 3)),
        atoms=4,
        periodic=True,
    ),
    "coordination": Kind(
        usage="coordination([i, ...], [j, ...], r0=0.35, n=6, m=12)",
        unit="",
        kernel=coordination,
        vectors=((0, 1),),
        atoms=2,
        pairwise=True,
        parameters={"r0": 0.35, "n": 6, "m": 12},
        check=_check_switching,
    ),
}
"""The kinds of collective variables; a further one is a kernel and a line here."""
