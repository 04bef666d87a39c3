"""Laws of the selectors and of the density correction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from separatrix.config import SamplingConfig
from separatrix.errors import ConfigError
from separatrix.logits import effective_q
from separatrix.records import Density
from separatrix.selector import SELECTORS, density_correction, density_of, selector_named

logits = hnp.arrays(float, st.integers(1, 40), elements=st.floats(-60, 60))
scales = st.floats(0.1, 10)


@pytest.mark.parametrize("name", SELECTORS)
@given(q=logits, scale=scales)
def test_weights_are_positive_finite_and_symmetric(name: str, q: np.ndarray, scale: float) -> None:
    weights = SELECTORS[name](q, scale)
    assert weights.shape == q.shape
    assert np.isfinite(weights).all()
    assert (weights > 0).all()
    np.testing.assert_allclose(weights, SELECTORS[name](-q, scale))


@pytest.mark.parametrize("name", SELECTORS)
@given(scale=scales)
def test_weights_never_grow_away_from_the_separatrix(name: str, scale: float) -> None:
    weights = SELECTORS[name](np.linspace(0, 60, 200), scale)
    assert (np.diff(weights) <= 1e-15).all()


def test_the_configuration_offers_exactly_the_registry() -> None:
    offered = SamplingConfig.model_json_schema()["properties"]["selector"]["enum"]
    assert set(offered) == set(SELECTORS)


def test_unknown_selector_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="lorentzian, gaussian, uniform, got 'cauchy'"):
        selector_named("cauchy")


def test_density_counts_every_frame_by_its_multiplicity() -> None:
    density = density_of(np.array([-50.0, 0.01, 50.0]), np.array([2.0, 3.0, 5.0]))
    assert density.counts == (2, 0, 0, 0, 0, 3, 0, 0, 0, 5)


def test_correction_evens_out_the_density() -> None:
    rng = np.random.default_rng(1)
    q = rng.normal(0, 3, 20_000)
    correction = density_correction(q, density_of(q, np.ones_like(q)))
    corrected, _ = np.histogram(1 / (1 + np.exp(-q)), bins=10, range=(0, 1), weights=correction)
    assert np.ptp(corrected) / corrected.mean() < 0.05
    raw, _ = np.histogram(1 / (1 + np.exp(-q)), bins=10, range=(0, 1))
    assert np.ptp(raw) / raw.mean() > 0.5


def test_no_density_no_correction() -> None:
    for logits in (np.linspace(-5, 5, 11), np.linspace(-5, 5, 33).reshape(11, 3)):
        correction = density_correction(logits, Density())
        np.testing.assert_allclose(correction, correction[0])


@given(q=hnp.arrays(float, st.integers(1, 60), elements=st.floats(-12, 12)), seed=st.integers(0, 99))
def test_a_third_state_out_of_reach_changes_neither_weights_nor_correction(q: np.ndarray, seed: int) -> None:
    q = q[np.abs(np.mod(10 / (1 + np.exp(-q)) + 1e-3, 1)) > 2e-3]  # not on the border of a bin
    three = np.stack([np.zeros_like(q), q, np.full_like(q, -300.0)], axis=1)
    np.testing.assert_allclose(SELECTORS["lorentzian"](effective_q(three), 1.0), SELECTORS["lorentzian"](q, 1.0))
    multiplicity = np.random.default_rng(seed).integers(1, 5, len(q)).astype(float)
    alone, beside = density_of(q, multiplicity), density_of(three, multiplicity)
    # The side of A runs towards the border, that of B from it; the third has no frame.
    assert (*beside.counts[4::-1], *beside.counts[5:10], *[0] * 5) == (*alone.counts, *beside.counts[10:])
    ratio = density_correction(three, beside) / density_correction(q, alone)
    np.testing.assert_allclose(ratio, ratio[:1].repeat(len(q)))


def test_correction_evens_out_every_state() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (30_000, 3)) + np.array([1.5, 0.0, 0.0])
    density = density_of(logits, np.ones(len(logits)))
    assert len(density.counts) == 15
    corrected = density_of(logits, 1e4 * density_correction(logits, density))
    assert np.ptp(corrected.counts) / np.mean(corrected.counts) < 0.02
    assert np.ptp(density.counts) / np.mean(density.counts) > 0.5
