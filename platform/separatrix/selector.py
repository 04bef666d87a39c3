"""Selectors: how likely a frame becomes a shooting point, from the logit q of its committor. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from separatrix.errors import ConfigError
from separatrix.records import Density, FloatArray

Selector: TypeAlias = Callable[[FloatArray, float], FloatArray]
"""Takes q (n_frames,) and a scale in logits; returns positive weights (n_frames,), not normalised."""


def lorentzian(q: FloatArray, scale: float) -> FloatArray:
    """Return gamma / (gamma^2 + q^2): long tails keep every frame reachable (Jung et al. 2023, eq. 3)."""
    return np.asarray(scale / (scale**2 + np.square(q)))


def gaussian(q: FloatArray, scale: float) -> FloatArray:
    """Return exp(-q^2 / (2 scale^2)), kept above the smallest double so that every frame stays reachable."""
    return np.asarray(np.maximum(np.exp(-0.5 * np.square(np.asarray(q) / scale)), np.finfo(float).tiny))


def uniform(q: FloatArray, _scale: float) -> FloatArray:
    """Return ones: standard transition path sampling."""
    return np.ones(len(q))


SELECTORS: dict[str, Selector] = {"lorentzian": lorentzian, "gaussian": gaussian, "uniform": uniform}
"""Adding a selector is one function, one line here and the name in ``SamplingConfig.selector``."""


def selector_named(name: str) -> Selector:
    """Return a selector of the registry.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    try:
        return SELECTORS[name]
    except KeyError:
        raise ConfigError(f"sampling.selector: expected one of {', '.join(SELECTORS)}, got {name!r}") from None


def density_of(q: FloatArray, multiplicity: FloatArray, n_bins: int = 10) -> Density:
    """Return the histogram of p_B = 1/(1+exp(-q)) over frames, each counted ``multiplicity`` times."""
    p_b = 1.0 / (1.0 + np.exp(-np.clip(q, -500, 500)))
    counts, _ = np.histogram(p_b, bins=n_bins, range=(0.0, 1.0), weights=multiplicity)
    return Density(counts=tuple(round(count) for count in counts))


def density_correction(q: FloatArray, density: Density) -> FloatArray:
    """Return 1/rho(p_B) up to a factor, with add-one smoothing (METHOD: it evens out the frames along p_B)."""
    counts = np.asarray(density.counts, dtype=float) + 1.0
    p_b = 1.0 / (1.0 + np.exp(-np.clip(q, -500, 500)))
    bins = np.minimum((p_b * len(counts)).astype(int), len(counts) - 1)
    return np.asarray(counts.sum() / counts[bins])
