"""The committor over any two collective variables, and how it was learned."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import holoviews as hv
import numpy as np
import panel as pn
from bokeh.models import Plot
from scipy.special import expit

from separatrix.estimates import Deviation
from separatrix.records import RunState
from separatrix.rows import are_transitions
from separatrix_dashboards.charts import Chart, Drawing, Element
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Failure, Query
from separatrix_dashboards.theme import GREEN, GREY, empty, html
from separatrix_dashboards.views.base import Scope, View, card
from separatrix_dashboards.views.committor_axes import LAYERS, Choice, first_choice, layers_of
from separatrix_dashboards.views.committor_figure import (
    OVERLAYS,
    drawing_of,
    finish,
    show_overlays,
)
from separatrix_dashboards.views.committor_key import key_html
from separatrix_dashboards.views.committor_map import Numbers, committor_map, dependence
from separatrix_dashboards.widgets import button, choices, integer, one_of, select, slider
from separatrix_dashboards.words import escaped, with_error

MAP_HEIGHT: Final = 370
PLAY_SECONDS: Final = 0.7

FIRST_TRAINING: Final = 10
"""Shots after which a run trains its first model."""

_LAYER_WORDS: Final = dict(zip(("learned", "exact", "difference", "spread"), LAYERS, strict=True))
_SIDE: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """A map as it is shown: the drawing, the numbers beside it, what is said below it, and what it is made of."""

    drawing: Drawing
    numbers: Numbers
    notes: tuple[str, ...]
    holds: frozenset[str]


def map_query(choice: Choice) -> Query:
    """Return the query of a map; documents with the same choice share it."""

    def compute(feed: Feed, snapshot: RunSnapshot) -> Shown:
        found = committor_map(feed, snapshot, choice)
        parts = {
            "model": found.numbers.version > 0,
            "exact": bool(np.isfinite(found.exact).any()),
            "frames": found.numbers.version > 0 and not found.model.on_grid,
            "veil": found.model.on_grid and choice.layer != "exact",
            "energy": found.energy is not None,
            "given": found.shots.given,
            "others": bool(found.model.others),
        }
        return Shown(
            drawing=drawing_of(feed, found, choice, snapshot.state_names),
            numbers=found.numbers,
            notes=found.notes,
            holds=frozenset(name for name, there in parts.items() if there),
        )

    def depends(snapshot: RunSnapshot) -> Hashable:
        return dependence(snapshot, choice)

    def stage(snapshot: RunSnapshot) -> Hashable:
        return snapshot.model_version > 0  # the first model is waited for

    return Query(key=("committor map", choice), compute=compute, depends=depends, slow=True, stage=stage)


def draw_shooting_points(feed: Feed, snapshot: RunSnapshot) -> Element:  # noqa: ARG001 - as every draw function
    """Return histograms of the p predicted before each shot: of all shots, and of those that were transitions."""
    shots = snapshot.shots
    two = len(snapshot.state_names) == 2
    values = expit(snapshot.foretold_q.astype(float)) if two else snapshot.foretold_p_transition.astype(float)
    green = are_transitions(shots["ends"])
    if snapshot.config.table is not None:
        green = (snapshot.n_ends > 0).sum(axis=1) > 1
    known = np.isfinite(values)
    values, green = values[known], green[known]
    edges = np.linspace(0.0, 1.0, 21)
    x = hv.Dimension("shot_p", label="p_B at the shooting point" if two else "p(transition) at the shooting point")
    leaves = [
        hv.Histogram(
            (edges, np.histogram(group, edges)[0]), kdims=x, vdims=hv.Dimension("shot_count", label="shots")
        ).opts(color=colour, line_alpha=0, show_legend=False)
        for group, colour in ((values, GREY), (values[green], GREEN))
    ]
    return hv.Overlay(leaves).opts(show_legend=False, padding=0, xlim=(0, 1))


_HISTOGRAM_NOTES: Final = {
    True: "Predicted before each shot: <b>all shots</b> in grey, those that gave a transition in green.",
    False: "Predicted by networks that hold a configuration out: <b>all</b> in grey, those with shots to two states or "
    "more in green.",
}
"""By whether the run samples."""


def _from_zero(figure: Plot) -> None:
    figure.y_range.update(start=0, range_padding=0.1)


class CommittorView(View):
    """A map of p_B with the separatrix, and over it the states, the shooting points and the paths."""

    id = "committor"
    title = "Committor"

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.choice = first_choice(self.feed.snapshot)
        self.chart: Chart | None = None
        self._drawn: Hashable = None
        self._query: Query | None = None
        self._waiting = False
        self._shown: Shown | None = None
        self._timer: Any = None
        self.stage = pn.Column(empty("drawing"), sizing_mode="stretch_width", min_height=MAP_HEIGHT, margin=0)
        self.message, self.key, self.caption, self.numbers = (html("") for _ in range(4))
        self.learned_from = html("", sizing_mode=None, width=380, align="center", margin=(0, 6))
        self._make_widgets()

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page's tab."""
        self._look()  # the map takes longest
        histogram = self.scope.chart(
            "committor shooting points",
            draw_shooting_points,
            lambda snapshot: snapshot.n_shots,
            fixed=("x",),
            height=170,
            ready=_from_zero,
        )
        no_shots = html('<div class="sx-note">Drawn from the first shot on.</div>')

        def show_histogram(snapshot: RunSnapshot) -> None:
            histogram.pane.visible, no_shots.visible = snapshot.n_shots > 0, not snapshot.n_shots

        self.scope.follow(show_histogram)
        self.scope.follow(self._follow)
        versions = pn.Row(self.play, self.place, self.learned_from, sizing_mode="stretch_width")
        two = len(self.feed.snapshot.state_names) == 2
        return pn.Row(
            card(
                f"Committor to {escaped(self.feed.snapshot.state_names[1])}" if two else "Committor",
                self._controls(),
                self.message,
                self.stage,
                self.key,
                versions,
                self.caption,
            ),
            pn.Column(
                card("Model", self.numbers),
                card(
                    "Where shots begin",
                    no_shots,
                    histogram.pane,
                    note=_HISTOGRAM_NOTES[self.feed.snapshot.config.table is None],
                ),
                width=_SIDE,
                margin=(0, 0, 0, 12),
            ),
            sizing_mode="stretch_width",
        )

    # -- what is chosen --------------------------------------------------------------------------------------------

    def _make_widgets(self) -> None:
        snapshot = self.feed.snapshot
        names = list(snapshot.cv_names)
        self.x = select("horizontal", names, self.choice.x, width=96)
        self.y = select("vertical", names, self.choice.y, width=96, visible=len(names) > 1)
        states = {name: index for index, name in enumerate(snapshot.state_names)}
        self.state = select("probability of", states, 1, width=130, visible=len(states) > 2)
        self.layer = one_of("layer", self._layers(), self.choice.layer)
        over = list(OVERLAYS) if "exact" in self._layers().values() else list(OVERLAYS[:2])
        if snapshot.config.table is not None:
            over.remove("paths")
        self.overlays = choices("over the map", over, [name for name in over if name != "paths"])
        on_grid = "exact" in self._layers().values()
        self.least = integer("least frames per cell", 1, least=1, width=130, visible=not on_grid)
        self.play = button("Play", lambda event: self._toggle(), width=76, align="center")
        self.known = [0]
        self.place = slider("", show_value=False, sizing_mode="stretch_width", disabled=True, align="center")
        self.x.param.watch(lambda event: self._choose(self.y, event), "value")
        self.y.param.watch(lambda event: self._choose(self.x, event), "value")
        for widget in (self.layer, self.state, self.least):
            widget.param.watch(lambda event: self._choose(), "value")
        self.overlays.param.watch(lambda event: self._show_overlays(), "value")
        self.place.param.watch(lambda event: self._choose(), "value_throttled")

    def _controls(self) -> pn.FlexBox:
        return pn.FlexBox(
            self.x,
            self.y,
            self.state,
            _labelled("layer", self.layer),
            _labelled("over the map", self.overlays),
            self.least,
            align_items="flex-end",
            gap="0 4px",
            sizing_mode="stretch_width",
        )

    def _layers(self) -> dict[str, str]:
        there = layers_of(self.feed, self.choice)
        return {word: layer for word, layer in _LAYER_WORDS.items() if layer in there}

    def _choose(self, other: pn.widgets.Select | None = None, event: Any = None) -> None:
        """Show what the widgets say; whoever chooses the variable of the other axis swaps them."""
        if other is not None and other.value == event.new and self.choice.y is not None:
            other.value = event.old
            return
        version = self.known[self.place.value]
        self.choice = replace(
            self.choice,
            x=self.x.value,
            y=None if self.choice.y is None else self.y.value,
            layer=self.layer.value,
            state=self.state.value,
            least=max(self.least.value or 1, 1),
            version=None if version == self.known[-1] else version,
        )
        layers = self._layers()
        if layers != self.layer.options:
            self.layer.options = layers
        if self.choice.layer not in layers.values():
            self.layer.value = "learned"  # comes back here
            return
        self._look()

    # -- what is shown ---------------------------------------------------------------------------------------------

    def _look(self) -> None:
        query, old = map_query(self.choice), self._query
        if old is not None and old.key == query.key:
            return
        self._query, self._waiting = query, True
        self.scope.add(query, self._apply, replacing=old)

    def _apply(self, shown: Shown | Failure) -> None:
        if isinstance(shown, Failure):
            self._shown = self._drawn = None
            self.stage[:] = [empty(escaped(shown.message))]
        else:
            self._shown = shown
            self._draw(shown.drawing)
            self._say(shown)
        self._waiting = False

    def _draw(self, drawing: Drawing) -> None:
        choice, chart = self.choice, self.chart
        look = (choice.x, choice.y, choice.layer, choice.state)
        if chart is None or look != self._drawn:
            fixed = ("y",) if choice.y is None else ()
            chart = Chart(height=MAP_HEIGHT, fixed=fixed, ready=self._ready)
        chart.apply(drawing)
        if chart is not self.chart:
            self.chart, self._drawn = chart, look
            self.stage[:] = [chart.pane]

    def _ready(self, figure: Plot) -> None:
        finish(figure, on_map=self.choice.y is not None)
        self._set_overlays(figure)

    def _set_overlays(self, figure: Plot) -> None:
        n_states = len(self.feed.snapshot.state_names)
        show_overlays(figure, self.overlays.value, n_states=n_states, on_map=self.choice.y is not None)

    def _show_overlays(self) -> None:
        if self.chart is not None and self.chart.figure is not None:
            self._set_overlays(self.chart.figure)
        self._say_key()

    def _say(self, shown: Shown) -> None:
        snapshot = self.feed.snapshot
        self._say_key()
        self.least.visible = "frames" in shown.holds
        self.message.object = (
            "" if shown.numbers.version else f'<div class="sx-empty" style="padding:8px">{no_model(snapshot)}</div>'
        )
        self.caption.object = f'<div class="sx-note">{escaped(" ".join(shown.notes))}</div>'
        self.numbers.object = numbers_html(shown.numbers, snapshot.state_names, self.choice.state)
        self.learned_from.object = f'<div class="sx-note">{version_words(shown.numbers)}</div>'

    def _say_key(self) -> None:
        if self._shown is not None:
            names = self.feed.snapshot.state_names
            self.key.object = key_html(self.choice, names, self.overlays.value, self._shown.holds)

    # -- versions --------------------------------------------------------------------------------------------------

    def _follow(self, snapshot: RunSnapshot) -> None:
        """Let the slider reach to the newest model, and stay there when it is there."""
        known = sorted(snapshot.reports) or [0]
        if known == self.known:
            return
        self.known = known
        chosen = known[-1] if self.choice.version is None else self.choice.version
        self.place.param.update(end=max(1, len(known) - 1), value=known.index(chosen))
        self.place.disabled = self.play.disabled = len(known) < 2

    def _toggle(self) -> None:
        """Begin to play the versions, from the first one when the newest is shown, or stop."""
        if self._timer is not None:
            self._stop()
            return
        if self.place.value == len(self.known) - 1:
            self._go_to(0)
        self.play.label = "Pause"
        self._timer = pn.state.add_periodic_callback(self._advance, period=int(1000 * PLAY_SECONDS))

    def _advance(self) -> None:
        """Show the next version, once the one before is seen."""
        if self._waiting:
            return
        self._go_to(self.place.value + 1)
        if self.place.value == len(self.known) - 1:
            self._stop()

    def _go_to(self, index: int) -> None:
        self.place.value = min(index, len(self.known) - 1)
        self._choose()

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
        self.play.label = "Play"


