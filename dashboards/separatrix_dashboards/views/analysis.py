"""The controls of an analysis that a server runs beside its sessions: start, progress, cancel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import panel as pn

from separatrix.errors import SeparatrixError
from separatrix_dashboards.access import Role
from separatrix_dashboards.feeds import RunSnapshot
from separatrix_dashboards.theme import CSS, html
from separatrix_dashboards.views.base import Scope, bar
from separatrix_dashboards.widgets import button
from separatrix_dashboards.words import escaped


class AnalysisControls:
    """Starts an analysis of the run and shows how it goes; nothing at all for viewers and in notebooks.

    Parameters
    ----------
    kind : of the analysis
    label : of the button
    options : returns what was chosen for it
    fields : in which that is chosen
    """

    def __init__(
        self, scope: Scope, kind: str, label: str, options: Callable[[], Mapping[str, Any]], *fields: Any
    ) -> None:
        self._scope, self._kind, self._options = scope, kind, options
        self._start = button(label, lambda event: self._begin(), primary=True, align="end")
        self._cancel = button("Cancel", lambda event: self._end(), visible=False, align="end")
        self._words = html("", align="end", margin=(0, 8, 8, 8))
        self._fields = fields

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the row of controls."""
        if self._scope.hub.pool is None or self._scope.role() is not Role.OPERATOR:
            return pn.Column(visible=False)
        self._scope.follow(self._show)
        row = pn.Row(*self._fields, self._start, self._cancel, self._words, sizing_mode="stretch_width", margin=0)
        return pn.Column(
            row, css_classes=["sx-card"], stylesheets=[CSS], sizing_mode="stretch_width", margin=(0, 0, 12, 0)
        )

    def _show(self, snapshot: RunSnapshot) -> None:
        analysis = snapshot.analyses.get(self._kind)
        running = analysis is not None and analysis.running
        self._start.param.update(visible=not running, disabled=snapshot.model_version == 0)
        self._cancel.visible = running
        if analysis is None:
            self._words.object = ""
        elif analysis.problem:
            self._words.object = f'<div class="sx-problem">{escaped(analysis.problem)}</div>'
        else:
            self._words.object = bar(analysis.share, escaped(analysis.words)) if running else ""

    def _begin(self) -> None:
        self._try(
            lambda pool: pool.analyses.start(
                self._scope.feed.path, self._kind, self._options(), role=self._scope.role()
            )
        )

    def _end(self) -> None:
        self._try(lambda pool: pool.analyses.cancel(self._scope.feed.path, self._kind, role=self._scope.role()))

    def _try(self, act: Callable[[Any], None]) -> None:
        try:
            act(self._scope.hub.pool)
        except SeparatrixError as error:
            self._words.object = f'<div class="sx-problem">{escaped(error)}</div>'
        self._scope.hub.refresh()
