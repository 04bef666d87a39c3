"""The tabs of a run's page: one line for each view."""

from __future__ import annotations

from separatrix_dashboards.views.base import View
from separatrix_dashboards.views.committor import CommittorView
from separatrix_dashboards.views.live import LiveView
from separatrix_dashboards.views.log import LogView
from separatrix_dashboards.views.mechanism import MechanismView
from separatrix_dashboards.views.paths import PathsView
from separatrix_dashboards.views.validation import ValidationView

VIEWS: dict[str, type[View]] = {
    view.id: view for view in (LiveView, CommittorView, PathsView, MechanismView, ValidationView, LogView)
}
"""The tabs of a run's page, in order."""
