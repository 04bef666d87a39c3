"""The molecule viewer: paths in three dimensions, drawn by 3Dmol in the browser, without any other host."""

from __future__ import annotations

from separatrix_dashboards.viewer.component import MoleculeViewer

__all__ = ["MoleculeViewer"]
