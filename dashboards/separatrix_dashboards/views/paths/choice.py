"""The path that is looked at, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import param
from numpy.typing import NDArray

from separatrix.estimates import path_multiplicities
from separatrix.logits import probabilities
from separatrix_dashboards.feeds import Feed, Latest, RunSnapshot

_GROWTH = 50
"""Pictures of a whole run are drawn anew when it has grown by about one part in so many."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChosenPath:
    """One accepted path, frame by frame, from the lower-indexed to the higher-indexed state.

    Attributes
    ----------
    shot : number of the shot that made it
    times : (n_frames,) ps
    cvs : (n_frames, n_collective_variables)
    ends : indices of the states it connects
    q, spread : (n_frames,) logit of the committor by a model, and how far the model's members differ; of more than two
        states, the probability of the state it leads to
    p : (n_frames, n_states) probability of each of more than two states, None for two
    model_version : of that model, 0 for the untrained one
    shooting_frame : index of the shooting point
    """

    shot: int
    times: NDArray[np.float64]
    cvs: NDArray[np.float32]
    ends: tuple[int, int]
    q: NDArray[np.float64]
    spread: NDArray[np.float64]
    p: NDArray[np.float64] | None
    model_version: int
    shooting_frame: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AcceptedPaths:
    """All accepted paths of a run.

    Attributes
    ----------
    shots : (n,) numbers of the shots that made them, ascending
    counts : (n,) steps for which their chains stood on them, burn-in left out
    in_use : (n_chains,) shots of the paths on which the chains stand now
    n_burn_in : trials of chains that still descended from their seed path
    """

    shots: NDArray[np.int64]
    counts: NDArray[np.int64]
    in_use: NDArray[np.int64]
    n_burn_in: int

    @property
    def newest(self) -> int:
        """Shot of the newest path, -1 for none."""
        return int(self.shots[-1]) if len(self.shots) else -1

    def count(self, shot: int) -> int:
        """Return how often the path of a shot counts."""
        return int(self.counts[np.searchsorted(self.shots, shot)])


class Choice(param.Parameterized):
    """What the user chose.

    Parameters
    ----------
    shot : number of the shot whose path is looked at, -1 for none
    path : what is known of it, once it is there
    follow : whether it is to be the newest accepted path
    """

    shot = param.Integer(default=-1)
    path = param.ClassSelector(class_=ChosenPath, default=None)
    follow = param.Boolean(default=True)

    def choose(self, shot: int) -> None:
        """Stay with a path the user pointed at."""
        self.param.update(shot=int(shot), follow=False)


def frame_time(snapshot: RunSnapshot) -> float:
    """Return the time between saved frames, ps."""
    if snapshot.config.table is not None:  # which knows no time, and no paths
        return 0.0
    return snapshot.config.sampling.stride * snapshot.config.dynamics.timestep / 1000.0


def chosen_path(feed: Feed, snapshot: RunSnapshot, shot: int) -> ChosenPath:
    """Return what is known of an accepted path."""
    frames = snapshot.frames
    first, last = np.searchsorted(frames["shot"], [shot, shot + 1])
    model = feed.model(snapshot.model_version)
    features = frames["features"][first:last]
    begin, end = snapshot.shots["ends"][shot].tolist()
    if model.n_outputs == 1:
        q, spread, p = model.q(features), model.spread(features), None
    else:
        members = np.stack([probabilities(each) for each in model.member_logits(features)])
        p = model.probabilities(features)
        q, spread = p[:, end], members[:, :, end].std(axis=0)
    return ChosenPath(
        shot=shot,
        times=np.arange(last - first) * frame_time(snapshot),
        cvs=frames["cvs"][first:last],
        ends=(begin, end),
        q=q,
        spread=spread,
        p=p,
        model_version=snapshot.model_version,
        shooting_frame=int(snapshot.shots["shooting_frame"][shot]),
    )


def counted(snapshot: RunSnapshot) -> Mapping[str, NDArray[Any]]:
    """Return the columns of the trials that count: those of chains that have left their seed path behind."""
    keep = ~snapshot.shots["burn_in"]
    names = ("chain", "accepted", "n_frames")
    return {name: snapshot.shots[name][keep] for name in names}


def multiplicities(feed: Feed, snapshot: RunSnapshot) -> NDArray[np.int64]:
    """Return how often the path of each shot counts, (n_shots,); burn-in does not."""

    def compute() -> NDArray[np.int64]:
        trials = counted(snapshot)
        result = np.zeros(snapshot.n_shots, dtype=np.int64)
        result[~snapshot.shots["burn_in"]] = path_multiplicities(trials["chain"], trials["accepted"])
        return result

    latest: Latest = feed.cached("path multiplicities", Latest)
    return latest.get(snapshot.n_shots, compute)


def accepted_paths(feed: Feed, snapshot: RunSnapshot) -> AcceptedPaths:
    """Return what is known of all accepted paths."""
    shots = np.flatnonzero(snapshot.shots["accepted"])
    _, last = np.unique(snapshot.shots["chain"][shots][::-1], return_index=True)
    return AcceptedPaths(
        shots=shots,
        counts=multiplicities(feed, snapshot)[shots],
        in_use=shots[::-1][last],
        n_burn_in=int(snapshot.shots["burn_in"].sum()),
    )


def pace(snapshot: RunSnapshot) -> tuple[int, str]:
    """Return what changes as often as pictures of a whole run need: with every shot at first, seldom in a long run."""
    state = snapshot.status.state.value
    return (_coarse(snapshot.n_shots) if state == "running" else snapshot.n_shots), state


def _coarse(n: int) -> int:
    """Return a number cut down to a multiple of a power of two, by two parts in `_GROWTH` at most."""
    grain = 1 << max(0, (n // _GROWTH).bit_length() - 1)
    return n // grain * grain
