"""What the committor view shows of a run: p_B over one or two collective variables, and what lies over it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from separatrix.estimates import (
    BinnedMean,
    Deviation,
    binned_mean,
    innermost,
    path_multiplicities,
    smoothed_density,
    smoothed_mean,
    state_masks,
    transition_region_error,
)
from separatrix.records import Reason, RunState
from separatrix.rows import are_transitions
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.views.committor_axes import MOST_FRAMES, Axis, Choice, axis_of
from separatrix_dashboards.views.committor_landscape import (
    energy_on,
    exact_of,
    exact_on,
    features_on,
    landscape_of,
    sees_others,
)
from separatrix_dashboards.views.committor_prediction import predicted, predictions_on_frames

Array = NDArray[Any]

MOST_SHOTS: Final = 500
"""Shooting points shown, the newest."""

_DENSITY_WIDTH: Final = 0.03
"""Paths are smoothed by a Gaussian of this width, relative to the axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What stands beside the map.

    Attributes
    ----------
    version, n_versions : of the model shown (0 for none), and how many there are
    n_shots : it was trained on
    loss : on held-out shooting points, per shot
    slope, slope_error : of the calibration on held-out shooting points
    deviation : from the exact committor on the sampled frames, where it is known
    n_frames, n_all_frames : frames that were looked at, and frames there are
    """

    version: int = 0
    n_versions: int = 0
    n_shots: int = 0
    loss: float | None = None
    slope: float | None = None
    slope_error: float | None = None
    deviation: Deviation | None = None
    n_frames: int = 0
    n_all_frames: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What a model says in every bin; all nan without a model.

    Attributes
    ----------
    p : probability of the chosen state
    smooth : the same as `p` on a grid of positions, less rugged where p is a mean over frames; its contour at one half
        is the separatrix
    others : of more than two states, the same as `smooth` for each of the others
    within : standard deviation of p within the bin; nan on a grid of positions
    spread : standard deviation of p over the members of the ensemble
    on_grid : whether the bins hold positions on a grid, and no frames
    """

    p: Array
    smooth: Array
    within: Array
    spread: Array
    on_grid: bool = False
    others: tuple[Array, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShootingPoints:
    """Where shots began: rows of the shots, their ends (n, 2), their place (n, k), and what is predicted of each.

    ``foretold`` is the logit of p_B before each shot, of more than two states the probability of a transition; ``p`` is
    the probability of the chosen state, of two states as foretold, else by the model shown. ``given`` says that a table
    tells what several shots from each came to: the ends are the first and the last state that any of them came to.
    """

    shot: Array
    ends: Array
    foretold: Array
    p: Array
    place: Array
    given: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CommittorMap:
    """Everything that is drawn; arrays over bins are (n_y, n_x), or (n_x,) for one axis.

    Attributes
    ----------
    axes : of x, and of y if there are two
    model : what the model says
    exact : exact committor, all nan where it is not known
    count : sampled frames
    density : of the frames of the accepted paths
    energy : kT, over the fine points of the axes; None where there is none to draw
    masks : name of a state -> where it lies on the fine points of the axes
    labels : name of a state -> its middle, one coordinate for each axis
    shots : shooting points
    numbers : what stands beside it
    notes : what is to be known about it, in sentences
    """

    axes: tuple[Axis, ...]
    model: Prediction
    exact: Array
    count: Array
    density: Array
    energy: Array | None
    masks: Mapping[str, Array]
    labels: Mapping[str, tuple[float, ...]]
    shots: ShootingPoints
    numbers: Numbers
    notes: tuple[str, ...]

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether each axis is periodic."""
        return tuple(axis.periodic for axis in self.axes)

    def layer(self, name: str) -> Array:
        """Return what a layer shows in every bin, nan where nothing is known."""
        match name:
            case "exact":
                return self.exact
            case "difference":
                return np.asarray(self.model.p - self.exact)
            case "spread":
                return self.model.spread
            case _:
                return self.model.p


def dependence(snapshot: RunSnapshot, choice: Choice) -> Hashable:
    """Return what of a snapshot a map depends on: not on every single shot while a run goes on."""
    n_shots = snapshot.n_shots
    if snapshot.status.state in (RunState.RUNNING, RunState.SEEDING):
        step = max(1, n_shots // 50)
        n_shots = n_shots // step * step
    return choice.version or snapshot.model_version, n_shots


def committor_map(feed: Feed, snapshot: RunSnapshot, choice: Choice) -> CommittorMap:
    """Return what is drawn of a choice; takes 0.2 s for 50,000 frames, and less when some of it is known already."""
    version = choice.version or snapshot.model_version
    report = snapshot.reports[version] if version else {}
    # An older model is shown with the shots it had seen.
    n_shots = int(report["n_shots"]) if choice.version else snapshot.n_shots
    axes = tuple(axis_of(feed, snapshot, name, choice) for name in choice.names)
    frames = predictions_on_frames(feed, snapshot, version, choice.state, MOST_FRAMES) if version else None
    count = binned_mean(*_over(snapshot, axes, None)).count
    exact, problem = exact_on(feed, axes, choice.state)
    # A table says where shots ended, and not where the states are.
    states = snapshot.config.states if snapshot.config.table is None else {}
    masks = state_masks(states, snapshot.cv_names, {axis.name: axis.fine for axis in axes})
    model = _prediction(feed, snapshot, axes, version, frames, choice)
    numbers = _numbers(feed, snapshot, version, report, frames, choice.state)
    notes = (
        [_origin(feed, snapshot, axes, numbers, on_grid=model.on_grid)] if version and choice.layer != "exact" else []
    )
    notes += _about_exact(snapshot, problem, known=numbers.deviation is not None or choice.layer == "exact")
    notes += _left_out(tuple(states), masks)
    if choice.version:
        notes.append(f"Shooting points and paths are those of the first {n_shots} shots.")
    return CommittorMap(
        axes=axes,
        model=model,
        exact=exact,
        count=count,
        density=_path_density(snapshot, axes, n_shots),
        energy=energy_on(feed, axes),
        masks=masks,
        labels=_labels(masks, axes),
        shots=_shooting_points(feed, snapshot, axes, n_shots, version, choice.state),
        numbers=numbers,
        notes=tuple(notes),
    )


# -- the model ---------------------------------------------------------------------------------------------------------


def _prediction(
    feed: Feed,
    snapshot: RunSnapshot,
    axes: Sequence[Axis],
    version: int,
    frames: tuple[Array, Array] | None,
    choice: Choice,
) -> Prediction:
    """Return what a model says in every bin: at its middle where positions have a grid, else over its frames."""
    shape = tuple(len(axis.centres) for axis in reversed(axes))
    unknown = np.full(shape, np.nan)
    if frames is None:
        return Prediction(p=unknown, smooth=unknown, within=unknown, spread=unknown)
    n_states = len(snapshot.state_names)
    states = [state for state in range(n_states) if state != choice.state and n_states > 2]
    features = features_on(feed, axes)
    if features is not None:
        model = feed.model(version)
        p, spread = (array.reshape(shape) for array in predicted(model, features, choice.state))
        others = tuple(predicted(model, features, state)[0].reshape(shape) for state in states)
        return Prediction(p=p, smooth=p, within=unknown, spread=spread, on_grid=True, others=others)
    rest = (predictions_on_frames(feed, snapshot, version, state, MOST_FRAMES) for state in states)
    others = tuple(mean_over_frames(snapshot, axes, *each, choice.least).smooth for each in rest)
    return replace(mean_over_frames(snapshot, axes, *frames, choice.least), others=others)


def mean_over_frames(
    snapshot: RunSnapshot, axes: Sequence[Axis], p: Array, spread: Array, least: int = 1
) -> Prediction:
    """Return in every bin the mean of what is said of the newest frames, (n,) each.

    Parameters
    ----------
    least : frames a bin must hold for anything to be known
    """
    means: BinnedMean = binned_mean(*_over(snapshot, axes, p))
    shown = means.count >= max(least, 1)
    smooth = smoothed_mean(means, periodic=[axis.periodic for axis in axes])
    mean, smooth, within, between = (
        np.where(shown, array, np.nan)
        for array in (means.mean, smooth, means.deviation, binned_mean(*_over(snapshot, axes, spread)).mean)
    )
    return Prediction(p=mean, smooth=smooth, within=within, spread=between)


def _over(snapshot: RunSnapshot, axes: Sequence[Axis], values: Array | None) -> tuple[Array, Array, list[Array]]:
    """Return the newest frames, values and edges as `binned_mean` wants them."""
    place = snapshot.frames["cvs"][-MOST_FRAMES:][:, [axis.column for axis in axes]]
    return place, np.zeros(len(place)) if values is None else values, [axis.edges for axis in axes]


def _numbers(
    feed: Feed,
    snapshot: RunSnapshot,
    version: int,
    report: Mapping[str, Any],
    frames: tuple[Array, Array] | None,
    state: int,
) -> Numbers:
    cvs = snapshot.frames["cvs"]
    numbers = Numbers(n_versions=len(snapshot.reports), n_frames=min(len(cvs), MOST_FRAMES), n_all_frames=len(cvs))
    if frames is None:
        return numbers
    fit = report.get("calibration") or {}
    fit = fit.get("states", {}).get(snapshot.state_names[state], fit)
    deviation = None
    landscape = landscape_of(feed)
    if landscape is not None and landscape.plane is not None:
        exact = exact_of(feed, landscape)
        if not isinstance(exact, str):
            deviation = transition_region_error(
                frames[0], exact[state].at(cvs[-MOST_FRAMES:][:, list(landscape.plane)])
            )
    return replace(
        numbers,
        version=version,
        n_shots=int(report["n_shots"]),
        loss=report.get("validation_loss"),
        slope=fit.get("slope"),
        slope_error=fit.get("slope_error"),
        deviation=deviation,
    )


# -- states, shots -----------------------------------------------------------------------------------------------------


def _labels(masks: Mapping[str, Array], axes: Sequence[Axis]) -> dict[str, tuple[float, ...]]:
    labels = {}
    for name, mask in masks.items():
        cell = innermost(mask, periodic=[axis.periodic for axis in reversed(axes)])
        if cell is not None:
            labels[name] = tuple(float(axis.fine[index]) for axis, index in zip(axes, reversed(cell), strict=True))
    return labels


def _shooting_points(
    feed: Feed, snapshot: RunSnapshot, axes: Sequence[Axis], n_shots: int, version: int, state: int
) -> ShootingPoints:
    """Return the newest shooting points."""
    frames, shots = snapshot.frames, snapshot.shots
    first = max(0, n_shots - MOST_SHOTS)
    rows = np.flatnonzero((frames["offset"] == 0) & (frames["shot"] >= first) & (frames["shot"] < n_shots))
    rows = rows[shots["reason"][frames["shot"][rows]] != Reason.FAILURE]
    shot = frames["shot"][rows]
    place = frames["cvs"][rows][:, [axis.column for axis in axes]]
    ends = shots["ends"][shot]
    given = snapshot.config.table is not None
    if given:  # to several states, or all to one of them
        reached = snapshot.n_ends[shot] > 0
        last = reached.shape[1] - 1 - reached[:, ::-1].argmax(axis=1)
        ends = np.stack([reached.argmax(axis=1), last], axis=1).astype(ends.dtype)
    if len(snapshot.state_names) == 2:
        foretold = snapshot.foretold_q[shot]
        p = expit(foretold.astype(float))
    else:
        foretold = snapshot.foretold_p_transition[shot]
        p = predicted(feed.model(version), frames["features"][rows], state)[0].astype(float)
    return ShootingPoints(shot=shot, ends=ends, foretold=foretold, p=p, place=place, given=given)


def _path_density(snapshot: RunSnapshot, axes: Sequence[Axis], n_shots: int) -> Array:
    """Return the density of the frames of the accepted paths, a path counting as often as its chain stood on it."""
    shots, frames = snapshot.shots, snapshot.frames
    multiplicity = path_multiplicities(shots["chain"][:n_shots], shots["accepted"][:n_shots])
    multiplicity[~are_transitions(shots["ends"][:n_shots])] = 0
    weights = multiplicity[frames["shot"][: int(np.searchsorted(frames["shot"], n_shots))]]
    on_paths = np.flatnonzero(weights)[-MOST_FRAMES:]
    return smoothed_density(
        frames["cvs"][on_paths][:, [axis.column for axis in axes]],
        weights[on_paths],
        [axis.edges for axis in axes],
        periodic=[axis.periodic for axis in axes],
        width=_DENSITY_WIDTH * len(axes[0].centres),
    )


# -- what is to be known -----------------------------------------------------------------------------------------------


def _origin(feed: Feed, snapshot: RunSnapshot, axes: Sequence[Axis], numbers: Numbers, *, on_grid: bool) -> str:
    """Return in a sentence what the values of a map are."""
    if on_grid:
        rest = "; the other coordinates lie in the middle of the starts" if sees_others(feed, axes) else ""
        return f"The model on a grid of positions{rest}."
    what = "sampled frames" if snapshot.config.table is None else "configurations of the table"
    place = "cell" if len(axes) == 2 else "bin"
    names = " and ".join(axis.name for axis in axes)
    newest = "the newest " if numbers.n_frames < numbers.n_all_frames else ""
    of_all = f" of {numbers.n_all_frames:,}" if newest else ""
    return (
        f"Conditional mean over {newest}{numbers.n_frames:,}{of_all} {what}: each {place} shows the mean "
        f"of the model's predictions for those in it, which {names} alone may not determine."
    )


def _about_exact(snapshot: RunSnapshot, problem: str | None, *, known: bool) -> list[str]:
    """Return what the exact committor is, or why there is none."""
    if problem is not None:
        return [f"No exact map: {problem}."]
    if not known:
        return []
    inertia = ", while this run has inertia" if snapshot.config.dynamics.integrator == "langevin" else ""
    return [f"The exact committor is that of overdamped motion{inertia}."]


def _left_out(state_names: Sequence[str], masks: Mapping[str, Array]) -> list[str]:
    """Return a sentence about states that cannot be outlined over the axes."""
    missing = [name for name in state_names if name not in masks]
    if not missing:
        return []
    names = ", ".join(missing)
    return [f"Not outlined: {names}, defined by other variables."]
