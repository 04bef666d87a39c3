"""Texts and files that mean harm: expressions, selections, TOML and tables end in a result or in one clear line.

`python tests/conformance/test_attack_texts.py 1000000` tries that many texts in all, outside the suite.
"""

from __future__ import annotations

import io
import resource
import sys
import time
import tomllib
import zipfile
from functools import partial
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.command_line import run_cli

from separatrix import tables
from separatrix.collective_variables import by_index, parse_definition
from separatrix.config import MAX_TOML_BYTES, apply_overrides, parse_toml
from separatrix.engine import read_atoms
from separatrix.errors import ConfigError, SeparatrixError, TableError
from separatrix.expressions import compile_expression, parse_call
from separatrix.selection import select
from separatrix.systems import CATALOGUE, resolve
from separatrix.tables import read_table, shots_in

SLOWEST = 20.0
"""Seconds that no single text may take, on a machine that others use."""
GROWTH = 500 * 2**20
"""Bytes that reading a small file may take at most."""

ALANINE = read_atoms(files("separatrix.systems") / "data" / "alanine-dipeptide.pdb")
NAMES = ("phi", "psi", "x")


# -- texts -------------------------------------------------------------------------------------------------------------


def mixed(*words):
    """Return texts of the words of a language, of its signs, and of anything."""
    odd = ["", " ", "\t", "\n", "\0", "#", "\\", "\u202e", "\ufb01", "1e999", "9" * 400, "(" * 60, ")" * 60, "-" * 200]
    part = st.sampled_from([*words, *odd]) | st.text(max_size=6) | st.integers().map(str) | st.floats().map(repr)
    joined = st.lists(part, max_size=12).flatmap(
        lambda parts: st.sampled_from(["", " "]).map(lambda by: by.join(parts))
    )
    repeated = st.tuples(joined, st.integers(2, 400)).map(lambda pair: (pair[0] * pair[1])[:20_000])
    return joined | repeated


EXPRESSIONS = mixed(
    *(
        "phi",
        "psi",
        "x",
        "+",
        "-",
        "*",
        "/",
        "^",
        "**",
        "<",
        "<=",
        "==",
        "and",
        "or",
        "not",
        "between(",
        "sqrt(",
        "min(",
    ),
    *(",", ")", "(", "[", "]", "lambda:", "__import__('os')", ".", "if", "else", "for", "in", "f'{x}'", "await", ":="),
)
CALLS = mixed(
    *(
        "distance(",
        "dihedral(",
        "coordination(",
        "angle(",
        "x(",
        "0",
        "1",
        "[0, 1]",
        ",",
        ")",
        "r0=",
        "0.35",
        "**",
        "*",
    ),
    *("'name CA'", '"resid 0"', "[", "]", "0:9", "...", "None", "True", "lambda: 0"),
)
SELECTIONS = mixed(
    *(
        "protein",
        "name",
        "CA",
        "resid",
        "0",
        "to",
        "and",
        "or",
        "not",
        "!",
        "&&",
        "||",
        "(",
        ")",
        "=~",
        "'C.*'",
        "==",
        "<",
    ),
    *(
        "element",
        "H",
        "mass",
        "water",
        "backbone",
        "index",
        "all",
        "none",
        "'(a*)*b'",
        '"x"',
        "within 5 of",
        "__class__",
    ),
)
TOML = mixed(
    *(
        "[system]",
        "[[system.extra]]",
        "kind",
        "=",
        '"potential"',
        "[",
        "]",
        "{",
        "}",
        ",",
        "a.",
        "'''",
        '"""',
        "\n",
        "1.5",
    ),
    *(
        "x",
        "true",
        "nan",
        "1979-05-27",
        "0x10",
        '"\\u0000"',
        "[sampling]",
        "chains",
        "[a.b]",
        "inf",
        "-0",
        "1_000",
        "#",
    ),
)
TABLES = st.lists(
    st.sampled_from(
        [*"abn,;\t\n\r\"' .-+eE019", "n_A", "n_B", "nan", "1e400", "\0", "\ufeff", ",,", '""', "é", "0x1p3"]
    ),
    max_size=60,
).map("".join)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
CONFIGURATIONS = st.builds(
    lambda kind, tables: {"system": {"kind": kind}} | tables,
    st.sampled_from([*CATALOGUE, "potential", "files", "table", "nothing"]),
    st.dictionaries(
        st.sampled_from(["system", "states", "collective_variables", "descriptors", "sampling", "committor", "x"]),
        PLAIN
        | st.dictionaries(
            st.sampled_from(["A", "B", "columns", "steps", "chains", "scale", "start", "expression", "kind", "x"]),
            PLAIN | EXPRESSIONS,
            max_size=4,
        ),
        max_size=3,
    ),
)


