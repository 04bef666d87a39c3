"""A run on disk: one writer, any number of readers, every array plain zarr v3."""

from __future__ import annotations

from separatrix.store.checksums import CONFIG, SYSTEM, TOPOLOGY, check_files
from separatrix.store.damage import Repair, examine, repair
from separatrix.store.growth import GrowingTable
from separatrix.store.layout import SHOT_COLUMNS, Committed, shot_columns, shot_dimensions
from separatrix.store.lock import is_locked, lock_holder
from separatrix.store.log import LOG, read_events
from separatrix.store.results import RESULTS, read_result, write_result
from separatrix.store.run import Store, require_nothing_at, write_trajectory
from separatrix.store.validations import OUTCOME_COLUMNS, StoredValidation, Validations

__all__ = [
    "CONFIG",
    "LOG",
    "OUTCOME_COLUMNS",
    "RESULTS",
    "SHOT_COLUMNS",
    "SYSTEM",
    "TOPOLOGY",
    "Committed",
    "GrowingTable",
    "Repair",
    "Store",
    "StoredValidation",
    "Validations",
    "check_files",
    "examine",
    "is_locked",
    "lock_holder",
    "read_events",
    "read_result",
    "repair",
    "require_nothing_at",
    "shot_columns",
    "shot_dimensions",
    "write_result",
    "write_trajectory",
]
