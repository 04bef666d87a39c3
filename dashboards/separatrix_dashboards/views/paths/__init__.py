"""The paths of a run: where they go, how long they take, how they descend from each other, and each of them moving."""

from __future__ import annotations

from separatrix_dashboards.views.paths.view import PathsView

__all__ = ["PathsView"]
