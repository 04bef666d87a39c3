"""What every page of one server has in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from separatrix_dashboards.access import VISITOR, Role

if TYPE_CHECKING:
    from separatrix_dashboards.access import Users
    from separatrix_dashboards.hub import Hub
    from separatrix_dashboards.sandbox import Sandbox
    from separatrix_dashboards.sessions import SessionPool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workspace:
    """One folder of runs, served.

    Attributes
    ----------
    folder : absolute; the runs lie below it
    hub : publishes the runs to pages
    pool : the sessions of this server
    users : who may sign in; None when nobody has to
    read_only : whether everybody is a viewer
    sandbox : the sessions of visitors; None unless everybody may try one
    """

    folder: Path
    hub: Hub
    pool: SessionPool
    users: Users | None = None
    read_only: bool = False
    sandbox: Sandbox | None = None
    _stamps: WeakKeyDictionary[Any, str] = field(default_factory=WeakKeyDictionary, init=False, repr=False)

    def user(self) -> str | None:
        """Return who opened the current document; None without signing in."""
        # Imported late: whoever only makes sessions needs no pages.
        from panel import state  # noqa: PLC0415

        return None if self.users is None else state.user

    def visitor(self) -> str:
        """Return by what the sandbox knows who opened the current document; nothing for whom it does not know."""
        from panel import state  # noqa: PLC0415

        return str((state.cookies or {}).get(VISITOR, ""))

    def role(self) -> Role:
        """Return what the user of the current document may do now; ask again with every control.

        Without users everybody is an operator: such a server listens to this machine alone. With users, whoever is
        not known, or no longer, or has had another password since the document was made, may at most look at what is on
        the page already.
        """
        if self.read_only:
            return Role.VIEWER
        if self.users is None:
            return Role.OPERATOR
        from panel import state  # noqa: PLC0415

        user = self.users.find(self.user())
        if user is None or self._stamps.setdefault(state.curdoc, user.stamp) != user.stamp:
            return Role.VIEWER
        return user.role
