"""The mechanism while a run samples: relevance and the best of a short search for formulas, after every so many shots.

What is found is appended to the run's result ``insights``, in a process that yields to all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from separatrix.errors import StoreError
from separatrix.mechanism import Evidence, Ranking, network_loss, recommended
from separatrix.reader import Reader
from separatrix.store import read_result, write_result
from separatrix.symbolic import find_formulas

ISLANDS: Final = 4
SHOTS: Final = 2000
"""Shots that are looked at, evenly spread over all: an insight then costs some three seconds of processor time."""

MOST: Final = 400
"""Insights kept, the newest."""


def gain_insight(run: Path, generations: int) -> int:
    """Append what the newest model and the committed shots of a run tell now to its result ``insights``.

    An entry holds ``n_shots``, ``model_version``, ``noise_line``, ``groups`` (name, mean and std of the relevance),
    the recommended formula (``expression``, ``symbols``, ``complexity``, ``training_loss``, ``validation_loss``) and
    ``network_loss`` on the same shots.

    Returns
    -------
    int
        How many shots that are.

    Raises
    ------
    AnalysisError
        If there are too few shots.
    """
    reader = Reader(run)
    evidence = Evidence.of(reader).thinned(SHOTS)
    seed = evidence.model.version
    ranking = Ranking.of(evidence, np.random.default_rng(seed))
    shots = evidence.for_formulas(ranking.inputs(None))
    formulas = find_formulas(shots, seed=seed, islands=ISLANDS, generations=generations, workers=1)
    best = recommended(formulas, shots)
    n_shots = int(reader.columns("shots")["chain"].shape[0])
    entry = {
        "n_shots": n_shots,
        "model_version": evidence.model.version,
        "noise_line": ranking.line,
        "groups": [{"name": row.name, "mean": row.mean, "std": row.std} for row in ranking.of_groups()],
        **asdict(best),
        "network_loss": network_loss(evidence, shots),
    }
    write_result(run, "insights", {"entries": [*insights(run), entry][-MOST:]})
    return n_shots


def insights(run: Path) -> list[Mapping[str, Any]]:
    """Return the insights of a run, oldest first; none where they are damaged, for they are found anew."""
    with suppress(StoreError):
        if (found := read_result(run, "insights")) is not None:
            return list(found["entries"])
    return []
