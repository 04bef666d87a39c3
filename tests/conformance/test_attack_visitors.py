"""On a server for everybody no visitor controls another's session, whatever is sent; its owner does."""

from __future__ import annotations

import asyncio
import itertools
import re
import time

import pytest
from tests.attacked import PATIENCE, Attacked, Forger
from tests.conformance.test_attack_controls import barrage

from separatrix_dashboards.access import VISITOR

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SHOTS = 1_000
"""That the form on the home page offers first."""

ADA, BEN = ({"Cookie": f"{VISITOR}={letter * 32}"} for letter in "ab")


@pytest.fixture
def server(tmp_path):
    """Return a server for everybody with its own example, and two places for visitors."""
    (tmp_path / "runs").mkdir()
    with Attacked(tmp_path / "runs", "--demo", "--max-workers", 2) as made:
        yield made
    assert "Traceback" not in made.text, made.text[-3000:]


async def begun(server, visitor):
    """Begin a session from the home page; return its address."""
    async with Forger(server.url, "", visitor) as page:
        await page.press("Start")
        await until(lambda: re.search(_ADDRESS, "".join(page.heard)))
        return re.search(_ADDRESS, "".join(page.heard))[0]


_ADDRESS = r"try\?session=[\w-]+"


async def until(condition):
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


def states(page):
    """Return the states that a page was told of, one after the other."""
    told = re.findall(r'data-state=\\?(?:"|&quot;)(\w+)', "".join(page.heard))
    return [state for state, _ in itertools.groupby(told)]


def test_a_visitor_controls_the_session_of_no_other(server):
    async def play():
        address = await begun(server, ADA)
        async with Forger(server.url, address, ADA) as own:
            await until(lambda: own.steps > 0)
            number = 0
            for place in (f"{address}&tab=live", f"{address}&tab=committor", ""):
                async with Forger(server.url, place, BEN) as other:
                    assert not place or "may look at this session but not control it" in str(other.contents)
                    number += await barrage(other)
            print(f"{number:,} messages, {own.steps} shots meanwhile; {states(own)}")  # noqa: T201
            await until(lambda: own.steps == SHOTS)
            await until(lambda: states(own)[-1] == "finished")
            assert set(states(own)) <= {"new", "seeding", "running", "finished"}
            assert "is over" not in "".join(own.heard)

    asyncio.run(play())


def test_its_owner_does(server):
    async def play():
        address = await begun(server, ADA)
        async with Forger(server.url, address, ADA) as own:
            await until(lambda: own.steps > 0)
            await barrage(own, changes=False)
            await until(lambda: {"paused", "stopped"} & set(states(own)) or "is over" in "".join(own.heard))

    asyncio.run(play())
