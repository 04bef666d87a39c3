"""Free memory goes back to the machine, though blocks in use lie between."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators give back by themselves")

TAKE = """
import gc
import psutil
from separatrix.memory import give_back, settle

def taken():
    return psutil.Process().memory_full_info().uss / 2**20

def take(size, total=100 * 2**20):
    # One block of fifty stays, behind those that go.
    for i in range(total // size):
        (staying if i % 50 == 49 else going).append(b"x" * size)

staying, going = [], []
"""


def told(program):
    # Dask's nanny sets the allocator's options in the environment of the process that starts it.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", TAKE + program]
    process = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    return [float(line) for line in process.stdout.split()]


def test_small_blocks_are_given_back():
    before, full, freed, given_back = told(
        "print(taken()); take(2000); print(taken()); going.clear(); print(taken()); give_back(); print(taken())"
    )
    assert full - before > 90
    assert freed - before > 90  # the allocator keeps them
    assert given_back - before < 20


@pytest.mark.parametrize(("settled", "given_back"), [("", False), ("settle()", True)])
def test_large_arrays_are_given_back_when_they_are_freed(settled, given_back):
    # The first that is freed is what the allocator takes for usual.
    before, full, freed = told(
        f"{settled}\ngoing = bytes(2 * 10**6); going = []; print(taken())\n"
        "take(10**6); print(taken()); going.clear(); print(taken())"
    )
    assert full - before > 90
    assert (freed - before < 20) == given_back


@pytest.mark.parametrize(("generation", "given_back"), [(1, False), (2, True)])
def test_full_collections_give_back(generation, given_back):
    before, freed, collected = told(
        f"settle(); print(taken()); take(2000); going.clear(); print(taken()); gc.collect({generation}); print(taken())"
    )
    assert freed - before > 90
    assert (collected - before < 20) == given_back
