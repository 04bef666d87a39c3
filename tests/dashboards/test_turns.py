"""Documents are updated in turns, and between them the event loop is free."""

from __future__ import annotations

import asyncio
import threading

import pytest

from separatrix_dashboards.turns import Turn, Turns


def taken(turns, loop, name, order, rank=0.0):
    """Return a turn that notes its name when it comes, and is over at once."""

    def begin(turn):
        order.append(name)
        loop.call_soon(turns.over, turn)

    return Turn(begin, lambda: rank)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_the_highest_rank_is_next_and_then_the_oldest():
    async def run():
        loop, turns, order = asyncio.get_running_loop(), Turns(pause=0.0), []
        for name, rank in (("a", 0.0), ("b", 0.0), ("clicked", 2.0), ("c", 0.0), ("clicked before", 1.0)):
            turns.ask(loop, taken(turns, loop, name, order, rank))
        await until(lambda: len(order) == 5)
        assert order == ["clicked", "clicked before", "a", "b", "c"]

    asyncio.run(run())


def test_what_comes_meanwhile_is_done_between_two_turns():
    async def run():
        loop, turns, order = asyncio.get_running_loop(), Turns(pause=0.01), []
        for name in "abc":
            turns.ask(loop, taken(turns, loop, name, order))

        async def click():
            for _ in range(5):  # as a message is read: in several rounds of the event loop
                await asyncio.sleep(0)
            order.append("click")

        await until(lambda: order)
        await click()
        await until(lambda: len(order) == 4)
        assert order == ["a", "click", "b", "c"]

    asyncio.run(run())


def test_a_turn_that_is_never_over_holds_nobody_up():
    async def run():
        loop, turns, order = asyncio.get_running_loop(), Turns(pause=0.0, longest=0.01), []
        turns.ask(loop, stuck := Turn(lambda turn: order.append("stuck"), lambda: 0.0))
        turns.ask(loop, taken(turns, loop, "next", order))
        await until(lambda: len(order) == 2)
        turns.over(stuck)  # too late to matter
        turns.ask(loop, taken(turns, loop, "last", order))
        await until(lambda: len(order) == 3)
        assert order == ["stuck", "next", "last"]

    asyncio.run(run())


@pytest.mark.parametrize("n_threads", [1, 4])
def test_turns_asked_for_in_any_thread_come_once_each(n_threads):
    async def run():
        loop, turns, order = asyncio.get_running_loop(), Turns(pause=0.0), []

        def ask(first):
            for name in range(first, 40, n_threads):
                turns.ask(loop, taken(turns, loop, name, order))

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(n_threads)]
        for thread in threads:
            thread.start()
        await until(lambda: len(order) == 40)
        assert sorted(order) == list(range(40))

    asyncio.run(run())
