"""The form that makes the configuration of a new run."""

from __future__ import annotations

from separatrix_dashboards.form.config_form import ConfigForm
from separatrix_dashboards.form.problems import check, plain_error

__all__ = ["ConfigForm", "check", "plain_error"]
