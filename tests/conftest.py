"""Settings of the whole suite: one thread per process, our commands, and Hypothesis without wall-clock limits."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from hypothesis import settings

# Read when torch and OpenMM load, here and in worker processes: two cores are shared, and sums keep their order.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENMM_CPU_THREADS"] = "1"

# Notebooks call separatrix as one types it, and `.venv/bin/python -m pytest` activates nothing.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

# Started in the background, a shell has all that follows ignore Ctrl-C, and tests wait for its effect.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("separatrix", deadline=None, print_blob=True)
settings.register_profile("separatrix-ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.load_profile("separatrix-ci" if os.environ.get("CI") else "separatrix")
