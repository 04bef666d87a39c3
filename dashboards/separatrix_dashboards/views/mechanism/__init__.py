"""The mechanism of a run: which inputs its committor depends on, and the formulas they make."""

from __future__ import annotations

from separatrix_dashboards.views.mechanism.view import MechanismView

__all__ = ["MechanismView"]