def _labelled(text: str, widget: Any) -> pn.Column:
    """Return buttons under a word, as wide as they are."""
    word = html(f'<div class="sx-note" style="margin:0">{text}</div>', margin=(0, 6), sizing_mode=None)
    return pn.Column(word, widget, margin=0)


# -- words -------------------------------------------------------------------------------------------------------------


def no_model(snapshot: RunSnapshot) -> str:
    """Return why there is no model."""
    if snapshot.status.state in (RunState.FINISHED, RunState.STOPPED, RunState.FAILED, RunState.INTERRUPTED):
        return f"No model: this run ended after {snapshot.n_shots} shots; the first comes after about {FIRST_TRAINING}."
    if snapshot.n_shots >= FIRST_TRAINING:
        return f"No model yet: the first is being trained. {snapshot.n_shots} shots so far."
    return f"No model yet: the first comes after about {FIRST_TRAINING} shots."


def version_words(numbers: Numbers) -> str:
    """Return which model is shown, on one line."""
    if not numbers.version:
        return ""
    loss = "" if numbers.loss is None else f", held-out loss {numbers.loss:.3f}"
    return f"Model {numbers.version} of {numbers.n_versions}, trained on {numbers.n_shots:,} shots{loss}"


def numbers_html(numbers: Numbers, state_names: Sequence[str], state: int) -> str:
    """Return the numbers beside a map as a table; of more than two states, some are of the one that is shown."""
    of = "" if len(state_names) == 2 else f" of {escaped(state_names[state])}"
    rows = [("version", f"{numbers.version} of {numbers.n_versions}" if numbers.version else "none yet")]
    if numbers.version:
        rows += [
            ("trained on", f"{numbers.n_shots:,} shots"),
            ("held-out loss per shot", "-" if numbers.loss is None else f"{numbers.loss:.3f}"),
            ("loss by chance", f"{np.log(len(state_names)):.3f}"),
            (f"calibration slope{of}", with_error(numbers.slope, numbers.slope_error, 2)),
        ]
    rows.append(("frames", f"{numbers.n_all_frames:,}"))
    table = "".join(f'<tr><td>{name}</td><td class="sx-right">{value}</td></tr>' for name, value in rows)
    return f'<table class="sx-table">{table}</table>{_deviation_html(numbers.deviation, of)}'


def _deviation_html(deviation: Deviation | None, of: str) -> str:
    if deviation is None:
        return ""
    rmse = "-" if deviation.n_frames == 0 else f"{deviation.rmse:.3f}"
    return (
        f'<div class="sx-fact" style="margin-top:10px"><div class="sx-fact-name">RMSE from the exact committor</div>'
        f'<div class="sx-number">{rmse}</div><div class="sx-note">over {deviation.n_frames:,} sampled frames with '
        f"exact {f'p{of}' if of else 'p_B'} from 0.05 to 0.95</div></div>"
    )
