"""A run as an object: started, paused, resumed and stopped, in the foreground or in the background."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from separatrix.analyst import Analyst
from separatrix.config import NOTHING_MOVES, RunConfig, anchored, read_toml
from separatrix.engine import atoms_of, serialize
from separatrix.equilibration import EquilibrationProgress, equilibrate
from separatrix.errors import ConfigError, SeparatrixError
from separatrix.insight import gain_insight, insights
from separatrix.loop import Control, Loop
from separatrix.mechanism import GENERATIONS, Mechanism, explain
from separatrix.observables import Observables
from separatrix.preparing import check_resources, own_seed_paths, write_seed_paths
from separatrix.progress import EquilibrationDisplay, ProgressDisplay, SearchDisplay, ShootingDisplay
from separatrix.reader import Reader
from separatrix.records import Snapshot, Status
from separatrix.resources import Resources, usable_cores
from separatrix.store import Store, require_nothing_at
from separatrix.systems import build_system, resolve
from separatrix.validation import CONFIGURATIONS, SHOTS, Validation, validate

_MOST_STARTS = 16


class Session:
    """One run: samples, learns and stores, and can be watched while it does.

    Use `Session.create` for a new run and `Session.open` for one that is there. Any number of sessions may look at a
    run; only one at a time may run it, on whatever machine.

    Parameters
    ----------
    path : folder of the run

    Examples
    --------
    >>> session = Session.create("runs/ala", {"system": {"kind": "alanine-dipeptide"}})  # doctest: +SKIP
    >>> session.run(steps=1000)  # doctest: +SKIP
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.reader = Reader(self.path)
        self.config = self.reader.config
        # Sampling is waited for by this event and never by joining its thread: a join that Ctrl-C interrupts takes the
        # thread for ended (Python 3.11), and the process would exit under it.
        self._ended = threading.Event()
        self._ended.set()
        self._control = Control()
        self._loop: Loop | None = None
        self._error: BaseException | None = None

    @classmethod
    def create(
        cls,
        path: Path | str,
        config: RunConfig | Mapping[str, Any] | Path | str,
        *,
        where: str = "configuration",
        report: Callable[[EquilibrationProgress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Self:
        """Make a new run; nothing is simulated yet, but that water is equilibrated, which takes about a minute.

        Parameters
        ----------
        path : folder that does not exist yet, or is empty
        config : a configuration, plain data, or the path of a TOML file
        where : what to call plain data in error messages
        report : called some times a second while water is equilibrated; without it, a progress display is shown
        stop : set when that is to end early

        Raises
        ------
        ConfigError
            If the configuration is wrong; nothing is written then.
        EquilibrationStoppedError
            If ``stop`` was set in time; nothing is written then.
        SeedingError
            If it names a trajectory that gives no first path; nothing is written then.
        RunExistsError
            If there is something at this path.
        """
        resolved = cls.resolve(config, where=where)
        path = Path(path).absolute()
        require_nothing_at(path)
        system = build_system(resolved)
        observables = Observables(resolved, atoms_of(system.topology))
        observables.check_starts(system.starts)
        seed_paths = own_seed_paths(resolved, system, observables)
        if not seed_paths:
            with EquilibrationDisplay() as display:
                system = equilibrate(system, resolved, report=report or display.report, stop=stop)
        system_xml, topology_pdb = serialize(system.openmm_system, system.topology, next(iter(system.starts.values())))
        store = Store.create(
            path,
            config_toml=resolved.to_toml(),
            system_xml=system_xml,
            topology_pdb=topology_pdb,
            starts=_kept_starts(observables, system.starts),
            feature_names=observables.descriptors.names,
            cv_names=observables.columns.names,
            state_names=observables.states.names,
        )
        with store:
            store.log("created", config=resolved.content_hash)
            if seed_paths:
                write_seed_paths(store, range(resolved.sampling.chains), seed_paths)
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a run that is there.

        Parameters
        ----------
        path : folder of the run

        Raises
        ------
        RunNotFoundError
            If there is none at this path.
        """
        return cls(path)

    @staticmethod
    def resolve(config: RunConfig | Mapping[str, Any] | Path | str, *, where: str = "configuration") -> RunConfig:
        """Return a whole configuration: what is given, and the catalogue's values for the rest.

        Relative paths in a TOML file begin at its folder, others at the working directory.

        Parameters
        ----------
        config : a configuration, its data, or the path of a TOML file
        where : the data are from, to begin an error

        Raises
        ------
        ConfigError
            If it is wrong.
        """
        if isinstance(config, RunConfig):
            data, folder = config.model_dump(mode="json", exclude_none=True), Path()
        elif isinstance(config, Mapping):
            data, folder = dict(config), Path()
        else:
            data, folder, where = read_toml(Path(config)), Path(config).parent, str(config)
        return resolve(anchored(data, folder), where=where)

    @property
    def status(self) -> Status:
        """An immutable picture of the run, as fresh as can be had."""
        return self._loop.status if self._loop is not None else self.reader.status()

    @property
    def running(self) -> bool:
        """Whether it samples in the background now, or is paused in it."""
        return not self._ended.is_set()

    def run(self, steps: int | None = None, *, progress: bool = True, **resources: Any) -> Status:
        """Sample until the run holds ``steps`` Monte Carlo steps in total, and return how it stands then.

        Parameters
        ----------
        steps : trials summed over chains, those already stored included; ``sampling.steps`` by default
        progress : show a progress display
        resources : what it may use: workers, platform, devices and more, see `separatrix.resources.Resources`

        Raises
        ------
        SeparatrixError
            If the run cannot start or go on; what is stored stays stored.
        KeyboardInterrupt
            After Ctrl-C, when everything is committed.
        """
        try:
            self.start(steps, **resources)
            if progress:
                with ProgressDisplay(lambda: self.status, self.config):
                    self.wait()
            else:
                self.wait()
        except KeyboardInterrupt:
            self._control.stop()
            while self.running:
                with contextlib.suppress(KeyboardInterrupt):  # the impatient get their commit, too
                    self._ended.wait()
            raise
        return self.status

    def start(self, steps: int | None = None, **resources: Any) -> None:
        """Sample in the background.

        Parameters
        ----------
        steps : trials summed over chains, those already stored included; ``sampling.steps`` by default
        resources : what it may use: workers, platform, devices and more, see `separatrix.resources.Resources`

        Raises
        ------
        SeparatrixError
            If the session is running already, another process writes this run, or it was made from a table.
        """
        if self.config.table is not None:
            raise ConfigError(f"{self.path}: {NOTHING_MOVES}")
        if self.running:
            raise SeparatrixError(f"{self.path} is running already; pause or stop it first")
        if steps is not None and steps < 0:
            raise ConfigError(f"steps: expected 0 or more, got {steps}")
        allowed = Resources(**resources)
        check_resources(allowed)
        target = self.config.sampling.steps if steps is None else steps
        self._control, self._error = Control(), None
        store = Store.open(self.path, writable=True)
        try:
            alone = allowed.workers == 0 or usable_cores() == 1  # nobody to spare, nor half a GB
            analyst = None if alone else self._analyst()
            self._loop = Loop(store, self.config, target, allowed, self._control, analyst)
        except BaseException:
            store.close()
            raise
        ended = threading.Event()
        threading.Thread(target=self._work, args=(self._loop, ended), name=f"session {self.path.name}").start()
        self._ended = ended

    def _analyst(self) -> Analyst | None:
        """Return who finds out about the mechanism while this session samples; formulas are for two states."""
        analysis = self.config.analysis
        if not analysis.every or len(self.config.states) != 2:
            return None
        known = insights(self.path)
        n_shots = int(known[-1]["n_shots"]) if known else 0
        return Analyst(analysis.every, partial(gain_insight, self.path, analysis.generations), n_shots)

    def explain(
        self,
        *,
        inputs: int | None = None,
        seed: int = 0,
        generations: int = GENERATIONS,
        workers: int | None = None,
        progress: bool = True,
    ) -> Mechanism:
        """Rank the inputs of the newest committor and fit formulas to the shots; the result is stored in the run.

        Sampling may go on meanwhile. Ctrl-C ends the search early and keeps what was found.

        Parameters
        ----------
        inputs : how many columns formulas may be made of; by default those above the noise line, five at most
        seed : the same seed, shots and settings give the same result
        generations : how long to search for formulas at most
        workers : threads of the search; one per core by default
        progress : show a progress display

        Raises
        ------
        AnalysisError
            If there is no trained committor, more than two states, too few shots, or a number is out of range.
        """
        stop = threading.Event()
        with SearchDisplay(stop) if progress else contextlib.nullcontext() as display:
            return explain(
                self.path,
                inputs=inputs,
                seed=seed,
                generations=generations,
                workers=workers,
                report=display.report if display is not None else None,
                stop=stop,
            )

    def validate(
        self,
        *,
        configurations: int = CONFIGURATIONS,
        shots: int = SHOTS,
        seed: int = 0,
        progress: bool = True,
        **resources: Any,
    ) -> Validation:
        """Shoot trajectories from configurations spread over predicted p_B, and hold the predictions against them.

        All is stored in the run. The same ``configurations`` and ``seed`` go on with what is there, until it holds
        ``shots`` trajectories from each configuration in total; others begin a validation beside it. Ctrl-C commits
        and returns what there is.

        Parameters
        ----------
        configurations, shots : how many, and how many trajectories from each of them
        seed : of the configurations and the trajectories
        progress : show a progress display
        resources : what it may use: workers, platform and more, see `separatrix.resources.Resources`

        Raises
        ------
        AnalysisError
            If there is no trained committor, more than two states, too few frames, or a number is out of range.
        RunLockedError
            If this or another process samples the run now.
        """
        stop = threading.Event()
        with ShootingDisplay(stop) if progress else contextlib.nullcontext() as display:
            return validate(
                self.path,
                configurations=configurations,
                shots=shots,
                seed=seed,
                report=display.report if display is not None else None,
                stop=stop,
                **resources,
            )

    def pause(self) -> None:
        """Finish the shots in flight, commit, and wait for `resume`; the workers stay alive."""
        self._control.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._control.resume()

    def stop(self) -> None:
        """Commit, end the workers and wait until that is done; shots in flight get a few seconds to finish."""
        self._control.stop()
        self._ended.wait()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until sampling has ended; return whether it has.

        Parameters
        ----------
        timeout : seconds to wait at most; for ever by default

        Raises
        ------
        SeparatrixError
            What ended it, if that was an error.
        """
        if not self._ended.wait(timeout):
            return False
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return True

    def _work(self, loop: Loop, ended: threading.Event) -> None:
        try:
            loop.run()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        finally:
            ended.set()


def _kept_starts(observables: Observables, starts: Mapping[str, Snapshot]) -> Mapping[str, Snapshot]:
    """Return the starts that are stored with a run: all of a few; of many, as in a trajectory, one in each state."""
    if len(starts) <= _MOST_STARTS:
        return starts
    return observables.starts_in_states(starts) or dict([next(iter(starts.items()))])