def in_a_line(read, *given, kinds=(SeparatrixError,)):
    """Read something; a mistake must be told in one line, and nothing may take long."""
    begun, said = time.process_time(), "it was read"
    try:
        read(*given)
    except kinds as error:
        said = str(error)
    assert said.strip()
    assert "\n" not in said, said
    assert len(said) < 3_000
    assert time.process_time() - begun < SLOWEST, given


def read_csv_text(folder, text):
    """Read a table from a file with this text, as `learn` does."""
    file = folder / "table.csv"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    read_table(file)
    shots_in(file, ["n_A", "n_B"])


def read_toml_text(text):
    """Take a text for a configuration, as the page does."""
    resolve(parse_toml(text))


def read_octets(ending, folder, octets):
    """Read a table from a file with these octets."""
    file = folder / f"table{ending}"
    file.write_bytes(octets)
    read_table(file)


LANGUAGES = {
    "expression": (EXPRESSIONS, lambda folder: lambda text: compile_expression(text, NAMES)),
    "call": (CALLS, lambda folder: parse_call),
    "definition": (CALLS, lambda folder: lambda text: parse_definition(by_index(text, ALANINE), ALANINE.n_atoms)),
    "selection": (SELECTIONS, lambda folder: partial(select, ALANINE)),
    "toml": (TOML, lambda folder: read_toml_text),
    "override": (TOML, lambda folder: lambda text: apply_overrides({}, [text])),
    "configuration": (CONFIGURATIONS, lambda folder: resolve),
    "csv": (TABLES, lambda folder: partial(read_csv_text, folder)),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_any_text_is_read_or_refused_in_one_line(language, tmp_path):
    texts, reader = LANGUAGES[language]
    attack(texts, reader(tmp_path), 60)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_thousands_of_texts_are_read_or_refused_in_one_line(language, tmp_path):
    texts, reader = LANGUAGES[language]
    attack(texts, reader(tmp_path), 3_000)


def attack(texts, read, times):
    """Have something read so many texts."""

    @settings(max_examples=times, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(texts)
    def one(text):
        in_a_line(read, text)

    one()


# -- TOML that takes long, or the stack --------------------------------------------------------------------------------

MILLION = "".join(f"k{number} = 1\n" for number in range(10**6))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("x = " + "[" * 100_000, "nested too deeply", id="arrays in arrays"),
        pytest.param("x = " + "{a=" * 100_000, "nested too deeply", id="tables in tables"),
        pytest.param("a." * 200_000 + "a = 1", "fewer than 32 parts", id="a key of many parts"),
        pytest.param("x = {" + "'a' . " * 200_000 + "a = 1}", "fewer than 32 parts", id="such a key within a value"),
        pytest.param("[" + '"".' * 200_000 + "a]", "fewer than 32 parts", id="such a name of a table"),
        pytest.param("x = " + "9" * 100_000, "not valid TOML", id="a number of many digits"),
        pytest.param("a" * 10**6, "not valid TOML", id="a long word"),
        pytest.param('"a' * 10**5, "not valid TOML", id="quotes without end"),
    ],
)
def test_toml_that_would_take_long_or_the_stack_is_refused(text, says):
    begun = time.process_time()
    with pytest.raises(ConfigError, match=says):
        parse_toml(text)
    assert time.process_time() - begun < SLOWEST


def test_what_looks_a_little_like_a_key_of_many_parts_is_read():
    numbers = ", ".join(f"{number}.5" for number in range(1_000))
    text = f'x = [{numbers}]\ny = "{"." * 200}"\n{"a." * 20}b = 1 # {"and so on ... " * 40}\n'
    assert parse_toml(text) == tomllib.loads(text)


