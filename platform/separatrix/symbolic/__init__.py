"""Symbolic regression: short formulas for the committor, fitted to the outcomes of shots."""

from __future__ import annotations

from separatrix.symbolic.formula import Formula
from separatrix.symbolic.front import Shots
from separatrix.symbolic.search import OPERATIONS, Progress, find_formulas

__all__ = ["OPERATIONS", "Formula", "Progress", "Shots", "find_formulas"]
