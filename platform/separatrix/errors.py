"""The errors Separatrix raises on purpose: each says what was expected, what was found, where, and what to do."""

from __future__ import annotations


class SeparatrixError(Exception):
    """Base of every deliberate error; the command line prints it as one line and exits with code 2."""


class ConfigError(SeparatrixError, ValueError):
    """A configuration is wrong: unknown key, wrong type, impossible combination."""


class ExpressionError(ConfigError):
    """A collective-variable or state expression cannot be parsed or names something unknown."""


class StateOverlapError(ConfigError):
    """A configuration lies in two states at once."""


class SystemBuildError(SeparatrixError, ValueError):
    """A molecular system or landscape cannot be built."""


class EngineError(SeparatrixError, RuntimeError):
    """The simulation engine cannot run: no such platform, coordinates that are not numbers."""


class DeviceLostError(EngineError):
    """A device can no longer be used from this process: lost, out of memory, or its driver failed."""


class WorkersLostError(SeparatrixError, RuntimeError):
    """There is no worker left: each was lost time and again."""


class ClusterError(SeparatrixError, RuntimeError):
    """A cluster cannot be used: no scheduler answers, other versions there, workers that do not see the run."""


class EquilibrationStoppedError(SeparatrixError, RuntimeError):
    """The making of a run was stopped while its water was equilibrated."""


class SeedingError(SeparatrixError, RuntimeError):
    """No first transition path was found within the time allowed."""


class SeedingStoppedError(SeparatrixError, RuntimeError):
    """The run was stopped while it looked for a first transition path."""


class ColumnMismatchError(SeparatrixError, ValueError):
    """A model was given columns other than those it was trained on."""


class AnalysisError(SeparatrixError, ValueError):
    """An analysis needs what the run does not hold: a trained model, two states, enough shots."""


class RunNotFoundError(SeparatrixError, FileNotFoundError):
    """There is no run at this path."""


class RunExistsError(SeparatrixError, FileExistsError):
    """A run would overwrite what is already there."""


class RunLockedError(SeparatrixError, RuntimeError):
    """Another process is writing this run."""


class StoreError(SeparatrixError, OSError):
    """A run cannot be read or written: damaged, wrong version, disk full."""


class RunFormatError(StoreError):
    """A run was written by a version that is newer than this one."""


class TableError(SeparatrixError, ValueError):
    """A table of shots cannot be used: missing, malformed, or with values that are no counts or no numbers."""


class ExportError(SeparatrixError, ValueError):
    """A run cannot be written in the form that was asked for."""


def quoted(text: str, most: int = 40) -> str:
    """Return a text of somebody's in quotes, for a message: no more of it than so many characters.

    >>> quoted("phi"), quoted("never" * 20, most=12)
    ("'phi'", "'nevernev...'")
    """
    return repr(text if len(text) <= most else f"{text[: most - 3]}...")
