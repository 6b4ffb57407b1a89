"""Start the processes whose speed is measured: a real worker with a queue of its own, or a bare process without one.

Both are started once per width, do the jobs of all tasks there, and are read from outside: wall, CPU and memory of the
whole process tree.
"""

from __future__ import annotations

import json
import queue as queues
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from jobqueue.compare.bare import cycled
from jobqueue.compare.figures import MIXED, Sample, Work, shape
from jobqueue.compare.measure import CpuMeter, TreeMemory, memory_of, tree
from jobqueue.compare.measured_queue import MeasuredQueue
from jobqueue.errors import JobqError, signal_name
from jobqueue.executor.worker_process import WorkerProcess
from jobqueue.harness.processes import GRACE

TRIALS = "jobqueue.compare.trials"
PRESENT = 0.05  # seconds that the first job of each consumer takes, so that each consumer gets exactly one
BOOT_LIMIT = 30.0
MOST_DURATIONS = 1000  # at most so many jobs of a run have their times read back


class CandidateFailed(JobqError):
    """A worker or a bare process ended by itself; the message has its last line of output."""


class TooSlow(JobqError):
    """The jobs did not end within the time limit."""

    def __init__(self, jobs: int) -> None:
        super().__init__(f"{jobs:,} jobs did not end in the time that there was.")
        self.jobs = jobs


@dataclass(frozen=True)
class Surroundings:
    """What all processes of a comparison are started with. modules: what the workers serve, besides the trials."""

    env: Mapping[str, str]
    directory: Path
    modules: tuple[str, ...] = ()


class Candidate(Protocol):
    """A started worker or bare process of one mode and width."""

    mode: str
    workers: int
    startup: float
    gil: bool  # whether the GIL is on in its processes

    def run(self, work: Work, jobs: int, deadline: float) -> Sample: ...
    def memory(self) -> TreeMemory: ...
    def close(self) -> None: ...


# -- through the queue ---------------------------------------------------------------------------------------------


