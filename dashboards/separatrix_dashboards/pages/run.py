"""A run's page: the head that stays in sight, and its views as tabs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import panel as pn
from panel.viewable import Viewable

from separatrix.errors import SeparatrixError
from separatrix_dashboards import widgets
from separatrix_dashboards.access import Role
from separatrix_dashboards.pages.head import Head, first_html
from separatrix_dashboards.pages.shell import shell
from separatrix_dashboards.theme import empty
from separatrix_dashboards.views.base import Watch, watch_page
from separatrix_dashboards.views.registry import VIEWS
from separatrix_dashboards.words import escaped

if TYPE_CHECKING:
    from separatrix_dashboards.workspace import Workspace


def run_page(workspace: Workspace, role: Role) -> Viewable:
    """Return the page of the run that the address names: ``run?name=NAME&tab=VIEW``."""
    name = argument("name")
    try:
        feed = workspace.hub.feed(name)
        workspace.hub.look(feed)
    except (SeparatrixError, OSError) as error:
        problem = empty(f"{escaped(workspace.hub.words(error))}<br><br><a href='./'>All runs</a>")
        return shell(workspace, role, name, problem, first=problem.object)
    watch = watch_page(workspace.hub, feed, workspace.role)
    head = Head(watch.scope(), workspace.pool, workspace.role, lambda: workspace.hub.refresh(watch))
    return shell(workspace, role, name, tabs(watch, argument("tab")), head=head, first=first_html(feed.snapshot))


def tabs(watch: Watch, first: str = "") -> pn.Tabs:
    """Return the views of a run; a view is made when it is first looked at, and computes nothing out of sight."""
    ids = list(VIEWS)
    # Where the machine is busy, a view may be some seconds away.
    places = [pn.Column(empty("drawing"), sizing_mode="stretch_width", margin=(8, 0), min_height=320) for _ in ids]
    made: set[int] = set()
    scopes = [watch.scope(active=False) for _ in ids]
    named = [(view.title, place) for view, place in zip(VIEWS.values(), places, strict=True)]
    result = widgets.tabs(*named, active=ids.index(first) if first in ids else 0, dynamic=True)

    def look(index: int) -> None:
        for other, scope in enumerate(scopes):
            if other != index:
                scope.active = False
        scopes[index].active = True
        if index not in made:
            made.add(index)
            places[index][:] = [VIEWS[ids[index]](scopes[index]).__panel__()]
        if pn.state.location is not None and pn.state.session_args:
            pn.state.location.update_query(tab=ids[index])

    result.param.watch(lambda event: look(event.new), "active")
    watch.soon(lambda: look(result.active))  # the head first
    return result


def argument(name: str) -> str:
    """Return what the address of the document says of a name; nothing when it does not."""
    values: Any = (pn.state.session_args or {}).get(name)
    return values[0].decode(errors="replace") if values else ""
