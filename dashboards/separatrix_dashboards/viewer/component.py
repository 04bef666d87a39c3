"""The viewer as a Panel component: Python gives it a path once, the browser moves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import param
from numpy.typing import ArrayLike, NDArray
from panel.custom import AnyWidgetComponent

from separatrix_dashboards.viewer.picture import Picture, ViewerError, read_picture
from separatrix_dashboards.viewer.superposition import lying_flat, superposed

ANGSTROMS_PER_NM = 10.0

MOST_BYTES = 8_000_000
"""The most that is sent at once; longer paths are thinned evenly. Proxies refuse messages beyond 10 MB."""

_BYTES_PER_ATOM = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """A path that is shown.

    Attributes
    ----------
    pdb : the topology as it was given
    picture : what is drawn of it
    positions : (n_frames, n_atoms, 3) nm
    reference : (m, 3) nm, where the heavy atoms of every frame are laid, or None
    """

    pdb: str
    picture: Picture
    positions: NDArray[np.float32]
    reference: NDArray[np.float64] | None

    def coordinates(self, atoms: NDArray[np.intp]) -> bytes:
        """Return the positions of some atoms as the browser takes them."""
        most = max(2, MOST_BYTES // max(1, _BYTES_PER_ATOM * len(atoms)))
        positions = self.positions
        if len(positions) > most:
            positions = positions[np.linspace(0, len(positions) - 1, most).round().astype(np.intp)]
        drawn = positions[:, atoms]
        if self.reference is not None:
            fitted = positions[:, self.picture.solute[self.picture.heavy]]
            n_fitted = fitted.shape[1]
            both = np.concatenate([fitted, drawn], axis=1)
            drawn = superposed(both, np.arange(n_fitted), self.reference)[:, n_fitted:]
        return np.ascontiguousarray(drawn * ANGSTROMS_PER_NM, dtype="<f4").tobytes()


class MoleculeViewer(AnyWidgetComponent):
    """Shows a path moving: play and pause, a slider, keys; drag to turn, wheel to zoom.

    Proteins are cartoons, small molecules sticks and balls, particles of landscapes balls with their trail. Water and
    salt appear on demand.

    Parameters
    ----------
    frame : the frame shown, counted from 0; follows the user's slider, keys and pauses, and may be set
    playing : whether the path moves; follows the user, and may be set
    water : whether waters and salt are shown; follows the user, and may be set
    empty : what stands there while there is no path

    Examples
    --------
    >>> from separatrix_dashboards.viewer import MoleculeViewer
    >>> viewer = MoleculeViewer(height=420)
    >>> viewer.show(positions, topology_pdb, frame_time_ps=0.02, title="shot 17")  # doctest: +SKIP
    >>> viewer.jump(12)  # doctest: +SKIP
    """

    frame = param.Integer(default=0, bounds=(0, None))
    playing = param.Boolean(default=False)
    water = param.Boolean(default=False)
    empty = param.String(default="Tap a path to see it move")

    title = param.String(default="", doc="Stands in the corner of the picture.")
    shown = param.Integer(default=0, doc="The frame on screen, also while it plays; known to the browser alone.")
    topology = param.String(default="", doc="PDB text of what is always drawn.")
    kinds = param.String(default="", doc="How its atoms are drawn, a letter each.")
    coordinates = param.Bytes(default=b"", doc="Their positions, (frame, atom, 3) float32, angstroms.")
    has_solvent = param.Boolean(default=False)
    solvent = param.String(default="", doc="PDB text of waters and salt, once they are asked for.")
    solvent_coordinates = param.Bytes(default=b"")
    n_frames = param.Integer(default=0)
    frame_time = param.Number(default=1.0, doc="ps between frames.")
    shows = param.Integer(default=0, doc="Counts calls of show() and clear(): the browser looks anew.")
    jumps = param.Integer(default=0, doc="Counts calls of jump().")

    _bundle: ClassVar[Path] = Path(__file__).parent / "dist" / "molecule_viewer.js"

    def __init__(self, **params: Any) -> None:
        if not self._bundle.is_file():
            raise ViewerError(
                f"expected the viewer's bundle at {self._bundle}, found none; it is made at installation: "
                "run pip install -e . in the checkout, or install a wheel"
            )
        super().__init__(**{"sizing_mode": "stretch_width", "min_height": 320, "min_width": 280} | params)
        self._path: _Path | None = None
        self.param.watch(self._send_solvent, "water")

    def show(  # type: ignore[override]  # Panel's own show() opens a browser; this one shows a path
        self,
        positions_nm: ArrayLike,
        topology_pdb: str,
        frame_time_ps: float,
        title: str = "",
        *,
        superpose: bool = True,
    ) -> None:
        """Show a path from its first frame on, and let it play.

        Parameters
        ----------
        positions_nm : (n_frames, n_atoms, 3), nm
        topology_pdb : text of a PDB file with these atoms in this order
        frame_time_ps : time between two frames, ps
        title : stands in the corner of the picture
        superpose : lay the frames on the first one (heavy atoms), and that on the first path of this molecule;
            particles of landscapes stay where they are

        Raises
        ------
        ViewerError
            If the positions are none of this topology, or no numbers, or the time is not positive.
        """
        before = self._path if self._path is not None and self._path.pdb == topology_pdb else None
        picture = before.picture if before else read_picture(topology_pdb)
        positions = _checked(positions_nm, picture.n_atoms)
        if not 0 < frame_time_ps < np.inf:
            raise ViewerError(f"expected a positive time between frames, ps, got {frame_time_ps!r}")
        reference = None
        if superpose and len(picture.heavy) > 1:
            reference = before.reference if before else None
            if reference is None:
                reference = lying_flat(positions[0, picture.solute[picture.heavy]])
        self._path = _Path(pdb=topology_pdb, picture=picture, positions=positions, reference=reference)
        self.param.update(
            topology=picture.topology,
            kinds=picture.kinds,
            coordinates=self._path.coordinates(picture.solute),
            has_solvent=len(picture.solvent) > 0,
            **self._solvent(),
            n_frames=len(positions),
            frame_time=float(frame_time_ps),
            title=title,
            frame=0,
            playing=len(positions) > 1,
            shows=self.shows + 1,
        )

    def clear(self) -> None:
        """Show no path; the browser gives back what drawing needed."""
        self._path = None
        nothing = ("topology", "kinds", "coordinates", "has_solvent", "solvent", "solvent_coordinates", "n_frames")
        defaults = {name: self.param[name].default for name in (*nothing, "title", "frame", "playing")}
        self.param.update(**defaults, shows=self.shows + 1)

    def jump(self, frame: int) -> None:
        """Stop at a frame, even at the one Python heard of last: setting ``frame`` to its own value does nothing.

        Raises
        ------
        ViewerError
            If there is no such frame.
        """
        if not 0 <= frame < self.n_frames:
            shown = f"a frame from 0 to {self.n_frames - 1}" if self.n_frames else "a path to be shown first"
            raise ViewerError(f"expected {shown}, got frame {frame}")
        self.param.update(frame=int(frame), jumps=self.jumps + 1)

    @classmethod
    def _process_importmap(cls) -> dict[str, Any]:
        """Return no imports: Panel's own would name another host for React, which the bundle does not need."""
        return {}

    def _send_solvent(self, *_: object) -> None:
        self.param.update(**self._solvent())

    def _solvent(self) -> dict[str, str | bytes]:
        """Return waters and salt, or nothing as long as nobody asks for them."""
        if self._path is None or not self.water:
            return {"solvent": "", "solvent_coordinates": b""}
        picture = self._path.picture
        return {
            "solvent": picture.solvent_topology,
            "solvent_coordinates": self._path.coordinates(picture.solvent),
        }


def _checked(positions_nm: ArrayLike, n_atoms: int) -> NDArray[np.float32]:
    positions = np.asarray(positions_nm, dtype=np.float32)
    if positions.ndim != 3 or positions.shape[1:] != (n_atoms, 3) or len(positions) == 0:
        raise ViewerError(
            f"expected positions of shape (n_frames, {n_atoms}, 3) nm, as the topology has {n_atoms} atoms, "
            f"got {positions.shape}"
        )
    if not np.isfinite(positions).all():
        frame = int(np.argwhere(~np.isfinite(positions))[0, 0])
        raise ViewerError(f"expected positions that are numbers, found some that are not in frame {frame}")
    return positions
