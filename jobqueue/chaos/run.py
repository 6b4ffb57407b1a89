"""Run chaos: per mode, start two worker trees on queues of their own, submit jobs, kill, count; leave nothing behind.

    temporary directory ─► the user's store, or one started for the run ─► for each mode:
        two `jobq worker` trees ─► all jobs submitted ─► storm ─► all ended, or out of time ─► trees stopped ─► counted
        ─► everything that the run wrote into the store deleted

Every step is a context manager, and the first signal unwinds them all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobqueue.chaos import plan
from jobqueue.chaos.count import ChaosCounts, Spread
from jobqueue.chaos.ledger import Ledger
from jobqueue.chaos.plan import ChaosOptions
from jobqueue.chaos.storm import Storm
from jobqueue.chaos.trees import Forest
from jobqueue.harness.processes import environment, run_directory
from jobqueue.harness.store import opened, refuse_suspended
from jobqueue.store import config
from jobqueue.store.open import Store

# Seconds. Only in the run's own store: elsewhere a short lease would declare living trees of others dead.
OWN_LEASE = "2"


@dataclass(frozen=True)
class StormResult:
    """All figures of one mode. seconds: from the first job's submit until the last one's end."""

    mode: str
    tally: ChaosCounts
    kills: Mapping[str, int]
    wanted: int
    recovery_ms: Spread
    supervisor_recovery_s: Spread
    worker_exits: int
    seconds: float


class ChaosScreen(Protocol):
    """Receives the progress of a storm."""

    def ready(self, store: str, options: ChaosOptions) -> None: ...
    def mode_begins(self, mode: str, options: ChaosOptions) -> None: ...
    def progress(self, ended: int, kills: int) -> None: ...
    def mode_ends(self) -> None: ...


def run(options: ChaosOptions, screen: ChaosScreen, logs: Path | None = None) -> list[StormResult]:
    """Storm each mode and return a StormResult per mode; the workers' logs go to the directory ``logs``, if given.

    Raises ChaosFailed and StoreErrors; Ctrl-C raises one KeyboardInterrupt.
    """
    with run_directory("jobq-chaos-") as directory, store_for(options.url, directory) as (store, env):
        refuse_suspended(store)
        screen.ready(store.describe(), options)
        return [Act(mode, options, store, env, screen, directory, logs).outcome() for mode in options.modes]


@contextmanager
def store_for(url: str | None, directory: Path) -> Iterator[tuple[Store, dict[str, str]]]:
    """Open the user's store, or start one for the run; yield it and the environment of the workers."""
    found, _ = config.resolve_url(url)
    env = environment(directory)
    with opened(found, env if found else {"JOBQ_LEASE": OWN_LEASE} | env) as (store, env):
        yield store, env


class Act:
    """The storm in one mode: trees, jobs, kills, counts."""

    def __init__(
        self,
        mode: str,
        options: ChaosOptions,
        store: Store,
        env: Mapping[str, str],
        screen: ChaosScreen,
        directory: Path,
        logs: Path | None,
    ) -> None:
        self._mode, self._options, self._store, self._env = mode, options, store, env
        self._screen = screen
        self._log = directory / f"{mode}.log"
        self._keep = logs
        self._plan = plan.kills(options, mode, own_store=store.local is not None)

    def outcome(self) -> StormResult:
        self._screen.mode_begins(self._mode, self._options)
        try:
            with closing(Ledger(self._store, self._options.queues)) as ledger:
                try:
                    return self._storm(ledger)
                finally:
                    ledger.clean()
        finally:
            self._screen.mode_ends()
            if self._keep and self._log.exists():
                self._keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(self._log, self._keep / self._log.name)

    def _storm(self, ledger: Ledger) -> StormResult:
        o = self._options
        with Forest(self._mode, ledger.queues, o.on_crash, self._env, self._log) as forest:
            storm = Storm(self._plan, o.seconds, forest, ledger, self._store)
            try:
                seconds = self._blow(storm, ledger)
            finally:
                ledger.note_workers()  # before they stop: a worker that stops takes its name off the list
        return StormResult(
            mode=self._mode,
            tally=ledger.tally(),  # no worker runs any more
            kills={kind: storm.kills[kind] for kind in plan.KINDS},
            wanted=len(self._plan),
            recovery_ms=Spread.of((1000 * s for s in storm.recovery), 1),
            supervisor_recovery_s=Spread.of(storm.supervisor_recovery, 2),
            worker_exits=storm.exits,
            seconds=round(seconds, 1),
        )

    def _blow(self, storm: Storm, ledger: Ledger) -> float:
        """Boot the trees, submit the jobs, kill, wait for the end; return the seconds since the submit."""
        jobs = self._options.jobs
        storm.boot()
        began = time.monotonic()
        ledger.submit(plan.durations(self._options, self._mode))
        while storm.step(jobs):
            self._screen.progress(storm.ended, storm.kills.total())
        while storm.settle(jobs):
            self._screen.progress(storm.ended, storm.kills.total())
        return time.monotonic() - began
