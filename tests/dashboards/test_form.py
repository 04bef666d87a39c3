"""The form of a new run: a field for every value, its data the configuration, and mistakes told where they are made."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from separatrix.config import (
    AnalysisConfig,
    CatalogueSystem,
    CommittorConfig,
    DescriptorsConfig,
    PotentialSystem,
    RunConfig,
    SamplingConfig,
    SeedingConfig,
    anchored,
)
from separatrix.errors import SeparatrixError, SystemBuildError
from separatrix.systems import CATALOGUE, resolve
from separatrix_dashboards.form import ConfigForm, check
from separatrix_dashboards.form.problems import place_of
from separatrix_dashboards.form.specs import field_specs, parse_cell, show_cell

SECTIONS = {
    "descriptors": DescriptorsConfig,
    "sampling": SamplingConfig,
    "committor": CommittorConfig,
    "seeding": SeedingConfig,
    "analysis": AnalysisConfig,
}
LANDSCAPE = {
    "system": {
        "kind": "potential",
        "expression": "10*((x^2-1)^2 + (x-y)^2) + 5*z^2",
        "start": {"A": [-1, -1, 0], "B": [[1, 1, 0], [0, 0, 0.5], [0.1, 0, 0]]},
        "particles": 2,
        "extra": [{"expression": "0.5*(x^2+y^2+z^2)", "particles": 1, "mass": 2.5}],
        "integrator": "brownian",
    },
    "collective_variables": {"x": "x(0)", "y": "y(0)"},
    "states": {"A": "x < -0.5", "B": "x > 0.5"},
}
CHOICES = [(kind, solvent) for kind, entry in CATALOGUE.items() for solvent in (entry.solvents or (None,))]


def data_of(kind, solvent=None):
    """Return the shortest configuration of a system of the catalogue."""
    return {"system": {"kind": kind} | ({} if solvent is None else {"solvent": solvent})}


def form_of(kind="alanine-dipeptide", **tables):
    """Return a form, its values changed as by somebody who types."""
    return ConfigForm({"system": {"kind": kind}, **tables})


def typed(form, key, text):
    """Type into a field."""
    form.fields[tuple(key.split("."))].widget.value = text


def cells(form, key):
    """Return the text widgets of a table, row by row."""
    return form.fields[tuple(key.split("."))]._rows


@pytest.mark.parametrize(
    ("data", "system"), [(data_of("mueller-brown"), CatalogueSystem), (LANDSCAPE, PotentialSystem)]
)
def test_every_value_of_the_configuration_has_a_widget_with_its_words(data, system):
    form = ConfigForm(data)
    expected = {("system", name): field for name, field in system.model_fields.items()}
    for section, model in SECTIONS.items():
        expected |= {(section, name): field for name, field in model.model_fields.items()}
    for name in set(RunConfig.model_fields) - set(SECTIONS) - {"system"}:
        expected[name,] = RunConfig.model_fields[name]
    assert set(form.fields) == set(expected)
    for key, field in expected.items():
        spec = form.fields[key].spec
        assert form.fields[key].widget is not None
        assert spec.label
        assert spec.help
        assert spec.unit == (field.json_schema_extra or {}).get("unit", "")


def test_units_limits_and_choices_come_from_the_schema():
    specs = {spec.key: spec for spec in field_specs(RunConfig.model_json_schema(), "alanine-dipeptide")}
    assert specs["system", "temperature"].unit == "K"
    assert specs["committor", "members"].limits == "1 to 64"
    assert specs["sampling", "selector"].options == ("lorentzian", "gaussian", "uniform")
    assert form_of().fields["system", "solvent"].spec.options == ("vacuum", "obc2", "tip3p")
    widget = form_of().fields["system", "temperature"].widget
    assert '"K"' in str(widget.sx)


@pytest.mark.parametrize(("kind", "solvent"), CHOICES)
def test_a_form_gives_back_the_configuration_it_was_made_from(kind, solvent):
    config = resolve(data_of(kind, solvent))
    for data in (data_of(kind, solvent), config.model_dump(mode="json", exclude_none=True)):
        form = ConfigForm(data)
        assert form.problems == {}
        assert resolve(form.data) == config
        assert resolve(form.complete) == config
        assert resolve(tomllib.loads(form.toml)) == config
        default = solvent in (None, *CATALOGUE[kind].solvents[:1])
        assert form.data == data_of(kind, None if default else solvent)


def test_a_landscape_of_ones_own_goes_through_the_form():
    form = ConfigForm(LANDSCAPE)
    assert form.problems == {}
    assert resolve(form.data) == resolve(LANDSCAPE)
    assert resolve(tomllib.loads(form.toml)) == resolve(LANDSCAPE)
    assert "A = [-1.0, -1.0, 0.0]" in form.toml
    assert check(form.data).system.particles == 2


def test_a_molecule_from_files_goes_through_the_form():
    folder = Path(__file__).parents[1] / "data" / "helix"
    data = anchored(tomllib.loads((folder / "helix.toml").read_text()), folder)
    form = ConfigForm(data)
    assert form.problems == {}
    assert "sha256" not in form.toml
    assert resolve(form.data) == resolve(data)
    assert resolve(tomllib.loads(form.toml)) == resolve(data)
    assert form.fields["system", "nonbonded"].spec.options == ("no-cutoff", "cutoff", "pme")
    assert form.fields["system", "cutoff"].spec.unit == "nm"
    assert check(form.data).system.sha256
    with pytest.raises(SystemBuildError) as error:
        check({**data, "system": {**data["system"], "starts": ["nowhere.xtc"]}})
    form.show(error.value)
    assert "nowhere.xtc" in form.problems["system", "starts"]


def test_the_data_hold_what_was_changed_and_nothing_else():
    form = form_of("hummer-szabo")
    typed(form, "sampling.chains", "8")
    typed(form, "system.temperature", "150")
    assert form.data == {"system": {"kind": "hummer-szabo", "temperature": 150}, "sampling": {"chains": 8}}
    typed(form, "sampling.chains", "2")
    assert form.data == {"system": {"kind": "hummer-szabo", "temperature": 150}}


def test_every_kind_of_value_can_be_changed():
    form = form_of("hummer-szabo")
    typed(form, "seeding.temperature", "900.5")
    typed(form, "descriptors.columns", "x\n  y \n\nx(0)*0")
    typed(form, "sampling.selector", "uniform")
    typed(form, "committor.frames", False)
    form.fields["sampling", "density_correction"]._check.value = False
    cells(form, "states")[1][1].value = "x > 0.9"
    form.fields["collective_variables",]._add_row(["r", "distance(0, 1)"])
    assert form.data == {
        "system": {"kind": "hummer-szabo"},
        "collective_variables": {"x": "x(0)", "y": "y(0)", "r": "distance(0, 1)"},
        "states": {"A": "(x + 1)^2 + (y + 1)^2 < 0.0625", "B": "x > 0.9"},
        "descriptors": {"columns": ["x", "y", "x(0)*0"]},
        "sampling": {"selector": "uniform", "density_correction": False},
        "committor": {"frames": False},
        "seeding": {"temperature": 900.5},
    }


def test_the_order_of_states_is_part_of_the_configuration():
    form = form_of("hummer-szabo")
    (a, condition_a), (b, condition_b) = cells(form, "states")
    a.value, b.value = "B", "A"
    condition_a.value, condition_b.value = condition_b.value, condition_a.value
    assert list(form.data["states"]) == ["B", "A"]


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("sampling.chains", "0", "Should be greater than or equal to 1 (1 to 10,000)"),
        ("sampling.chains", "2.5", "Should be a valid integer"),
        ("sampling.chains", "two", "Should be a valid integer"),
        ("sampling.steps", "", "Needs a value"),
        ("system.temperature", "-3", "Should be greater than 0"),
        ("system.temperature", "0,5", "Should be a valid number"),
        ("system.temperature", "nan", "Should be a valid number"),
        ("committor.held_out", "1", "Should be less than 1"),
        ("committor.members", "65", "Should be less than or equal to 64 (1 to 64)"),
        ("sampling.seed", "9223372036854775808", "Should be less than 9223372036854775808"),
    ],
)
def test_a_bad_value_is_told_under_its_field_while_it_is_typed(key, text, message):
    form = form_of()
    field = form.fields[tuple(key.split("."))]
    good = field.widget.value
    typed(form, key, text)
    assert field.widget.error_state
    assert message in field.widget.helper_text
    assert form.problems == {tuple(key.split(".")): field.widget.helper_text}
    typed(form, key, good)
    assert not field.widget.error_state
    assert field.widget.helper_text == field.spec.help
    assert form.problems == {}


def test_whole_numbers_may_be_typed_as_others_write_them():
    form = form_of()
    typed(form, "sampling.steps", "1e4")
    typed(form, "sampling.scale", "2")
    assert form.problems == {}
    assert form.data["sampling"] == {"steps": 10000, "scale": 2}


def test_rows_without_a_name_with_the_same_name_and_points_that_are_none_are_told_in_their_row():
    form = ConfigForm(LANDSCAPE)
    (name, condition), (other, _) = cells(form, "states")
    other.value = "A"
    assert "two rows called A" in cells(form, "states")[1][1].helper_text
    other.value = ""
    assert cells(form, "states")[1][1].helper_text == "Give it a name"
    other.value, condition.value = "B", ""
    assert cells(form, "states")[0][1].helper_text == "Needs a value"
    assert set(form.problems) == {("states",)}
    condition.value = "x < -0.5"
    cells(form, "system.start")[0][1].value = "1, 2"
    assert "Expected x, y, z in nm" in cells(form, "system.start")[0][1].helper_text
    cells(form, "system.start")[0][1].value = "-1, -1, 0"
    cells(form, "system.extra")[0][1].value = "0"
    assert "greater than or equal to 1" in cells(form, "system.extra")[0][1].helper_text
    assert not cells(form, "system.extra")[0][0].error_state
    assert name.value == "A"


def test_another_solvent_brings_its_states_and_leaves_what_was_changed():
    form = form_of()
    typed(form, "system.temperature", "310")
    typed(form, "system.solvent", "obc2")
    assert list(form.fields["states",].value) == ["C7eq", "alpha_R"]
    assert form.data == {"system": {"kind": "alanine-dipeptide", "solvent": "obc2", "temperature": 310}}
    assert resolve(form.data).sampling.max_frames == 10_000
    cells(form, "states")[1][1].value = "between(phi, 40, 100)"
    typed(form, "system.solvent", "vacuum")
    assert list(form.data["states"]) == ["C7eq", "alpha_R"]  # changed by the user: kept, and told by the check


def test_what_follows_from_the_rest_goes_on_following_it():
    form = form_of("hummer-szabo")
    typed(form, "system.integrator", "langevin")
    assert resolve(form.data).committor.frames is False
    landscape = ConfigForm({**LANDSCAPE, "descriptors": {}})
    assert landscape.fields["descriptors", "columns"].value == []
    landscape.fields["collective_variables",]._add_row(["z", "z(0)"])
    assert resolve(landscape.data).descriptors.columns == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("table", "row", "text", "key", "message"),
    [
        ("states", 1, "x + yy > 1", "states", "unknown name 'yy'"),
        ("states", 1, "(x + 1)^2 + (y + 1)^2 < 0.9", "states", "overlap"),
        ("states", 1, "x + 1", "states", "is a number"),
        ("collective_variables", 0, "x(7)", "collective_variables", "there is no atom 7"),
        ("collective_variables", 0, "dihedrall(0,1)", "collective_variables", "dihedrall"),
    ],
)
def test_mistakes_of_the_whole_are_shown_at_the_field_they_name(table, row, text, key, message):
    form = form_of("hummer-szabo")
    cells(form, table)[row][1].value = text
    assert form.problems == {}  # each value alone can be meant
    with pytest.raises(SeparatrixError) as caught:
        check(form.data)
    form.show(caught.value)
    assert message in form.problems[key,]
    assert not form._alert.visible
    cells(form, table)[row][1].value = "x > 0.9"
    assert form.problems == {}


def test_the_row_of_a_wrong_state_is_marked_and_its_section_opened():
    form = form_of("hummer-szabo")
    cells(form, "states")[1][1].value = "x + yy > 1"
    with pytest.raises(SeparatrixError) as caught:
        check(form.data)
    form.show(caught.value)
    assert [row[1].error_state for row in cells(form, "states")] == [False, True]
    assert form._accordion.active == [1]


def test_a_start_outside_its_state_and_an_expression_openmm_cannot_read_find_their_fields():
    form = ConfigForm({**LANDSCAPE, "system": {**LANDSCAPE["system"], "start": {"A": [1, 0, 0], "B": [1, 1, 0]}}})
    with pytest.raises(SeparatrixError) as caught:
        check(form.data)
    form.show(caught.value)
    assert "inside state 'A'" in form.problems["system", "start"]
    form = ConfigForm({**LANDSCAPE, "system": {**LANDSCAPE["system"], "expression": "x^^2"}})
    with pytest.raises(SeparatrixError) as caught:
        check(form.data)
    form.show(caught.value)
    assert "OpenMM cannot use" in form.problems["system", "expression"]


def test_an_error_that_names_no_field_is_shown_at_the_top():
    form = form_of()
    form.show(SeparatrixError("the disk is *full* <b>"))
    assert form._alert.visible
    assert form._alert.object == r"the disk is \*full\* \<b\>"
    typed(form, "sampling.chains", "3")
    assert not form._alert.visible


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("sampling.chains: input should be", (("sampling", "chains"), ())),
        ("two-gaussians: system.start.A: expected 1 point", (("system", "start"), ("A",))),
        ("collective variable 'phi': unknown", (("collective_variables",), ("phi",))),
        ("states: expected 2 to 127 states, got 1 (A)", (("states",), ())),
        ("descriptors: expected columns", (("descriptors", "columns"), ())),
        ("seeding.trajectory: expected a trajectory at x, found no file there", (("seeding", "trajectory"), ())),
        ("no space left on device", None),
    ],
)
def test_errors_are_placed_by_the_key_they_name(message, place):
    assert place_of(message, tuple(ConfigForm(LANDSCAPE).fields)) == place


def test_a_mistake_in_a_folded_part_unfolds_it():
    form = form_of()
    typed(form, "sampling.stride", "0")
    typed(form, "committor.members", "0")
    assert not form._mores["Sampling"].visible
    form.show_problems()
    assert form._mores["Sampling"].visible
    assert not form._mores["System"].visible
    assert form._accordion.active == [3]


def test_whoever_listens_is_told_of_changes_only():
    form, heard = form_of(), []
    form.listen(lambda: heard.append(form.data))
    typed(form, "sampling.chains", "6")
    assert heard == [{"system": {"kind": "alanine-dipeptide"}, "sampling": {"chains": 6}}]


@given(st.integers(-(2**70), 2**70))
def test_whole_numbers_survive_being_shown(number):
    assert parse_cell("integer", show_cell("integer", number)) == number


@given(st.floats(-1e30, 1e30))
def test_untouched_numbers_keep_every_digit_and_others_eight(number):
    assert parse_cell("number", show_cell("number", number)) == pytest.approx(number, rel=1e-7)


@given(st.text())
def test_no_text_breaks_the_reading_of_cells(text):
    for kind in ("integer", "number", "points", "text", "expression"):
        parse_cell(kind, text)


@given(st.text(max_size=30))
def test_whatever_is_typed_gives_data_that_can_be_previewed(text):
    FORM.fields["sampling", "chains"].widget.value = text
    FORM.fields["system", "temperature"].widget.value = text
    FORM.fields["seeding", "trajectory"].widget.value = text
    assert tomllib.loads(FORM.toml) == FORM.data


FORM = form_of("hummer-szabo")


def test_symmetry_functions_are_rows_of_atoms_and_distances():
    table = {"centers": "name CA", "neighbors": [4, 5], "r_s": [0.25, 0.4], "r_cutoff": 0.6}
    data = {**data_of("alanine-dipeptide"), "descriptors": {"symmetry_functions": [table]}}
    form = ConfigForm(data)
    assert form.problems == {}
    assert form.data["descriptors"] == data["descriptors"]
    assert resolve(tomllib.loads(form.toml)) == resolve(data)
    centers, neighbors, shells, cutoff = cells(form, "descriptors.symmetry_functions")[0]
    assert [cell.value for cell in (centers, neighbors, shells, cutoff)] == ["name CA", "4, 5", "0.25, 0.4", "0.6"]
    centers.value, shells.value = "", "0.25; 0.4"
    assert centers.helper_text == "Needs a value"
    assert "valid array" in shells.helper_text
    assert set(form.problems) == {("descriptors", "symmetry_functions")}