@pytest.mark.slow
def test_a_million_keys_are_refused_in_a_line(tmp_path):
    file = tmp_path / "million.toml"
    file.write_text(MILLION)
    assert len(MILLION) > MAX_TOML_BYTES
    assert "8 MiB at most" in run_cli("new", tmp_path / "run", "--config", file).err
    file.write_text('[system]\nkind = "hummer-szabo"\n' + MILLION[: MAX_TOML_BYTES - 100].rpartition("\n")[0])
    begun = time.process_time()
    result = run_cli("new", tmp_path / "run", "--config", file)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert len(result.err) < 3_000
    assert time.process_time() - begun < 3 * SLOWEST
    assert not (tmp_path / "run").exists()


# -- tables that unfold ------------------------------------------------------------------------------------------------


def npz(*entries, compressed=True):
    """Return an npz file of (name, octets of an npy file)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, octets in entries:
            archive.writestr(name, octets)
    return stream.getvalue()


def npy(shape, kind="<f8", body=b""):
    """Return an npy file whose header says what one wants it to."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue() + body


BOMBS = {
    "zeros": lambda: npz(("a.npy", npy((2**22,), body=bytes(2**25))), ("b.npy", npy((2**22,), body=bytes(2**25)))),
    "promises": lambda: npz(("a.npy", npy((2**50,)))),
    "wide letters": lambda: npz(("a.npy", npy((2,), "<U500000000"))),
    "pickle": lambda: npz(("a.npy", npy((1,), "|O", b"cos\nsystem\n(S'true'\ntR."))),
    "header": lambda: npz(("a.npy", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535)),
    "no arrays": lambda: npz(("a.txt", b"hello")),
    "twice": lambda: npz(("a.npy", npy((1,), body=bytes(8))), ("a.npy", npy((2,), body=bytes(16)))),
}


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="needs limits of memory")
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("bomb", BOMBS)
def test_an_archive_that_unfolds_is_refused_before_it_does(bomb, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_UNPACKED", 2**24)
    file = tmp_path / "bomb.npz"
    file.write_bytes(BOMBS[bomb]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TableError) as error:
        read_table(file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWTH


def good_table(ending):
    """Return the octets of a table that can be read."""
    columns = {"x": np.linspace(0, 1, 20), "n_A": np.arange(20), "n_B": np.arange(20)[::-1]}
    stream = io.BytesIO()
    if ending == ".npz":
        np.savez_compressed(stream, **columns)
    else:
        import pandas as pd  # noqa: PLC0415 - only here

        pd.DataFrame(columns).to_parquet(stream)
    return stream.getvalue()


def damaged(octets, changes, cut):
    """Return octets of which some are others, cut off."""
    result = bytearray(octets)
    for place, value in changes:
        result[place % len(result)] = value
    return bytes(result[: len(result) - cut % len(result)])


def attack_octets(ending, folder, times):
    """Damage a table in many ways, and read it."""
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    octets = good_table(ending)

    @settings(max_examples=times, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8), st.just(0) | st.integers(0, 2**16)
    )
    def one(changes, cut):
        in_a_line(partial(read_octets, ending, folder), damaged(octets, changes, cut))

    one()


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_damaged_octets_are_read_or_refused_in_one_line(ending, tmp_path):
    attack_octets(ending, tmp_path, 60)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_thousands_of_damaged_octets_are_read_or_refused_in_one_line(ending, tmp_path):
    attack_octets(ending, tmp_path, 3_000)


# -- a million ---------------------------------------------------------------------------------------------------------


def campaign(total):
    """Try so many texts in all, an equal share of each language; tell what it came to."""
    share = total // (len(LANGUAGES) + 2)
    with TemporaryDirectory() as folder:
        for name, (texts, reader) in LANGUAGES.items():
            begun = time.monotonic()
            attack(texts, reader(Path(folder)), share)
            print(f"{name}: {share:,} texts, {time.monotonic() - begun:.0f} s", flush=True)  # noqa: T201
        for ending in (".npz", ".parquet"):
            begun = time.monotonic()
            attack_octets(ending, Path(folder), share)
            print(f"{ending}: {share:,} files, {time.monotonic() - begun:.0f} s", flush=True)  # noqa: T201
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")  # noqa: T201


if __name__ == "__main__":
    campaign(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
