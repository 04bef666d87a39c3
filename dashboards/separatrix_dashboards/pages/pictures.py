"""Small pictures of systems, made from the systems themselves: wells of a landscape, or balls and sticks.

They are SVG without a background, in colours of middle lightness, so that they read on light and on dark.
"""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, Final

import contourpy
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from separatrix.config import RunConfig
from separatrix.engine import atoms_of
from separatrix.errors import SeparatrixError
from separatrix.estimates import landscape_energy
from separatrix.expressions import compile_expression
from separatrix.systems import build_sketch, resolve
from separatrix.systems.base import System
from separatrix.units import thermal_energy
from separatrix_dashboards.theme import BLUE, GREY, ORANGE, STATE_COLOURS, YELLOW
from separatrix_dashboards.words import escaped

WIDTH, HEIGHT = 320, 180
"""Size of a picture in its own units; a page scales it."""

_POOL: Final = "#5d84a8"
_DEPTHS: Final = (1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 11.0)
"""A landscape is filled up to these energies above its minimum, in kT."""
_MESH: Final = (97, 55)

_ELEMENTS: Final = {
    "C": "#77808c",
    "N": BLUE,
    "O": ORANGE,
    "H": "#c3c9d1",
    "S": YELLOW,
    "Li": "#9a6fb8",
    "Cl": "#4f9d69",
}
_RADII: Final = {"H": 0.62, "Cl": 1.8}
_MOST_ATOMS: Final = 400
_MOST_SCALE: Final = 400.0
"""Length of 1 nm: two ions alone stand no further apart."""
_TILTS: Final = tuple(range(-48, 49, 8))


def system_picture(config: RunConfig) -> str:
    """Return a picture of what a run moves, as SVG.

    Parameters
    ----------
    config : the resolved configuration
    """
    wanted = config.model_dump(mode="json", include={"system", "collective_variables", "states"}, exclude_none=True)
    return _picture(json.dumps(wanted))


def catalogue_picture(kind: str) -> str:
    """Return a picture of a system of the catalogue, as SVG."""
    return system_picture(resolve({"system": {"kind": kind}}))


@lru_cache(maxsize=128)
def _picture(wanted: str) -> str:
    config = RunConfig.from_data(json.loads(wanted))
    try:
        system = build_sketch(config)
        if system.landscape is not None:
            return _svg(_landscape(config, system, system.landscape), system.description)
        if system.topology.getNumAtoms() <= _MOST_ATOMS:
            return _svg(_molecule(system), system.description, fill=False)
    except SeparatrixError:
        pass  # a run that cannot be built here still has its card
    return unknown_picture()


def unknown_picture() -> str:
    """Return what stands for a system of which there is no picture, as SVG."""
    wells = (
        f'<path d="M60 40C80 150 130 150 160 90C190 150 240 150 260 40" fill="none" stroke="{_POOL}" stroke-width="5" '
        f'stroke-linecap="round"/><circle cx="112" cy="124" r="9" fill="{STATE_COLOURS[0]}"/>'
        f'<circle cx="208" cy="124" r="9" fill="{STATE_COLOURS[1]}"/>'
    )
    return _svg(wells, "a system")


