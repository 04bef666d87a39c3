"""Paths that no chain stands on any more: of those in water the solute alone may be kept."""

from __future__ import annotations

from collections.abc import Iterable

from separatrix.config import RunConfig
from separatrix.observables import Observables
from separatrix.store import Store


class StoredPaths:
    """Reduces the paths of a run that are left behind, if that is wished and there is solvent.

    A path is left whole until it is committed that its chain stands on another one: a run that is killed at any moment
    goes on from whole paths.

    Parameters
    ----------
    store : opened for writing
    in_use : shots whose paths the chains stand on
    """

    def __init__(self, store: Store, config: RunConfig, observables: Observables, in_use: Iterable[int]) -> None:
        self._store, self._solute = store, observables.solute
        self._wished = config.sampling.stored_paths == "solute" and len(self._solute) < observables.n_atoms
        self._left: list[int] = []
        if self._wished:  # what was killed before it came to this
            left = set(store.trajectory_shots()).difference(in_use)
            self._left = [shot for shot in sorted(left) if store.is_whole(shot)]

    def leave(self, shot: int) -> None:
        """Take note that no chain needs the path of a shot any more, once what has happened so far is committed."""
        if self._wished:
            self._left.append(shot)

    def reduce(self) -> None:
        """Reduce what is left; call it when everything is committed.

        Raises
        ------
        StoreError
            The disk is full or cannot be written; what was stored is there still.
        """
        while self._left:
            self._store.reduce_trajectory(self._left[-1], self._solute)
            self._left.pop()
