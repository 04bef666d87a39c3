"""Runs from tables of shots: what they hold, what is done with them afterwards, and every mistake in one line."""

from __future__ import annotations

import json
import sys
import tomllib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, xlogy
from tests.command_line import run_cli

from separatrix import Session, evaluate, learn, table_run
from separatrix.config import MAX_CHAINS, RunConfig
from separatrix.errors import AnalysisError, TableError
from separatrix.mechanism import explain
from separatrix.reader import Reader
from separatrix.store import write_result
from separatrix.tables import read_table, shots_in, write_table
from separatrix.trainer import held_out_by

COUNTS = ["n_A", "n_B"]


def logit(x, y):
    return 2 * x - y**2 + 1


def shots(n, seed=1, most=5):
    """Return a table of shots of a known committor; some rows have none."""
    rng = np.random.default_rng(seed)
    x, y, noise = rng.normal(size=(3, n))
    trials = rng.integers(0, most + 1, n)
    n_b = rng.binomial(trials, expit(logit(x, y)))
    return pd.DataFrame({"x": x, "y in nm": y, "noise": noise, "n_A": trials - n_b, "n_B": n_b})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a run made from a table, and an independent table; to be looked at only."""
    folder = tmp_path_factory.mktemp("learned")
    shots(600).to_csv(folder / "shots.csv", index=False)
    shots(400, seed=2).to_csv(folder / "more.csv", index=False)
    learn(folder / "shots.csv", folder / "run", counts=COUNTS)
    return folder


# -- what a run from a table holds -------------------------------------------------------------------------------------


def test_every_row_with_shots_is_a_shot_with_its_configuration_and_counts(made):
    table = shots(600)
    table = table[table.n_A + table.n_B > 0]
    run = Reader(made / "run")
    assert [str(name) for name in run.frames["feature"].values] == ["x", "y in nm", "noise"]
    assert np.array_equal(run.frames["features"], table[["x", "y in nm", "noise"]].to_numpy(np.float32))
    assert np.array_equal(np.stack([run.shots["n_A"], run.shots["n_B"]], axis=1), table[COUNTS])
    assert set(run.shots["reason"].values.tolist()) == {"given"}
    assert run.state_names == ("A", "B")
    status = run.status()
    assert (status.state.value, status.steps, status.md_steps) == ("finished", len(table), 0)


def test_the_network_is_near_the_truth_and_not_without_the_outcomes(made, tmp_path):
    fresh = shots(4_000, seed=3)
    q = logit(fresh.x, fresh["y in nm"])
    features = fresh[["x", "y in nm", "noise"]]

    def error(run):
        return float(np.sqrt(np.mean((Reader(run).predict(features) - expit(q)) ** 2)))

    assert error(made / "run") < 0.07
    table = shots(600)
    table[COUNTS] = table[COUNTS].sample(frac=1, random_state=1).to_numpy()
    table.to_csv(tmp_path / "shuffled.csv", index=False)
    learn(tmp_path / "shuffled.csv", tmp_path / "run", counts=COUNTS)
    assert error(tmp_path / "run") > 0.25


def test_every_format_gives_the_same_table_and_a_seed_the_same_run(made, tmp_path):
    columns, first = read_table(made / "shots.csv"), shots_in(made / "shots.csv", COUNTS)
    for ending in ("csv", "npz", "parquet"):
        write_table(tmp_path / f"shots.{ending}", columns)
        found = shots_in(tmp_path / f"shots.{ending}", COUNTS)
        assert (found.columns, found.notes) == (first.columns, first.notes)
        assert np.array_equal(found.features, first.features)
        assert np.array_equal(found.counts, first.counts)
    expected = Reader(made / "run").model().to_bytes()
    for seed, same in ((1, True), (2, False)):
        run = learn(tmp_path / "shots.parquet", tmp_path / f"{seed}", counts=COUNTS, seed=seed)
        assert (run.model().to_bytes() == expected) == same


def test_rows_of_a_group_are_held_out_together(tmp_path):
    table = shots(500)
    table["chain"] = [f"chain {number}" for number in np.random.default_rng(4).integers(0, 12, len(table))]
    table.to_csv(tmp_path / "shots.csv", index=False)
    run = learn(tmp_path / "shots.csv", tmp_path / "run", counts=COUNTS, groups="chain")
    kept = table[table.n_A + table.n_B > 0]
    chain = run.shots["chain"].values
    assert len(set(zip(chain, kept.chain, strict=True))) == 12
    assert "chain" not in run.frames["feature"]
    # What was predicted of a row comes from the networks that hold its whole chain out, and no other ones.
    report, model = run.model_report(run.model_versions[-1]), run.model()
    held_out = held_out_by(chain, model.members, run.config.committor.held_out)
    logits = model.member_logits(run.frames["features"].values)
    for rows, found in ((held_out, True), (held_out_by(np.arange(len(chain)), model.members, 0.25), False)):
        share = rows / np.maximum(rows.sum(axis=0), 1)
        expected = np.where(rows.any(axis=0), (share * logits).sum(axis=0), np.nan)
        assert np.allclose(report["held_out_q"], expected, atol=1e-5, equal_nan=True) == found
    # Formulas are judged on whole chains, too.
    assert explain(run.folder, generations=2).n_shots == len(kept)


@pytest.mark.parametrize("n_groups", [2, 3, 4, 5, 6, 7, 8, 50])
def test_even_few_groups_are_held_out_by_one_network_each(tmp_path, n_groups):
    table = shots(120)
    table["walk"] = np.arange(len(table)) % n_groups
    table.to_csv(tmp_path / "shots.csv", index=False)
    found = shots_in(tmp_path / "shots.csv", COUNTS, groups="walk")
    config = table_run._config(tmp_path / "shots.csv", found, COUNTS, "walk", 1).committor
    out = held_out_by(np.arange(n_groups), config.members, config.held_out)
    assert out.any(axis=1).all()  # every network holds some out
    assert (out.sum(axis=0) == 1).all()  # every group is held out by one


def test_units_do_not_matter(made, tmp_path):
    columns = dict(read_table(made / "shots.csv"))
    columns["x"] = columns["x"] * 1e-10
    write_table(tmp_path / "metres.npz", columns)
    run = learn(tmp_path / "metres.npz", tmp_path / "run", counts=COUNTS)
    features = shots(200, seed=5)[["x", "y in nm", "noise"]].to_numpy()
    expected = Reader(made / "run").predict(features)
    assert run.predict(features * [1e-10, 1, 1]) == pytest.approx(expected, abs=1e-3)


def test_large_counts_and_single_shots_are_taken(tmp_path):
    table = shots(100, most=1)
    table.loc[0, COUNTS] = [2**31 - 1, 0]
    table.to_csv(tmp_path / "shots.csv", index=False)
    run = learn(tmp_path / "shots.csv", tmp_path / "run", counts=COUNTS)
    assert int(run.shots["n_A"].max()) == 2**31 - 1
    assert int((run.shots["n_A"] + run.shots["n_B"])[1:].max()) == 1


@settings(max_examples=20)
@given(
    values=st.lists(st.floats(-1e30, 1e30), min_size=5, max_size=20),
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1),
        min_size=2,
        max_size=4,
        unique=True,
    ),
    ending=st.sampled_from(["csv", "parquet", "npz"]),
)
def test_tables_come_back_as_they_were_written(tmp_path_factory, values, names, ending):
    file = tmp_path_factory.mktemp("written") / f"table.{ending}"
    columns = {name: np.roll(np.array(values), place) for place, name in enumerate(names)}
    if ending == "npz" and any("/" in name for name in names):
        return  # a name in a zip file is a path
    write_table(file, columns)
    found = read_table(file)
    assert list(found) == names
    for name, column in columns.items():
        assert np.allclose(found[name], column, rtol=1e-15, atol=0)


# -- after learning ----------------------------------------------------------------------------------------------------


def test_an_independent_table_judges_the_network_and_after_explaining_the_formulas(tmp_path):
    folder = tmp_path
    shots(600).to_csv(folder / "shots.csv", index=False)
    shots(400, seed=2).to_csv(folder / "more.csv", index=False)
    command = ("learn", folder / "shots.csv", folder / "run", "--counts", "n_A,n_B", "--test", folder / "more.csv")
    first = run_cli(*command, "--json")
    assert first.code == 0, first.err
    found = json.loads(first.out, parse_constant=pytest.fail)
    assert found["test"]["formulas"] == []
    # Losses again, by numpy alone.
    table = shots(400, seed=2)
    table = table[table.n_A + table.n_B > 0]
    trials = table.n_A + table.n_B
    q = Reader(folder / "run").model().q(table[["x", "y in nm", "noise"]])
    loss = (table.n_A * np.logaddexp(0, q) + table.n_B * np.logaddexp(0, -q)).sum() / trials.sum()
    p, share = table.n_B.sum() / trials.sum(), table.n_B / trials
    null = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    saturated = -(trials * (xlogy(share, share) + xlogy(1 - share, 1 - share))).sum() / trials.sum()
    test = found["test"]
    assert (test["n_rows"], test["n_shots"]) == (len(table), trials.sum())
    assert (test["network"]["loss"], test["null_loss"], test["saturated_loss"]) == pytest.approx(
        (loss, null, saturated)
    )
    assert saturated < loss < 0.8 * null
    assert test["network"]["calibration"]["slope"] == pytest.approx(1, abs=0.3)
    # The run is not made anew, and formulas are judged once there are some.
    models = sorted((folder / "run" / "run.zarr" / "models").iterdir())
    marks = [model.stat().st_mtime_ns for model in models]
    assert run_cli("explain", folder / "run", "--generations", 20).code == 0
    text = run_cli(*command)
    assert text.code == 0, text.err
    assert text.out.startswith("known: ")
    assert [model.stat().st_mtime_ns for model in models] == marks
    again = Reader(folder / "run").result("test")
    expressions = Reader(folder / "run").result("mechanism")["expressions"]
    assert [each["name"] for each in again["formulas"]] == [each["expression"] for each in expressions]
    assert again["network"] == test["network"]
    assert again["formulas"][-1]["loss"] < again["formulas"][0]["loss"] == pytest.approx(null, abs=0.02)


def test_a_formula_without_a_value_says_so(made, tmp_path):
    run = learn(made / "shots.csv", tmp_path / "run", counts=COUNTS)
    row = {"expression": "log(x)", "symbols": {"x": "x"}, "complexity": 1, "training_loss": 0.5, "validation_loss": 0.5}
    write_result(run.folder, "mechanism", {"expressions": [row], "recommended": row["expression"]})
    table = shots(400, seed=2)
    negative = ((table.x <= 0) & (table.n_A + table.n_B > 0)).sum()
    (verdict,) = evaluate(run.folder, made / "more.csv").formulas
    assert (verdict.loss, verdict.without_value) == (None, negative)
    assert (
        "no value in"
        in run_cli("learn", made / "shots.csv", run.folder, "--counts", "n_A,n_B", "--test", made / "more.csv").out
    )


def test_a_sampled_run_is_judged_by_a_table_too(tmp_path):
    session = Session.create(tmp_path / "run", {"system": {"kind": "hummer-szabo"}})
    with pytest.raises(AnalysisError, match="trained committor"):
        evaluate(tmp_path / "run", tmp_path / "table.npz")
    session.run(20, workers=0, platform="Reference", progress=False)
    np.savez(tmp_path / "table.npz", y=[0.0, 1.0], x=[0.0, 1.0], weight=[1, 1], n_A=[3, 0], n_B=[3, 6])
    found = evaluate(tmp_path / "run", tmp_path / "table.npz")
    assert found.n_shots == 12
    np.savez(tmp_path / "table.npz", x=[0.0, 1.0], n_A=[3, 0], n_B=[3, 6])
    with pytest.raises(TableError, match="no column 'y'"):
        evaluate(tmp_path / "run", tmp_path / "table.npz")


def test_a_run_from_a_table_is_shown_explained_and_never_sampled(made):
    run = made / "run"
    text = run_cli("show", run)
    assert text.code == 0
    for word in ("shots.csv, a table of shots", "configurations", "held-out loss", "slope"):
        assert word in text.out
    assert "MD" not in text.out
    summary = json.loads(run_cli("show", run, "--json").out, parse_constant=pytest.fail)
    assert (summary["state"], summary["system"], summary["md_steps"]) == ("finished", "table", 0)
    for command in (
        ("run", run),
        ("run", run, "--steps", 5),
        ("new", run.with_name("x"), "--config", run / "config.toml"),
    ):
        result = run_cli(*command)
        assert result.code == 2
        assert "no system to simulate" in result.err
        assert len(result.err.splitlines()) == 1
    with pytest.raises(AnalysisError, match=r"knows no positions; give predict\(\) the columns x, y in nm"):
        Reader(run).committor(np.zeros((1, 0, 3)))
    assert not run.with_name("x").exists()


# -- mistakes ----------------------------------------------------------------------------------------------------------


def change(column, row, value):
    """Return what puts a value into a table."""

    def apply(table):
        table = table.astype({column: object})
        table.loc[row - 1, column] = value
        return table

    return apply


MISTAKES = {
    "a missing value": (change("x", 17, None), [], ["row 17 of column 'x'", "1 missing", "fill it in"]),
    "a missing count": (change("n_A", 3, None), [], ["row 3 of column 'n_A'"]),
    "a negative count": (change("n_B", 5, -2), [], ["0 or more", "-2 in row 5 of column 'n_B'"]),
    "a fractional count": (change("n_A", 9, 1.5), [], ["whole numbers", "1.5 in row 9 of column 'n_A'"]),
    "a huge count": (change("n_A", 9, 2**40), [], ["2147483647 at most", "row 9"]),
    "an infinite value": (change("y in nm", 4, np.inf), [], ["finite", "inf in row 4 of column 'y in nm'"]),
    "a huge value": (change("x", 4, 1e40), [], ["3.4e38", "row 4 of column 'x'"]),
    "text": (change("noise", 6, "high"), [], ["expected numbers", "'high' in row 6 of column 'noise'", "--groups"]),
    "text for a count": (change("n_A", 6, "two"), [], ["'two' in row 6 of column 'n_A'"]),
    "an unknown count": (None, ["--counts", "n_A,n_C"], ["no column 'n_C'", "n_B"]),
    "one count": (None, ["--counts", "n_A"], ["two columns", "got n_A"]),
    "a column that counts nothing": (None, ["--counts", "n_A,n_B,x"], ["counts of shots", "of column 'x'"]),
    "a state without shots": (lambda table: table.assign(n_C=0), ["--counts", "n_A,n_B,n_C"], ["none in column 'n_C'"]),
    "the same count twice": (None, ["--counts", "n_A,n_A"], ["two columns"]),
    "an unknown group": (None, ["--groups", "chian"], ["no column 'chian'"]),
    "a row without a group": (change("noise", 8, None), ["--groups", "noise"], ["a group for every row", "row 8"]),
    "a single group": (lambda table: table.assign(chain=1), ["--groups", "chain"], ["two groups", "found one"]),
    "no columns": (lambda table: table[COUNTS], [], ["expected columns that describe a configuration"]),
    "constant columns alone": (lambda table: table[COUNTS].assign(x=3), [], ["found none", "'x' is constant (3)"]),
    "few rows": (lambda table: table.head(10), [], ["expected 20 rows with shots or more, found"]),
    "no rows": (lambda table: table.head(0), [], ["expected rows, found none"]),
    "one state": (lambda table: table.assign(n_B=0), [], ["either state", "in the first"]),
    "no shots": (lambda table: table.assign(n_A=0, n_B=0), [], ["20 rows with shots", "found 0"]),
    "a negative seed": (None, ["--seed", -1], ["--seed", "0 or more", "got -1"]),
    "an independent table that is not there": (None, ["--test", "none.csv"], ["none.csv", "no file there"]),
}  # fmt: skip


def refuse(folder, *arguments, says):
    """Run a command line that must be refused in one clear line, and leave nothing behind."""
    before = sorted(folder.rglob("*"))
    result = run_cli(*arguments)
    assert result.code == 2, result
    assert result.out == ""
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("error: ")
    for part in says:
        assert part in result.err, f"{part!r} is not in {result.err!r}"
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing_behind(tmp_path, mistake):
    change, options, says = MISTAKES[mistake]
    table = shots(60)
    (table if change is None else change(table)).to_csv(tmp_path / "shots.csv", index=False)
    refuse(tmp_path, "learn", tmp_path / "shots.csv", tmp_path / "run", *options, says=says)


BROKEN = {
    "a column twice": ("a.csv", "x,x,n_A,n_B\n1,2,1,0\n", ["two columns are called 'x' (columns 1 and 2)"]),
    "a column without a name": ("a.csv", "x,,n_A,n_B\n1,2,1,0\n", ["a name for every column", "column 2 has none"]),
    "too many fields": ("a.csv", "x,n_A,n_B\n1,1,0\n1,2,1,0\n", ["3 fields in every row", "line 3"]),
    "too many fields everywhere": ("a.csv", "x,n_A,n_B\n1,1,0,5\n1,2,1,5\n", ["3 fields in every row"]),
    "too few fields": ("a.csv", "x,n_A,n_B\n1,1,0\n1,2\n", ["row 2 of column 'n_B'"]),
    "a name without end": (
        "a.csv",
        f"{'x' * 140_000},n_A,n_B\n1,1,0\n",
        ["names of columns in the first line", "field"],
    ),
    "nothing": ("a.csv", "", ["names of columns in the first line"]),
    "binary": ("a.csv", b"\xff\xfe\x00x", ["UTF-8"]),
    "no table": ("a.xlsx", "x", [".csv, .parquet, .npz", "got .xlsx"]),
    "no ending": ("a", "x", ["got no ending"]),
    "no npz": ("a.npz", "x", ["expected an npz file"]),
    "no parquet": ("a.parquet", "x,y", ["expected a Parquet file"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_table_is_told_in_one_line(tmp_path, name):
    file, content, says = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refuse(tmp_path, "learn", path, tmp_path / "run", says=[file, *says])


def test_arrays_that_are_no_columns_are_refused(tmp_path):
    for arrays, says in (
        ({"x": np.zeros((30, 2)), "n_A": np.ones(30), "n_B": np.ones(30)}, ["one-dimensional", "(30, 2) in 'x'"]),
        ({"x": np.arange(29.0), "n_A": np.ones(30), "n_B": np.ones(30)}, ["one length", "29 in 'x' and 30 in 'n_A'"]),
        ({"x": np.array([None] * 30), "n_A": np.ones(30), "n_B": np.ones(30)}, ["plain arrays"]),
    ):
        np.savez(tmp_path / "shots.npz", **arrays)
        refuse(tmp_path, "learn", tmp_path / "shots.npz", tmp_path / "run", says=says)


TIMES = np.datetime64("2026-11-27") + np.arange(60).astype("m8[D]")
NO_NUMBERS = {
    "times in Parquet": ("parquet", TIMES, ["'2026-11-27", "remove the column"]),
    "times with a zone in Parquet": (
        "parquet",
        pd.DatetimeIndex(TIMES, tz="UTC"),
        ["'2026-11-27", "remove the column"],
    ),
    "durations in Parquet": ("parquet", TIMES - TIMES[0], ["'0 ", "remove the column"]),
    "times in npz": ("npz", TIMES, ["'2026-11-27", "remove the column"]),
    "durations in npz": ("npz", TIMES - TIMES[0], ["'0 days'", "remove the column"]),
    "complex numbers": ("npz", 1 + 2j * np.arange(60), ["'(1+0j)'", "remove the column"]),
    "records": ("npz", np.zeros(60, dtype=[("a", float), ("b", int)]), ["'(0", "remove the column"]),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_is_no_number_becomes_none(tmp_path, name):
    ending, values, says = NO_NUMBERS[name]
    write_table(tmp_path / f"a.{ending}", {**shots(60), "odd": values})
    refuse(
        tmp_path,
        "learn",
        tmp_path / f"a.{ending}",
        tmp_path / "run",
        says=["expected numbers", "in row 1 of column 'odd'", *says],
    )


@pytest.mark.parametrize(
    ("ending", "values"), [("parquet", [[1.0, 2.0]] * 60), ("npz", np.zeros(60, dtype=[("a", float), ("b", int)]))]
)
def test_what_can_name_no_group_is_refused(tmp_path, ending, values):
    write_table(tmp_path / f"a.{ending}", {**shots(60), "odd": values})
    says = ["that name groups", "in row 1 of column 'odd'", "another column"]
    refuse(tmp_path, "learn", tmp_path / f"a.{ending}", tmp_path / "run", "--groups", "odd", says=says)


def test_a_table_may_have_more_groups_than_a_run_may_have_chains(tmp_path):
    table = shots(13_000)
    table["walk"] = np.arange(len(table))
    table.to_csv(tmp_path / "shots.csv", index=False)
    found = shots_in(tmp_path / "shots.csv", COUNTS, groups="walk")
    config = table_run._config(tmp_path / "shots.csv", found, COUNTS, "walk", 1)
    assert config.sampling.chains == len(found.counts) > MAX_CHAINS
    assert RunConfig.from_data(tomllib.loads(config.to_toml())) == config


def test_nothing_is_overwritten(made, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    refuse(tmp_path, "learn", made / "shots.csv", tmp_path / "run", says=["new or an empty folder"])
    refuse(made, "learn", made / "shots.csv", made / "run", says=["new or an empty folder"])
    # Another table, seed or grouping is no reason to take the run for one's own.
    more = ("--test", made / "more.csv")
    refuse(made, "learn", made / "more.csv", made / "run", *more, says=["new or an empty folder"])
    refuse(made, "learn", made / "shots.csv", made / "run", *more, "--seed", 2, says=["new or an empty folder"])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    shots(60).to_parquet(tmp_path / "shots.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuse(tmp_path, "learn", tmp_path / "shots.parquet", tmp_path / "run", says=['pip install "separatrix[parquet]"'])


def test_what_is_left_out_and_what_may_not_be_meant_is_told(tmp_path):
    table = shots(200)
    table["one"], table["again"], table["far"] = 1.0, table.x, 1e6 + table.noise
    table = pd.concat([table, table.head(3).assign(n_A=1)])
    table.to_csv(tmp_path / "shots.csv", index=False)
    result = run_cli("learn", tmp_path / "shots.csv", tmp_path / "run")
    assert result.code == 0
    for words in (
        "rows have no shot and were left out",
        "column 'one' is constant (1) and was left out",
        "column 'again' repeats 'x' and was left out",
        "column 'far' varies by less than a ten-thousandth of its mean",
        "repeat the configuration of another one",
    ):
        assert words in result.err
    assert all(line.startswith("note: ") for line in result.err.splitlines())
    assert Reader(tmp_path / "run").config.descriptors.columns == ["x", "y in nm", "noise"]


def test_a_training_that_fails_leaves_no_run_behind(tmp_path, monkeypatch):
    shots(60).to_csv(tmp_path / "shots.csv", index=False)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("separatrix.learner.train", interrupted)
    before = sorted(tmp_path.rglob("*"))
    result = run_cli("learn", tmp_path / "shots.csv", tmp_path / "run")
    assert result.code == 130
    assert "nothing was stored" in result.err
    assert sorted(tmp_path.rglob("*")) == before