class WorkerCandidate:
    """A `jobq worker` on a private queue. ``close`` may be repeated."""

    def __init__(self, mode: str, workers: int, around: Surroundings, queue: MeasuredQueue) -> None:
        self.mode, self.workers, self.queue = mode, workers, queue
        self.log = around.directory / f"{queue.name}.log"
        self.startup, self.gil = 0.0, True
        processes, threads = shape(workers) if mode == MIXED else (workers, 0)
        self._worker = WorkerProcess(
            [queue.name],
            mode="process" if threads else mode,
            number=processes,
            modules=[TRIALS, *around.modules],
            flags=["--allow-private", "--no-scheduler", *(["--threads", str(threads)] if threads else [])],
            env=around.env,
            log=self.log,
            grace=GRACE,
            directory=around.directory,
        )
        self._began = time.monotonic()
        self._worker.start()

    def boot(self) -> None:
        """Wait until every consumer has done a job. Raises CandidateFailed."""
        ids = self.queue.submit(f"{TRIALS}:present", [(PRESENT,)] * self.workers)
        if not self.queue.wait(len(ids), time.monotonic() + BOOT_LIMIT, self.check):
            raise CandidateFailed(f"The {self.mode} worker was not ready after {BOOT_LIMIT:g} s: {self.last_words()}")
        self.startup = time.monotonic() - self._began - PRESENT
        self.gil = any(one["gil"] for one in self.queue.results(ids))
        self.queue.forget_jobs()

    def run(
        self,
        work: Work,
        jobs: int,
        deadline: float,
        tell: Callable[[int], None] | None = None,
        take: Callable[[Iterator[Any]], None] | None = None,
    ) -> Sample:
        """Submit the jobs and wait until all have ended. Raises TooSlow at the deadline, CandidateFailed.

        tell: called again and again with the number of jobs that have ended; take: called with the results when all
        have ended, and may raise what Job.result() raises.
        """
        meter, began = CpuMeter(self._worker.pid), time.monotonic()
        ids = self.queue.submit(work.name, cycled(work.argses, jobs), work.kwargs)
        if not self.queue.wait(jobs, deadline, self.check, tell):
            raise TooSlow(jobs)
        wall = time.monotonic() - began
        cpu, _ = meter.lap()
        try:
            if take:
                take(self.queue.results(ids, max(0.1, deadline - time.monotonic())))
            failed = [i for i, status in zip(ids, self.queue.statuses(ids), strict=True) if status != "finished"]
            some = ids[:: -(-jobs // MOST_DURATIONS)]
            error = self.queue.why(failed[0]) if failed else None
            return Sample(jobs, wall, cpu, self.queue.durations(some), len(failed), error)
        finally:
            self.queue.forget_jobs()

    def memory(self) -> TreeMemory:
        return memory_of(self._worker.pid)

    @property
    def pid(self) -> int:
        return self._worker.pid

    def check(self) -> None:
        """Raise CandidateFailed if the worker has ended: waiting for its jobs would not notice."""
        if (code := self._worker.exit_code) is not None:
            raise CandidateFailed(f"The {self.mode} worker left with exit code {code}: {self.last_words()}")

    def last_words(self) -> str:
        return self._worker.last_words()

    def close(self) -> None:
        try:
            self.queue.note_workers()
        finally:
            self._worker.stop()


# -- without a queue -----------------------------------------------------------------------------------------------


class BareCandidate:
    """A process with a plain loop or a pool. It reads requests from stdin and answers on stdout."""

    def __init__(self, mode: str, workers: int, around: Surroundings) -> None:
        self.mode, self.workers, self._around = mode, workers, around
        self.log = around.directory / f"{mode}-{workers}-{time.monotonic_ns()}.log"
        self.gil = True
        self.startup = 0.0
        self._start()

    def _start(self) -> None:
        self._began = time.monotonic()
        command = [sys.executable, "-P", "-m", "jobqueue.compare.bare", self.mode, str(self.workers)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self._around.directory)],
                env={**self._around.env, "JOBQ_ALLOW_PRIVATE": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        self._answers: queues.SimpleQueue[str] = queues.SimpleQueue()
        threading.Thread(target=self._listen, args=(self.process, self._answers), daemon=True).start()

    def restart(self) -> None:
        """Start the process again after a job has ended it."""
        self.close()
        self._start()

    def boot(self) -> None:
        """Wait until every consumer has done a job. Raises CandidateFailed."""
        jobs = 1 if self.mode == "loop" else self.workers
        self.run(Work("present", f"{TRIALS}.present", ((PRESENT,),)), jobs, time.monotonic() + BOOT_LIMIT)
        self.startup = time.monotonic() - self._began - PRESENT

    def run(self, work: Work, jobs: int, deadline: float) -> Sample:
        """Let the process run the jobs. Raises TooSlow at the deadline (close the candidate then), CandidateFailed."""
        meter = CpuMeter(self.process.pid)
        said = self._ask({"task": work.name, "argses": work.argses, "kwargs": work.kwargs, "jobs": jobs}, deadline)
        cpu = said["cpu"] if self.mode == "loop" else meter.lap()[0]
        self.gil = said["gil"]
        return Sample(jobs, said["wall"], cpu, said["latencies"], said["failed"], said["error"], said["starved"])

    def _ask(self, question: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queues.Empty:
            raise TooSlow(question["jobs"]) from None
        except BrokenPipeError:
            line = ""
        if not line:
            raise CandidateFailed(f"its process {_ended(self.process.wait())}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @staticmethod
    def _listen(process: subprocess.Popen[str], answers: queues.SimpleQueue[str]) -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                answers.put(line)
        answers.put("")

    def memory(self) -> TreeMemory:
        return memory_of(self.process.pid)

    def close(self) -> None:
        """Kill the process and everything that it started."""
        family = tree(self.process.pid)
        self.process.kill()
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                pass
        self.process.wait()
        assert self.process.stdin
        try:
            self.process.stdin.close()
        except BrokenPipeError:  # the process ended before it had read the request
            pass


def _ended(code: int) -> str:

    return f"was killed by {signal_name(-code)}" if code < 0 else f"left with exit code {code}"


# -- the GIL, and the modules to serve ----------------------------------------------------------------------------


_TURNED_ON = re.compile(r"The global interpreter lock \(GIL\) has been enabled to load module '([^']+)'")


def gil_turned_on_by(text: str) -> list[str]:
    """Return the modules that turned the GIL on again, from the RuntimeWarnings of a free-threaded Python in
    ``text``."""
    return list(dict.fromkeys(_TURNED_ON.findall(text)))


def _home(name: str) -> str:
    """Return the longest part of a dotted name that is an imported module: the name may be that of a class's method."""
    bits = name.split(".")
    return next((home for i in range(len(bits) - 1, 0, -1) if (home := ".".join(bits[:i])) in sys.modules), "")


def modules_for(names: Sequence[str]) -> tuple[str, ...]:
    """Return the modules to serve for these functions: those in their names, and those that define them."""
    from jobqueue.producing import catalog

    found = []
    for name in names:
        task = catalog.resolve(name)  # imports it
        found += [_home(name), getattr(task, "__module__", None) or ""]
    return tuple(dict.fromkeys(module for module in found if module and module != "jobqueue.tasks"))
