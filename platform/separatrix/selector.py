"""Selectors: how likely a frame becomes a shooting point, from the logit q of its committor. Arrays in, arrays out.

For more than two states q is the effective logit (`logits.effective_q`), a function of p(TP|x) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from separatrix.errors import ConfigError
from separatrix.logits import effective_q
from separatrix.records import Density, FloatArray, IntArray

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


def density_of(logits: FloatArray, multiplicity: FloatArray, n_bins: int = 10) -> Density:
    """Return the histogram over frames, each counted ``multiplicity`` times, of where they are between the states.

    For two states the bins are those of p_B = 1/(1+exp(-q)), equal on [0, 1]: half of them on the side of A, half on
    that of B. For more, every state has as many for the frames whose likeliest state it is, equal in
    1/(1+exp(-q)) on [1/2, 1] with the effective logit q (`logits.effective_q`); for two states they would be the same.

    Parameters
    ----------
    logits : (n,) for two states, (n, n_states) for more
    multiplicity : (n,)
    n_bins : for two states, even
    """
    if logits.ndim == 1:
        p_b = 1.0 / (1.0 + np.exp(-np.clip(logits, -500, 500)))
        counts, _ = np.histogram(p_b, bins=n_bins, range=(0.0, 1.0), weights=multiplicity)
    else:
        bins = _bins_by_state(logits, n_bins // 2)
        counts = np.bincount(bins, weights=multiplicity, minlength=n_bins // 2 * logits.shape[1])
    return Density(counts=tuple(round(count) for count in counts))


def density_correction(logits: FloatArray, density: Density) -> FloatArray:
    """Return 1/rho up to a factor, with add-one smoothing (METHOD: it evens out the frames along p_B).

    Parameters
    ----------
    logits : (n,) for two states, (n, n_states) for more
    density : of the same states; one without any frame corrects nothing
    """
    if logits.ndim == 2 and not any(density.counts):
        return np.ones(len(logits))
    counts = np.asarray(density.counts, dtype=float) + 1.0
    if logits.ndim == 1:
        p_b = 1.0 / (1.0 + np.exp(-np.clip(logits, -500, 500)))
        bins = np.minimum((p_b * len(counts)).astype(int), len(counts) - 1)
    else:
        bins = _bins_by_state(logits, len(counts) // logits.shape[1])
    return np.asarray(counts.sum() / counts[bins])


def _bins_by_state(logits: FloatArray, n_bins: int) -> IntArray:
    """Return the bin of every frame among those of all states, ``n_bins`` for each, from its border inwards."""
    p = 1.0 / (1.0 + np.exp(-np.minimum(effective_q(logits), 500)))
    place = np.minimum(((2.0 * p - 1.0) * n_bins).astype(int), n_bins - 1)
    return np.asarray(logits.argmax(axis=1) * n_bins + place)
