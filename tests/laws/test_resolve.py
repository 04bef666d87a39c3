"""Laws of resolution: the user's values over the defaults of the system, complete and stable."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from separatrix.config import SamplingConfig
from separatrix.errors import ConfigError
from separatrix.systems import CATALOGUE, KINDS, resolve

positive = st.floats(1e-3, 1e3)
names = st.text("abcxyz", min_size=1, max_size=4)

dynamics = st.fixed_dictionaries(
    {},
    optional={
        "temperature": positive,
        "friction": positive,
        "timestep": positive,
        "integrator": st.sampled_from(["langevin", "brownian"]),
    },
)
tables = st.fixed_dictionaries(
    {},
    optional={
        "collective_variables": st.dictionaries(names, st.sampled_from(["x(0)", "y(0)", "distance(0, 1)"]), max_size=3),
        "states": st.dictionaries(names, st.sampled_from(["x < 0", "x > 1"]), max_size=3),
        "descriptors": st.fixed_dictionaries(
            {},
            optional={
                "columns": st.lists(names, max_size=3),
                "internal_coordinates": st.sampled_from(["none", "rotatable", "all"]),
            },
        ),
        "sampling": st.fixed_dictionaries(
            {},
            optional={
                "stride": st.integers(1, 100),
                "chains": st.integers(1, 9),
                "scale": positive,
                "selector": st.sampled_from(["lorentzian", "gaussian", "uniform"]),
                "seed": st.integers(0, 2**63 - 1),
            },
        ),
        "committor": st.fixed_dictionaries({}, optional={"members": st.integers(1, 9), "frames": st.booleans()}),
        "seeding": st.fixed_dictionaries({}, optional={"trajectory": names, "temperature": positive}),
    },
)
systems = st.one_of(
    st.builds(lambda kind, extra: {"kind": kind, **extra}, st.sampled_from(sorted(CATALOGUE)), dynamics),
    st.builds(
        lambda solvent, extra: {"kind": "alanine-dipeptide", "solvent": solvent, **extra},
        st.sampled_from(["vacuum", "obc2"]),
        dynamics,
    ),
    st.builds(
        lambda extra, start: {"kind": "potential", "expression": "x^2", "start": start, **extra},
        dynamics,
        st.dictionaries(names, st.just([0.0, 1.0, 2.0]), max_size=2),
    ),
)
configurations = st.builds(lambda system, rest: {"system": system, **rest}, systems, tables)


@given(data=configurations)
def test_the_resolved_configuration_survives_toml_and_resolves_to_itself(data):
    config = resolve(data)
    stored = tomllib.loads(config.to_toml())
    again = resolve(stored)
    assert again == config
    assert again.content_hash == config.content_hash
    assert list(again.states) == list(config.states)
    assert again.to_toml() == config.to_toml()


@given(data=configurations)
def test_what_the_user_gives_is_kept_and_the_rest_is_the_systems(data):
    resolved = resolve(data).model_dump(mode="json")
    plain = resolve({"system": data["system"]}).model_dump(mode="json")
    for table in ("system", "sampling", "committor", "seeding"):
        given_table = data.get(table, {})
        for key, value in resolved[table].items():
            assert value == given_table.get(key, plain[table][key])


@given(data=configurations)
def test_own_variables_and_states_replace_those_of_the_system(data):
    config = resolve(data)
    defaults = resolve({"system": data["system"]})
    for table in ("collective_variables", "states"):
        assert getattr(config, table) == data.get(table, getattr(defaults, table))


@given(data=configurations)
def test_the_network_sees_something_whenever_there_is_a_collective_variable(data):
    config = resolve(data)
    seen = config.descriptors
    assert (
        seen.columns
        or seen.symmetry_functions
        or seen.internal_coordinates != "none"
        or not config.collective_variables
    )


@given(data=configurations)
def test_arguments_are_not_changed(data):
    before = repr(data)
    resolve(data)
    assert repr(data) == before


@pytest.mark.parametrize("kind", CATALOGUE)
def test_a_name_is_enough(kind):
    config = resolve({"system": {"kind": kind}})
    assert len(config.states) == (3 if kind == "three-basins" else 2)
    assert config.collective_variables
    assert config.sampling.max_frames >= 2000
    assert config.sampling.steps == SamplingConfig().steps


def test_the_solvent_brings_states_of_its_own():
    vacuum, water = (
        resolve({"system": {"kind": "alanine-dipeptide", "solvent": solvent}}) for solvent in ("vacuum", "obc2")
    )
    assert resolve({"system": {"kind": "alanine-dipeptide"}}) == vacuum
    assert list(vacuum.states) == ["C7eq", "C7ax"]
    assert list(water.states) == ["C7eq", "alpha_R"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, ["system", "missing"]),
        ({"system": 3}, ["system", "object"]),
        ({"system": {}}, ["system.kind", "missing"]),
        ({"system": {"kind": 3}}, ["system.kind", "string"]),
        ({"system": {"kind": "hummer"}}, ["system.kind", "did you mean 'hummer-szabo'?", *KINDS]),
        ({"system": {"kind": "potential"}}, ["system.expression", "missing"]),
        ({"system": {"kind": "two-gaussians", "expression": "x"}}, ["system.expression", "unknown key"]),
        ({"system": {"kind": "mueller-brown", "solvent": "obc2"}}, ["system.solvent", "no solvent", "remove"]),
        ({"system": {"kind": "potential", "solvent": "obc2"}}, ["system.solvent", "no solvent", "remove"]),
        ({"system": {"kind": "alanine-dipeptide", "solvent": "obc1"}}, ["system.solvent", "obc2", "vacuum"]),
        ({"system": {"kind": "alanine-dipeptide", "solvent": ["obc2"]}}, ["system.solvent", "vacuum"]),
        ({"system": {"kind": "hummer-szabo"}, "sampling": 3}, ["sampling", "object"]),
        ({"system": {"kind": "hummer-szabo"}, "states": "x"}, ["states", "object"]),
        ({"system": {"kind": "hummer-szabo"}, "sampling": {"strid": 3}}, ["sampling.strid", "'stride'"]),
        ({"system": {"kind": "hummer-szabo"}, "samplings": {}}, ["samplings", "'sampling'"]),
    ],
)
def test_a_wrong_configuration_says_where_in_one_line(data, words):
    with pytest.raises(ConfigError) as raised:
        resolve(data, where="run.toml")
    message = str(raised.value)
    assert message.startswith("run.toml: ")
    assert "\n" not in message
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("kind", "frames"), [("hummer-szabo", True), ("two-gaussians", False), ("alanine-dipeptide", False)]
)
def test_frames_train_the_committor_where_the_dynamics_has_no_inertia(kind: str, frames: bool) -> None:
    assert resolve({"system": {"kind": kind}}).committor.frames is frames
    assert resolve({"system": {"kind": kind}, "committor": {"frames": not frames}}).committor.frames is not frames
