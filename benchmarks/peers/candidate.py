"""One peer at one width: its driver, its worker, how both are started, frozen, and ended.

A plain pool (adapters/bare.py) has no worker: it runs in its driver, and a gate takes the place of the freezing.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from jobqueue.compare.measure import memory_of, tree
from jobqueue.harness.freezing import freeze, thaw
from jobqueue.harness.processes import kill
from peers.plan import Width
from peers.stamps import VARIABLE, Stamps, now

BOOT_LIMIT = 60.0  # seconds until all processes of a width have run a job
STILL_LIMIT = 30.0  # seconds without a job's end after which a run has failed
SETTLE = 1.0  # seconds from the warm-up to a tree that is idle
LOOK = 0.004
WARM_UP = 20_000  # numbers that the jobs of a warm-up get, at the end of the file


class PeerFailed(Exception):
    """This peer cannot be measured in this way; the message says why."""


class Peer:
    """A peer: its environment, and the driver that runs in it."""

    def __init__(self, name: str, bin_: Path, env: Mapping[str, str], url: str, stamps: Path, log: Path) -> None:
        self.name = name
        self._bin = bin_
        path = os.pathsep.join([str(bin_), env.get("PATH", "")])
        self._env = {**env, "PEERS_URL": url, VARIABLE: str(stamps), "PATH": path, "PYTHONDONTWRITEBYTECODE": "1",
                     "PYTHONPATH": str(Path(__file__).parents[1])}  # fmt: skip
        self._log = log
        self._driver: subprocess.Popen[str] | None = None
        self.said: dict[str, Any] = {}

    def start(self) -> None:
        """Start its driver and learn what it is. Raises PeerFailed."""
        command = [str(self._bin / "python"), "-m", "peers.driver", self.name]
        with self._log.open("ab") as log:
            self._driver = subprocess.Popen(
                command, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True, cwd=self._log.parent,
            )  # fmt: skip
        self.said = self.ask("describe")

    def ask(self, what: str, *args: Any) -> Any:
        """Let the driver do something and return what it says. Raises PeerFailed."""
        assert self._driver is not None
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        try:
            self._driver.stdin.write(json.dumps([what, *args]) + "\n")
            self._driver.stdin.flush()
            line = self._driver.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerFailed(f"its driver ended: {self.last_words()}")
        said = json.loads(line)
        if "error" in said:
            raise PeerFailed(f"{what}: {said['error']}")
        return said["said"]

    @property
    def is_pool(self) -> bool:
        return bool(self.said["pool"])

    @property
    def pid(self) -> int:
        """Its driver's."""
        assert self._driver is not None
        return self._driver.pid

    def launch(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a command of its environment."""
        program = self._bin / command[0]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(program), *command[1:]], env={**self._env, **env}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, cwd=self._log.parent,
            )  # fmt: skip

    def last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"

    def stop(self) -> None:
        if self._driver is not None:
            end([self._driver])
            self._driver = None


class Candidate:
    """A peer at work: the same few steps for every peer."""

    def __init__(self, peer: Peer, stamps: Stamps, roots: Sequence[subprocess.Popen[bytes]]) -> None:
        self.peer = peer
        self._stamps = stamps
        self._roots = roots

    # -- what it costs -------------------------------------------------------------------------------------------------

    def _pids(self) -> list[int]:
        return [self.peer.pid] if self.peer.is_pool else [root.pid for root in self._roots]

    def _processes(self) -> list[psutil.Process]:
        return [process for pid in self._pids() for process in tree(pid)]

    def cpu(self) -> float:
        """Return the CPU seconds so far of all its processes, and of those that they have waited for."""
        total = 0.0
        for process in self._processes():
            try:
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
            except psutil.NoSuchProcess:
                continue
        return total

    def pss(self) -> int:
        """Return the bytes of memory of all its processes; of shared memory, each process's part."""
        memory = [memory_of(pid) for pid in self._pids()]
        return sum(one.pss or one.uss for one in memory)

    # -- a run ---------------------------------------------------------------------------------------------------------

    def drain(self, task: str, jobs: int) -> tuple[int, int]:
        """Let the peer run a backlog that exists before it starts; return when it started and when the last job ended.

        Raises PeerFailed.
        """
        self.fill(task, jobs)
        began = self.go()
        self.wait(range(jobs))
        return began, self._stamps.last_end(range(jobs))

    def fill(self, task: str, jobs: int) -> None:
        """Stop its processes, and enqueue jobs, numbered from 0."""
        self._stamps.clear(range(jobs))
        if self.peer.is_pool:
            self._stamps.set_gate(False)
            self.peer.ask("hold_pool")
        else:
            for pid in self._pids():
                freeze(pid)
        self.peer.ask("fill", task, 0, jobs)

    def go(self) -> int:
        """Let its processes continue; return when that was."""
        began = now()
        if self.peer.is_pool:
            self._stamps.set_gate(True)
        else:
            for pid in self._pids():
                thaw(pid)
        return began

    def wait(self, numbers: range, until: float = float("inf"), patience: float = STILL_LIMIT) -> int:
        """Wait until all jobs have ended, or until this time (monotonic); return how many of the first have.

        Raises PeerFailed when none ends for ``patience`` seconds, or the worker is gone.
        """
        done, changed = 0, time.monotonic()
        while (at := self._stamps.first_missing(numbers, done)) < len(numbers) and time.monotonic() < until:
            if at > done:
                done, changed = at, time.monotonic()
            elif time.monotonic() - changed > patience:
                ended = self._stamps.ended(numbers)
                raise PeerFailed(f"{len(numbers) - ended} of {len(numbers)} jobs did not end: {self.peer.last_words()}")
            if any(root.poll() is not None for root in self._roots):
                raise PeerFailed(f"its worker ended: {self.peer.last_words()}")
            time.sleep(LOOK)
        return at

    def warm_up(self, width: Width) -> None:
        """Wait until each of its processes has run a job. Raises PeerFailed."""
        first, processes = self._stamps.records - WARM_UP, width.number if width.kind == "process" else 1
        deadline, jobs, seen = time.monotonic() + BOOT_LIMIT, max(2 * width.number, 4), set[int]()
        while len(seen) < processes:
            if time.monotonic() > deadline:
                raise PeerFailed(f"only {len(seen)} of its {processes} processes ran a job: {self.peer.last_words()}")
            numbers = range(first, first + jobs)
            self._stamps.clear(numbers)
            self.peer.ask("fill", "sleep", first, jobs)
            self.wait(numbers, patience=BOOT_LIMIT)
            seen |= {self._stamps.read(number)[2] for number in numbers}
            jobs = min(2 * jobs, 1000)
        time.sleep(SETTLE)


@contextmanager
def running(peer: Peer, width: Width, stamps: Stamps, task: str) -> Iterator[Candidate | None]:
    """Start the peer's worker at this width, for this task; None where it has no such width. Raises PeerFailed."""
    if peer.is_pool:
        peer.ask("open_pool", width.kind, width.number)
        try:
            yield Candidate(peer, stamps, [])
        finally:
            stamps.set_gate(True)
            peer.ask("close_pool")
        return
    starts = peer.ask("worker", width.kind, width.number, task)
    if not starts:
        yield None
        return
    roots: list[subprocess.Popen[bytes]] = []
    try:
        roots += [peer.launch(start["command"], start["env"]) for start in starts]
        candidate = Candidate(peer, stamps, roots)
        candidate.warm_up(width)
        yield candidate
    finally:
        end(roots)


def end(roots: Sequence[subprocess.Popen[Any]]) -> None:
    """Kill the processes and all that they started."""
    family = [process for root in roots for process in tree(root.pid)]
    for process in family:
        kill(process.pid)
    for root in roots:
        root.kill()
        root.wait()
        for pipe in (root.stdin, root.stdout):
            if pipe is not None:
                pipe.close()
    psutil.wait_procs(family, timeout=5)
