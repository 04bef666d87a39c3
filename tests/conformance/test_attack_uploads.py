"""Files and names that people give a real server make no runs and take no memory, unless they mean what they may."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from pathlib import Path

import pytest
from tests.attacked import PATIENCE, SECRET, Attacked, Forger, changed, event

from separatrix import Session

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at memory as Linux tells it"),
]

GROWTH = 600 * 2**20
"""Bytes of memory: the largest file that is taken, of a megabyte, is read by a parser that makes much of little."""

FIELD = "Upload a TOML file"
LANDSCAPE = '[system]\nkind = "mueller-brown"\n[sampling]\nchains = 7\n'
MOLECULE = '[system]\nkind = "files"\ntopology = "{}"\nforce_field = ["amber14-all.xml"]\n'
ENTITIES = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><a>&b;&b;&b;&b;</a>'
KEYS = "".join(f"k{number}=1\n" for number in range(150_000))[: 2**20 - 100]

REFUSED = {
    "XML": ENTITIES.encode(),
    "a packed file": gzip.compress(bytes(2**24)),
    "all keys that a megabyte holds": KEYS.encode(),
    "the same in a table": ("[system]\n" + KEYS).encode(),
    "brackets": b"x = " + b"[" * 500_000,
    "a long key": b"a." * 500_000 + b"a = 1",
    "a long number": b"x = " + b"9" * 1_000_000,
    "no text": os.urandom(1_000),
    "more than a megabyte": b"#" * (2**20 + 1),
    "a file of the machine": MOLECULE.format("/etc/passwd").encode(),
    "a device": MOLECULE.format("/dev/zero").encode(),
}

NAMES = [
    *("../evil", "/tmp/evil", "a/b", "..", ".", "", "a\\b", "evil\0", "e\nvil", ".evil"),  # noqa: S108
    *("first", "a" * 300, "\u202eevil"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return a server without logins, with one run."""
    runs = tmp_path_factory.mktemp("attacked") / "runs"
    config = {"system": {"kind": "hummer-szabo"}, "committor": {"members": 1}}
    Session.create(runs / "first", config).run(12, workers=0, platform="Reference", progress=False)
    with Attacked(runs) as made:
        yield made
    assert "Traceback" not in made.text, made.text[-3000:]


def played(server, play):
    """Have something done on the page that makes runs, and return what it returns."""

    async def whole():
        async with Forger(server.url, "new") as page:
            return await play(page)

    return asyncio.run(asyncio.wait_for(whole(), 4 * PATIENCE))


async def told(page, seconds=1.0):
    """Return what a page was told since it was asked last."""
    before = page.told if hasattr(page, "told") else 0
    await page.settled(seconds)
    page.told = len(page.heard)
    return "".join(text for text in page.heard[before:] if '"roots"' not in text)


@pytest.mark.parametrize("name", REFUSED)
def test_an_upload_that_means_harm_is_refused_at_little_cost(server, name):
    before, peak = server.fingerprint(), server.peak()

    async def play(page):
        await told(page)
        begun = time.monotonic()
        await page.give(FIELD, REFUSED[name])
        text = await told(page)
        assert time.monotonic() - begun < PATIENCE / 2
        return text

    text = played(server, play)
    assert "sx-problem" in text
    assert not server.given_away(text)
    assert server.peak() - peak < GROWTH
    assert server.fingerprint() == before


def test_a_file_that_holds_no_molecule_is_not_told(server):
    secret = server.runs.parent / "secret.pdb"
    secret.write_bytes(SECRET)

    async def play(page):
        await told(page)
        await page.give(FIELD, MOLECULE.format(secret).encode())
        text = await told(page)
        await page.press("Check")
        return text + await told(page, 5.0)

    text = played(server, play)
    assert "sx-problem" in text
    assert SECRET.decode() not in text


def test_a_good_upload_fills_the_form(server):
    async def play(page):
        await told(page)
        await page.give(FIELD, LANDSCAPE.encode())
        return await told(page)

    text = played(server, play)
    assert "chains = 7" in text
    assert "sx-problem" not in text


@pytest.mark.parametrize(
    "strange",
    [
        {"chunk": 7, "total_chunks": 10**9},
        {"chunk": -1},
        {"name": "x" * 10**6},
        {"mime_type": 7},
        {"name": "../../evil"},
        {"status": "nothing"},
        {"status": "error", "error": "<script>"},
    ],
)
def test_an_upload_told_strangely_leaves_the_page_as_it_was(server, strange):
    before = server.fingerprint()

    async def play(page):
        await page.give(FIELD, b"x", **strange)
        for data in (7, "text", [], {"type": "map", "entries": []}):
            await page.patch(event("data_event", model={"id": page.component(FIELD)[0]}, data=data))
        await told(page)
        await page.give(FIELD, LANDSCAPE.encode())
        return await told(page)

    assert "chains = 7" in played(server, play)
    assert server.fingerprint() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_run_cannot_be_named_out_of_the_folder(server, name):
    before = server.fingerprint()

    async def play(page):
        field = page.component("Name of the run")[1]
        for attribute in ("value", "value_input"):
            await page.patch(changed(field, attribute, name))
        await told(page)
        await page.press("Create only")
        return await told(page)

    assert "Mend first: Name of the run." in played(server, play)
    assert server.fingerprint() == before


def test_a_run_with_a_good_name_is_made(server):
    async def play(page):
        field = page.component("Name of the run")[1]
        await page.give(FIELD, LANDSCAPE.encode())
        await told(page)
        for attribute in ("value", "value_input"):
            await page.patch(changed(field, attribute, "mine"))
        await page.press("Create only")
        return await told(page, 5.0)

    assert "sx-problem" not in played(server, play)
    assert (server.runs / "mine").is_dir(), "else the refusals would mean nothing"
