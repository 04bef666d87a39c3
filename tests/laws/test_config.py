"""Configurations: TOML in and out without loss, every mistake one clear line."""

from __future__ import annotations

import tomllib
from datetime import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from separatrix.config import RunConfig, SamplingConfig, apply_overrides, read_toml
from separatrix.errors import ConfigError

LANDSCAPE: dict[str, Any] = {
    "system": {
        "kind": "potential",
        "expression": "10*((x^2-1)^2 + (x-y)^2) + 5*z^2",
        "start": {"A": [-1, -1, 0], "B": [1, 1, 0]},
    },
    "collective_variables": {"x": "x(0)", "y": "y(0)"},
    "states": {"A": "x < -1", "B": "x > 1"},
    "descriptors": {"columns": ["x", "y"]},
    "sampling": {"chains": 3},
}


def with_value(section: str, key: str, value: Any) -> dict[str, Any]:
    """Return the landscape with one value changed."""
    return {**LANDSCAPE, section: {**LANDSCAPE.get(section, {}), key: value}}


def test_toml_round_trip() -> None:
    config = RunConfig.from_data(LANDSCAPE)
    again = RunConfig.from_data(tomllib.loads(config.to_toml()))
    assert again == config
    assert again.content_hash == config.content_hash


@given(
    chains=st.integers(1, 100),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**63 - 1),
    selector=st.sampled_from(["lorentzian", "gaussian", "uniform"]),
)
def test_any_sampling_survives_toml(chains: int, scale: float, seed: int, selector: str) -> None:
    sampling = {"chains": chains, "scale": scale, "seed": seed, "selector": selector}
    config = RunConfig.from_data({**LANDSCAPE, "sampling": sampling})
    assert RunConfig.from_data(tomllib.loads(config.to_toml())) == config


def test_hash_changes_with_content_and_with_the_order_of_states() -> None:
    config = RunConfig.from_data(LANDSCAPE)
    other = RunConfig.from_data(with_value("sampling", "seed", 2))
    swapped = RunConfig.from_data({**LANDSCAPE, "states": {"B": "x > 1", "A": "x < -1"}})
    assert len({config.content_hash, other.content_hash, swapped.content_hash}) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_value("sampling", "chians", 2), r"sampling\.chians: unknown key; did you mean 'chains'\?"),
        (with_value("system", "expresion", "x"), r"system\.expresion: unknown key; did you mean 'expression'\?"),
        (with_value("sampling", "chains", "two"), r"sampling\.chains: input should be a valid integer.*got 'two'"),
        (with_value("sampling", "chains", 2.5), r"sampling\.chains: .*integer.*got 2\.5"),
        (with_value("sampling", "chains", True), r"sampling\.chains: .*integer.*got True"),
        (with_value("sampling", "chains", 0), r"sampling\.chains: .*greater than or equal to 1, got 0"),
        (with_value("sampling", "chains", 10_001), r"sampling\.chains: .*less than or equal to 10000, got 10001"),
        (with_value("system", "temperature", -3.0), r"system\.temperature: .*greater than 0, got -3"),
        (with_value("sampling", "selector", "magic"), r"sampling\.selector: .*'lorentzian'.*got 'magic'"),
        ({"states": {}}, r"system: missing"),
        (with_value("collective_variables", "str", 5), r"collective_variables\.str: .*valid string, got 5"),
        (with_value("descriptors", "symmetry_functions", [{"centers": 5}]), r"functions\.0\.centers: .*string, got 5"),
        (with_value("system", "start", {"A": time(9, 30)}), r"system\.start\.A.*: .*valid array, got 09:30:00"),
        ({**LANDSCAPE, "extra_section": {}}, r"extra_section: unknown key; known here: system, "),
    ],
)
def test_every_mistake_is_one_clear_line(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        RunConfig.from_data(data, where="file.toml")
    assert str(caught.value).startswith("file.toml: ")
    assert "\n" not in str(caught.value)


def test_a_configuration_is_frozen() -> None:
    config = RunConfig.from_data(LANDSCAPE)
    with pytest.raises(ValueError, match="frozen"):
        config.sampling.chains = 5  # type: ignore[misc]


def fields_of(model: type[BaseModel]) -> list[tuple[str, Any]]:
    """Return every field of a model."""
    return [(f"{model.__name__}.{name}", field) for name, field in model.model_fields.items()]


def test_every_field_has_a_description_and_values_have_a_unit() -> None:
    sections = [
        RunConfig,
        *(field.annotation for _, field in fields_of(RunConfig) if hasattr(field.annotation, "model_fields")),
    ]
    for section in sections:
        for name, field in fields_of(section):
            assert field.description, name
            if section is SamplingConfig:
                assert "unit" in field.json_schema_extra, name


def test_overrides_are_toml_values_and_do_not_touch_the_original() -> None:
    changed = apply_overrides(
        LANDSCAPE, ["sampling.chains=7", "system.integrator=brownian", "descriptors.columns=['x']"]
    )
    assert changed["sampling"]["chains"] == 7
    assert changed["system"]["integrator"] == "brownian"
    assert changed["descriptors"]["columns"] == ["x"]
    assert LANDSCAPE["sampling"] == {"chains": 3}
    assert RunConfig.from_data(changed).sampling.chains == 7


@pytest.mark.parametrize("override", ["sampling.chains", "=3", "sampling..chains=3", "sampling.chains.more=3"])
def test_malformed_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides(LANDSCAPE, [override])


def test_files_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text("[system\nkind=")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(broken)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(binary)