def _svg(content: str, title: str, *, fill: bool = True) -> str:
    """Return a picture; one that fills its place may lose something at the border."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'preserveAspectRatio="xMidYMid {"slice" if fill else "meet"}" aria-label="{escaped(title)}">{content}</svg>'
    )


# -- landscapes ----------------------------------------------------------------------------------------------------


def _landscape(config: RunConfig, system: System, expression: str) -> str:
    starts = {name: snapshot.positions[0, :2].astype(float) for name, snapshot in system.starts.items()}
    x, y = _window(np.stack(list(starts.values())))
    energy = landscape_energy(expression, x, y)
    reduced = (energy - np.nanmin(energy)) / thermal_energy(config.dynamics.temperature)
    fine_x, fine_y = (np.linspace(axis[0], axis[-1], 4 * len(axis)) for axis in (x, y))
    parts = [
        f'<path d="{path}" fill="{_POOL}" fill-opacity="0.15" stroke="{_POOL}" stroke-opacity="0.35" '
        'stroke-width="0.6" fill-rule="evenodd"/>'
        for depth in reversed(_DEPTHS)
        if (path := _region(x, y, np.nan_to_num(reduced, nan=1e9) - depth))
    ]
    for index, (name, condition) in enumerate(config.states.items()):
        colour = STATE_COLOURS[index % len(STATE_COLOURS)]
        inside = _inside(condition, config.collective_variables, fine_x, fine_y)
        path = "" if inside is None else _region(fine_x, fine_y, 0.5 - inside)
        if path:
            parts.append(f'<path d="{path}" fill="{colour}" fill-opacity="0.85" fill-rule="evenodd"/>')
        if name in starts:
            parts.append(_label(name, *_place(starts[name], x, y), colour, on_disc=bool(path)))
    return "".join(parts)


def _window(points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the axes of a mesh around points (n, 2), in the proportions of the picture."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    span = np.ptp(points, axis=0)
    half = span / 2 + 0.42 * max(float(span.max()), 1e-3)
    half = np.array([max(half[0], half[1] * WIDTH / HEIGHT), max(half[1], half[0] * HEIGHT / WIDTH)])
    x, y = (np.linspace(c - h, c + h, n) for c, h, n in zip(middle, half, _MESH, strict=True))
    return x, y


def _inside(condition: str, cvs: Any, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any] | None:
    """Return where on the mesh a state is (n_y, n_x), 0 or 1; None if it depends on more than x(0) and y(0)."""
    mesh_x, mesh_y = np.meshgrid(x, y)
    known = {"x(0)": mesh_x, "y(0)": mesh_y}
    try:
        compiled = compile_expression(condition, tuple(cvs))
    except SeparatrixError:
        return None
    if any(cvs[name].replace(" ", "") not in known for name in compiled.names_used):
        return None
    columns = [known.get(definition.replace(" ", ""), np.zeros_like(mesh_x)).ravel() for definition in cvs.values()]
    return np.asarray(compiled.array(np.stack(columns, axis=1)), dtype=float).reshape(mesh_x.shape)


def _region(x: NDArray[Any], y: NDArray[Any], values: NDArray[Any]) -> str:
    """Return the outline of where values are below zero, as the data of an SVG path."""
    px, py = (np.asarray(place) for place in _place((x, y), x, y))
    # Without infinities, between which no border can be interpolated.
    generator = contourpy.contour_generator(px, py, np.clip(values, -1e6, 30.0), fill_type="OuterOffset")
    polygons, offsets = generator.filled(-2e6, 0.0)
    parts = []
    for points, ends in zip(polygons, offsets, strict=True):
        for begin, end in pairwise(ends):
            ring = points[begin : end - 1]
            if len(ring) > 2:
                parts.append("M" + "L".join(f"{a:.0f} {b:.0f}" for a, b in ring) + "Z")
    return "".join(parts)


def _place(point: Any, x: NDArray[Any], y: NDArray[Any]) -> tuple[Any, Any]:
    """Return where a point of the plane is in the picture."""
    return (point[0] - x[0]) / (x[-1] - x[0]) * WIDTH, (y[-1] - point[1]) / (y[-1] - y[0]) * HEIGHT


def _label(name: str, px: float, py: float, colour: str, *, on_disc: bool) -> str:
    disc = "" if on_disc else f'<circle cx="{px:.0f}" cy="{py:.0f}" r="11" fill="{colour}" fill-opacity="0.85"/>'
    return (
        f'{disc}<text x="{px:.0f}" y="{py:.0f}" dy="0.35em" text-anchor="middle" fill="#fff" font-size="13" '
        f'font-weight="600" font-family="system-ui, sans-serif">{escaped(name[:4])}</text>'
    )


# -- molecules -----------------------------------------------------------------------------------------------------


def _molecule(system: System) -> str:
    atoms = atoms_of(system.topology)
    elements = [atom.element.symbol if atom.element is not None else "C" for atom in system.topology.atoms()]
    positions = next(iter(system.starts.values())).positions.astype(float)
    flat, unit = _flattened(positions)
    radius = min(0.065 * unit, 15.0)
    drawn: list[tuple[float, str]] = []
    for first, second in atoms.bonds:
        depth = min(flat[first, 2], flat[second, 2]) - 1e-6
        drawn.append((depth, _stick(flat, elements, first, second, radius)))
    for point, element in zip(flat, elements, strict=True):
        colour, size = _ELEMENTS.get(element, GREY), radius * _RADII.get(element, 1.0)
        drawn.append((point[2], _ball(point, colour, size)))
    return "".join(text for _, text in sorted(drawn, key=lambda item: item[0]))


def _flattened(positions: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Return positions (n, 3) in the picture, depth last, and the length of 1 nm.

    Seen nearly along the thinnest direction, tilted so that atoms hide each other as little as can be.
    """
    centred = positions - positions.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=len(positions) < 3)
    tilts = (Rotation.from_euler("xy", angles, degrees=True).as_matrix() for angles in product(_TILTS, _TILTS))
    turned = max((centred @ axes.T @ tilt for tilt in tilts), key=_openness)
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale = float(min(_MOST_SCALE, (WIDTH - 44) / (high[0] - low[0] + 1e-9), (HEIGHT - 44) / (high[1] - low[1] + 1e-9)))
    turned -= (low + high) / 2
    return turned * scale + np.array([WIDTH / 2, HEIGHT / 2, 0.0]), scale


def _openness(positions: NDArray[Any]) -> float:
    """Return how far atoms (n, 3) are from their nearest neighbours in the plane, the closest counting most."""
    if len(positions) < 2:
        return 0.0
    distance, _ = KDTree(positions[:, :2]).query(positions[:, :2], k=2)
    return -float(np.mean(1.0 / (distance[:, 1] + 0.02)))


def _stick(flat: NDArray[Any], elements: list[str], first: int, second: int, radius: float) -> str:
    a, b = flat[first], flat[second]
    middle = (a + b) / 2
    halves = ((a, elements[first]), (b, elements[second]))
    return "".join(
        f'<path d="M{end[0]:.1f} {end[1]:.1f}L{middle[0]:.1f} {middle[1]:.1f}" stroke="{_ELEMENTS.get(element, GREY)}" '
        f'stroke-width="{0.55 * radius:.1f}"/>'
        for end, element in halves
    )


def _ball(point: NDArray[Any], colour: str, radius: float) -> str:
    x, y = point[0], point[1]
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" stroke="#39424e" stroke-opacity="0.45" '
        f'stroke-width="0.8"/><circle cx="{x - 0.3 * radius:.1f}" cy="{y - 0.32 * radius:.1f}" r="{0.3 * radius:.1f}" '
        'fill="#fff" fill-opacity="0.5"/>'
    )
