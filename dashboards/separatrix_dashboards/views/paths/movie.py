"""The chosen path moving: a molecule in three dimensions, or a particle on its landscape."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
from bokeh.models import ColorBar, Plot
from numpy.typing import NDArray

from separatrix.estimates import landscape_energy
from separatrix.store import TOPOLOGY
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.theme import GREY, empty
from separatrix_dashboards.viewer import MoleculeViewer
from separatrix_dashboards.viewer.picture import ViewerError, solute_alone
from separatrix_dashboards.views.base import Scope, card
from separatrix_dashboards.views.committor_landscape import PLANE, coordinate, landscape_of
from separatrix_dashboards.views.paths.choice import ChosenPath, frame_time
from separatrix_dashboards.views.paths.ensemble import outlined_states
from separatrix_dashboards.views.paths.marks import Marks
from separatrix_dashboards.views.paths.player import Player

HEIGHT = 380

_ENERGY_POINTS = 121
_MOST_ENERGY = 12.0
"""Energies further above the minimum, kT, are not shaded."""

_ENERGY_RAMP = tuple(f"{GREY}{alpha:02x}" for alpha in range(120, 0, -6))


class MoleculeMovie:
    """The path in the 3-D viewer.

    Parameters
    ----------
    scope : of the run and the document
    marks : of the chosen path; they follow the viewer
    """

    def __init__(self, scope: Scope, marks: Marks) -> None:
        self._feed, self._marks = scope.feed, marks
        pdb = (scope.feed.path / TOPOLOGY).read_text()
        self._topology, self._n_hidden = solute_alone(pdb)
        self._viewer = MoleculeViewer(height=HEIGHT)
        marks.follow(self._viewer)
        self._place = pn.Column(self._viewer, sizing_mode="stretch_width", margin=(6, 0, 0, 0))

    def __panel__(self) -> pn.Column:
        """Return the card."""
        note = f"Not shown: {self._n_hidden:,} atoms of water and salt; the files of a path hold them."
        return card("The path moving", self._place, note=note if self._n_hidden else "", margin=0)

    def show(self, path: ChosenPath, positions: NDArray[Any]) -> None:
        """Show a path, (n_frames, n_solute, 3) nm."""
        try:
            self._viewer.show(positions, self._topology, frame_time(self._feed.snapshot), title=f"shot {path.shot}")
        except ViewerError as error:
            self._place[:] = [empty(str(error))]

    def jump(self, frame: int) -> None:
        """Stop at a frame."""
        if frame < self._viewer.n_frames:
            self._viewer.jump(frame)
            self._marks.jump(frame)


class LandscapeMovie:
    """The path of particle 0 over the energy of its landscape, with a player.

    Parameters
    ----------
    scope : of the run and the document
    marks : of the chosen path; they follow the player
    """

    def __init__(self, scope: Scope, marks: Marks) -> None:
        self._feed, self._marks = scope.feed, marks
        self._chart = scope.chart(
            ("paths", "landscape"), draw_landscape, lambda snapshot: 0, slow=True, height=HEIGHT - 70, ready=self._mark
        )
        self._player = Player(sizing_mode="stretch_width", margin=(4, 0, 0, 0))
        marks.follow(self._player)

    def __panel__(self) -> pn.Column:
        """Return the card."""
        note = "Grey: potential energy above its minimum, kT."
        return card("The path moving", self._chart.pane, self._player, note=note, margin=0)

    def show(self, path: ChosenPath, positions: NDArray[Any]) -> None:
        """Show a path, (n_frames, n_atoms, 3) nm."""
        self._marks.show(path, positions[:, 0, :2])
        self._player.show(len(positions), frame_time(self._feed.snapshot))

    def jump(self, frame: int) -> None:
        """Stop at a frame."""
        self._player.jump(frame)
        self._marks.jump(frame)

    def _mark(self, figure: Plot) -> None:
        for bar in figure.select({"type": ColorBar}):
            bar.title = None  # Bokeh writes it upright, and into the map; the card says it
        self._marks.draw_plane(figure)


Movie = MoleculeMovie | LandscapeMovie


def movie_of(scope: Scope, marks: Marks) -> Movie:
    """Return what shows the paths of a run: a landscape that can be drawn, else the molecule viewer."""
    landscape = landscape_of(scope.feed)
    if landscape is not None and landscape.window is not None:
        return LandscapeMovie(scope, marks)
    return MoleculeMovie(scope, marks)


def draw_landscape(feed: Feed, snapshot: RunSnapshot) -> hv.Overlay:
    """Return the energy of a landscape where it is low, and its states as far as x and y of particle 0 make them."""
    landscape = landscape_of(feed)
    if landscape is None or landscape.window is None:
        raise ValueError("expected a run on a landscape that can be drawn")
    (left, right), (low, high) = landscape.window
    x, y = np.linspace(left, right, _ENERGY_POINTS), np.linspace(low, high, _ENERGY_POINTS)
    energy = landscape_energy(landscape.expression, x, y) / landscape.thermal_energy
    energy = energy - np.nanmin(energy)
    plane = [hv.Dimension(f"{axis} of the particle", unit="nm") for axis in "xy"]
    image = hv.Image(
        np.where(energy < _MOST_ENERGY, energy, np.nan)[::-1],
        bounds=(left, low, right, high),
        kdims=plane,
        vdims=[hv.Dimension("energy", unit="kT")],
    ).opts(cmap=list(_ENERGY_RAMP), clim=(0, _MOST_ENERGY), colorbar=True)
    places = {coordinate(feed, name): name for name in snapshot.cv_names}
    names = [places.get(place, f"({axis})") for place, axis in zip(PLANE, "xy", strict=True)]
    states = outlined_states(snapshot, names, landscape.window, plane)
    return hv.Overlay([image, *states]).opts(show_legend=False)
