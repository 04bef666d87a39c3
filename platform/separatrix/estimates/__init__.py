"""The numbers behind the pages, computed nowhere else."""

from __future__ import annotations

from separatrix.estimates.landscapes import (
    Grid,
    exact_committor,
    landscape_committor,
    landscape_energy,
)
from separatrix.estimates.shots import (
    Calibration,
    Estimate,
    Series,
    TransitionTimes,
    calibration,
    clopper_pearson,
    expected_transitions,
    mean_with_error,
    path_multiplicities,
    perfect_yield,
    running_mean,
    statistical_inefficiency,
    transition_times,
    transition_yield,
)

__all__ = [
    "Calibration",
    "Estimate",
    "Grid",
    "Series",
    "TransitionTimes",
    "calibration",
    "clopper_pearson",
    "exact_committor",
    "expected_transitions",
    "landscape_committor",
    "landscape_energy",
    "mean_with_error",
    "path_multiplicities",
    "perfect_yield",
    "running_mean",
    "statistical_inefficiency",
    "transition_times",
    "transition_yield",
]
