"""The pages of a run in notebook cells, live while its session runs in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

import holoviews as hv
import panel as pn
from holoviews.core import Dimensioned
from IPython import get_ipython
from panel.config import panel_extension
from panel.io.notebook import load_notebook
from panel.viewable import Viewable, Viewer

from separatrix.errors import ConfigError
from separatrix.session import Session
from separatrix_dashboards.access import Role
from separatrix_dashboards.cells import LOCK, Cell, take_messages_in_order
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.pages.head import Head
from separatrix_dashboards.pages.run import tabs
from separatrix_dashboards.views.base import Watch, watch_page
from separatrix_dashboards.views.registry import VIEWS


def extension() -> None:
    """Let a notebook draw with Panel and HoloViews of its own, from this machine and not from the internet.

    It takes the place of ``panel.extension()`` and ``holoviews.extension("bokeh")``, which ask other hosts for parts of
    what they show; `dashboard` and `view` need neither.

    Examples
    --------
    >>> from separatrix_dashboards import extension
    >>> extension()
    """
    take_messages_in_order()
    if panel_extension._loaded:
        load_notebook(inline=True)
    else:
        pn.extension(inline=True)
    hv.extension("bokeh", inline=True, logo=False)
    pn.config.inline = True
    shell = get_ipython()
    if shell is not None:
        # HoloViews' own display takes style sheets from the internet; Panel's does not.
        shell.display_formatter.mimebundle_formatter.for_type(Dimensioned, _drawn)


def _drawn(element: Dimensioned) -> Any:
    with LOCK:
        return pn.pane.HoloViews(element)._repr_mimebundle_()


def dashboard(run: Session | Path | str) -> Viewer:
    """Show a run in a notebook cell: its head with the controls, and every view as a tab.

    It goes on living while the session runs in the background, and while the kernel computes something else.

    Parameters
    ----------
    run : a session, which can then be started, paused and stopped from the cell, or the folder of a run, which is only
        looked at

    Raises
    ------
    SeparatrixError
        If there is no run, or it cannot be read.

    Examples
    --------
    >>> session.start(5000)  # doctest: +SKIP
    >>> dashboard(session)  # doctest: +SKIP
    """
    feed = _feed(run)
    controls = Controls(run) if isinstance(run, Session) else None

    def make(watch: Watch) -> Viewable:
        head = Head(watch.scope(), controls, lambda: Role.OPERATOR, _hub().refresh)
        return pn.Column(head.__panel__(), tabs(watch), sizing_mode="stretch_width", margin=0)

    return Shown(feed, make)


def view(run: Session | Path | str, name: str) -> Viewer:
    """Show one view of a run in a notebook cell.

    Parameters
    ----------
    run : a session, or the folder of a run
    name : ``live``, ``committor``, ``paths``, ``mechanism``, ``validation`` or ``log``

    Raises
    ------
    ConfigError
        If there is no such view.
    SeparatrixError
        If there is no run, or it cannot be read.
    """
    if name not in VIEWS:
        raise ConfigError(f"view: expected one of {', '.join(VIEWS)}, got {name!r}")
    return Shown(_feed(run), lambda watch: VIEWS[name](watch.scope()).__panel__())


REST: Final = 3.0
"""A notebook's kernel serves one person, who watches a map being learned: a quarter of a core for each is fair."""


class Shown(Viewer):
    """A run to be shown, anew each time the cell that ends with it is executed.

    Parameters
    ----------
    feed : of the run
    make : makes what is shown, with the watch it is given
    """

    _loading_cell: ClassVar[str | None] = None

    def __init__(self, feed: Feed, make: Callable[[Watch], Viewable]) -> None:
        super().__init__()
        self._feed, self._make = feed, make

    def __panel__(self) -> Viewable:
        """Return what is shown; in a server's document it is the document that lives, not a cell."""
        if pn.state.curdoc is not None:
            return self._make(watch_page(_hub(), self._feed))
        return Cell(_hub(), self._feed, self._make)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        self._load()
        with LOCK:  # nothing changes while it is written down
            return super()._repr_mimebundle_(include, exclude)

    @classmethod
    def _load(cls) -> None:
        """Bring the code of the figures into the notebook, from here and not from the internet.

        It lies in the output of the cell that shows a run first, and is written again when that is executed again.
        """
        take_messages_in_order()
        kernel = getattr(get_ipython(), "kernel", None)
        if kernel is None:
            return
        cell = kernel.get_parent().get("metadata", {}).get("cellId")
        if not panel_extension._loaded:
            cls._loading_cell = cell
            pn.extension(inline=True)
        elif cell is not None and cell == cls._loading_cell:
            load_notebook(inline=True)
        pn.config.inline = True


class SessionFeed(Feed):
    """The run of a session of this kernel, which tells how it stands before that is on the disk.

    Parameters
    ----------
    session : made or opened in the notebook
    """

    def __init__(self, session: Session) -> None:
        self._own = session
        super().__init__(session.path)

    def _live_session(self) -> Session | None:
        return self._own if self._own.running else None


class Controls:
    """The controls of a session of this kernel, as the head of a run's page uses those of a server's sessions.

    Parameters
    ----------
    session : made or opened in the notebook
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.max_workers = session.config.sampling.chains

    def start(self, path: Path, *, steps: int | None = None, workers: int | None = None, role: Role) -> None:
        """Sample in the background."""
        del path, role
        self._session.start(steps, workers=workers)

    def pause(self, path: Path, *, role: Role) -> None:
        """Finish the shots in flight and commit."""
        del path, role
        self._session.pause()

    def resume(self, path: Path, *, role: Role) -> None:
        """Go on."""
        del path, role
        self._session.resume()

    def stop(self, path: Path, *, role: Role) -> None:
        """Commit and end; the shots in flight get a few seconds, for which nobody waits."""
        del path, role
        threading.Thread(target=self._session.stop, name="stop", daemon=True).start()


@cache
def _hub() -> Hub:
    return Hub(rest=REST)


_session_feeds: WeakValueDictionary[Session, SessionFeed] = WeakValueDictionary()
"""One for all cells that show a session, as long as there are any."""


def _feed(run: Session | Path | str) -> Feed:
    if isinstance(run, Session):
        feed: Feed | None = _session_feeds.get(run)
        if feed is None:
            feed = _session_feeds[run] = SessionFeed(run)
    elif isinstance(run, str | Path):
        feed = _hub().feed(run)
    else:
        raise ConfigError(f"expected a Session or the folder of a run, got {type(run).__name__}")
    _hub().look(feed)
    return feed
