"""What descriptors of a solvated system cost beside its dynamics, and on a GPU; prints tables, asserts nothing of time.

`make bench` runs it; `make bench-gpu` the part for a GPU.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from separatrix.engine import Engine, atoms_of, platform_properties, serialize
from separatrix.equilibration import equilibrate
from separatrix.observables import Observables
from separatrix.symmetry_functions import SymmetryFunctions
from separatrix.systems import build_system, resolve

pytestmark = pytest.mark.benchmark

BLOCKS = 10
FRAMES_PER_BLOCK = 10
REDUCED = {"r_s": [0.1, 0.25, 0.4], "r_cutoff": 0.6}
LICL = {"system": {"kind": "lithium-chloride"}}
SYSTEMS = {
    "lithium-chloride, published set": LICL,
    "lithium-chloride, reduced set": {
        **LICL,
        "descriptors": {"symmetry_functions": [{"centers": "element Li or element Cl", **REDUCED}]},
    },
    "alanine-dipeptide, tip3p": {"system": {"kind": "alanine-dipeptide", "solvent": "tip3p"}},
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_descriptors_against_raw_steps(name: str) -> None:
    """Time of the descriptors of a saved frame over that of the MD steps before it, one thread each, in turns."""
    config, observables, engine, _ = made(SYSTEMS[name])
    first = engine.advance()
    observables.features(first.positions[None], first.box[None])  # loads machine code and torch, once
    steps, alone, together, n_frames = [], [], [], BLOCKS * FRAMES_PER_BLOCK
    for _ in range(BLOCKS):
        begin = time.perf_counter()
        for _ in range(FRAMES_PER_BLOCK):
            engine.step(config.sampling.stride)
        steps.append(time.perf_counter() - begin)
        frames = [engine.advance() for _ in range(FRAMES_PER_BLOCK)]
        positions, box = (np.stack([getattr(frame, what) for frame in frames]) for what in ("positions", "box"))
        begin = time.perf_counter()
        for row in range(FRAMES_PER_BLOCK):
            observables.features(positions[row : row + 1], box[row : row + 1])
        middle = time.perf_counter()
        observables.features(positions, box)
        alone.append(middle - begin)
        together.append(time.perf_counter() - middle)
    ratios = np.array(together) / np.array(steps)
    print(
        f"\n{name}: {len(observables.descriptors.names):,} columns of {observables.n_atoms:,} atoms; per frame "
        f"{sum(steps) / n_frames * 1e3:.2f} ms of MD ({config.sampling.stride} steps), descriptors "
        f"{sum(together) / n_frames * 1e3:.2f} ms ({sum(alone) / n_frames * 1e3:.2f} ms frame by frame): "
        f"{100 * sum(together) / sum(steps):.1f} +- {100 * ratios.std(ddof=1) / BLOCKS**0.5:.1f} % of MD"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
@pytest.mark.parametrize("name", SYSTEMS)
def test_descriptors_on_a_gpu(name: str) -> None:
    """Time on the GPU against one thread of the processor, for a batch of 200 frames; and how far they differ."""
    config, _, engine, atoms = made(SYSTEMS[name])
    frames = [engine.advance() for _ in range(20)]
    positions, box = (np.stack([getattr(frame, what) for frame in frames] * 10) for what in ("positions", "box"))
    values, seconds = {}, {}
    for device in ("cpu", "cuda"):
        functions = SymmetryFunctions(config.descriptors.symmetry_functions, atoms, device)
        functions.array(positions, box)
        begin = time.perf_counter()
        values[device] = functions.array(positions, box)
        seconds[device] = time.perf_counter() - begin
    np.testing.assert_allclose(values["cuda"], values["cpu"], rtol=1e-3, atol=1e-4)
    print(
        f"\n{name}: {seconds['cuda'] / 200 * 1e3:.3f} ms per frame on {torch.cuda.get_device_name()}, "
        f"{seconds['cpu'] / 200 * 1e3:.2f} ms on one thread; largest difference "
        f"{np.abs(values['cuda'] - values['cpu']).max():.1e}"
    )


def made(data: dict[str, Any]) -> tuple[Any, Observables, Engine, Any]:
    """Return configuration, observables, an engine on one thread that stands in equilibrium, and the atoms."""
    config = resolve(data)
    system = equilibrate(build_system(config), config)
    start = next(iter(system.starts.values()))
    xml, _ = serialize(system.openmm_system, system.topology, start)
    engine = Engine(xml, config, "CPU", platform_properties("CPU", threads=1))
    engine.place(start)
    velocities, _ = engine.draw_velocities(start, np.random.default_rng(1))
    engine.set_velocities(velocities)
    atoms = atoms_of(system.topology)
    return config, Observables(config, atoms), engine, atoms
