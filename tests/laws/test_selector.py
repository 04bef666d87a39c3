"""Laws of the selectors and of the density correction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from separatrix.config import SamplingConfig
from separatrix.errors import ConfigError
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
    correction = density_correction(np.linspace(-5, 5, 11), Density())
    np.testing.assert_allclose(correction, correction[0])
