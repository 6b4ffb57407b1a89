"""The processes that a job started: found, and ended with it when it is stopped, out of time, or killed.

A child leads a session of its own, and what its job starts is found by descent, by that session, by the mark that
programs inherit in their environment, and by the word that forked copies leave (``Forks``): so daemons are found too,
which left both their parent and the session. What was started before the job is somebody else's, and so is what a job
left behind that ended by itself. Among several slots only what the job's own thread started is known to be its own.

They are frozen first and killed then: what is about to fork is found in the next look. Where there is no /proc (macOS),
psutil tells of processes, and daemons and the threads' own processes are not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from jobqueue.clock import monotonic

log = logging.getLogger(__name__)

MARK = "JOBQ_OWNER"  # in the environment of what jobs start: the child's name, one per incarnation
PR_SET_CHILD_SUBREAPER = 36
SLACK = 0.02  # seconds; the kernel notes the start of a process in hundredths
LOOKS = 50  # at most: who forks faster than it can be frozen is left with what was found
# What a terminal, systemd or a container may send to all processes of a tree: the supervisor decides, all others wait.
TO_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """One line of the process table."""

    parent: int
    session: int
    started: int  # ticks after the boot; 0 where the kernel does not tell
    age: float  # seconds
    is_dead: bool  # not collected yet


def table() -> dict[int, Process]:
    """Return all processes, by pid; none where they cannot be listed: a job has taken all file descriptors, or there is
    no /proc."""
    if not sys.platform.startswith("linux"):
        return _table_by_psutil()
    now, found = time.clock_gettime(time.CLOCK_BOOTTIME), {}
    try:
        names = os.listdir("/proc")
    except OSError as e:
        log.warning("the processes of this machine cannot be listed (%s): what a job started may live on", e)
        return {}
    for name in names:
        if name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                fields = _fields(name)
                started = int(fields[19])
                age, dead = now - started / _TICK, fields[0] in (b"Z", b"X")
                found[int(name)] = Process(int(fields[1]), int(fields[3]), started, age, dead)
    return found


def _fields(pid: str) -> list[bytes]:
    """Of /proc/PID/stat, behind the name."""
    text = Path("/proc", pid, "stat").read_bytes()
    return text[text.rindex(b")") + 2 :].split()


def _table_by_psutil() -> dict[int, Process]:
    now, found = time.time(), {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            dead = process.status() == psutil.STATUS_ZOMBIE
            age = now - process.create_time()
            found[process.pid] = Process(process.ppid(), os.getsid(process.pid), 0, age, dead)
    return found


class Forks:
    """Which processes were forked below a child, written by themselves: a program that is started has the mark in its
    environment, a mere fork has not. Shared with the process that forked the child, which may have to look after its
    death. A word has the pid and the start, or a later process of that pid would be taken for it; there is one for each
    remainder of a pid, and a later fork may take the place of an earlier one."""

    WORDS = 2048

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 8 * self.WORDS)
        self._words = memoryview(self._map).cast("Q")

    def watch(self) -> None:
        """(child) From now on all that ``os.fork`` makes here, or below, leaves its pid."""
        global _here
        _here = self
        os.register_at_fork(after_in_child=self._note)

    def _note(self) -> None:
        pid = os.getpid()
        with contextlib.suppress(OSError):  # no /proc
            self._words[pid % self.WORDS] = pid << 40 | int(_fields("self")[19])

    def has(self, pid: int, process: Process) -> bool:
        return self._words[pid % self.WORDS] == pid << 40 | process.started


_here: Forks | None = None  # of this very process, if it is a child


class OfProcess:
    """What was started by a child that runs one job at a time, or by all jobs of one that is gone."""

    def __init__(self, pid: int, name: str, forks: Forks | None) -> None:
        """name: the one in the mark."""
        self._pid = pid
        self._mark = f"{MARK}={name}".encode()
        self._forks = forks

    @classmethod
    def here(cls, name: str) -> OfProcess:
        return cls(os.getpid(), name, _here)

    def __call__(self, processes: Mapping[int, Process], age: float) -> set[int]:
        young = {pid: p for pid, p in processes.items() if p.age <= age and pid != self._pid and not p.is_dead}
        roots = {pid for pid, p in young.items() if self._pid in (p.parent, p.session) or self._is_marked(pid, p)}
        return _with_descendants(roots, processes) & young.keys() - {os.getpid()}

    def _is_marked(self, pid: int, process: Process) -> bool:
        if self._forks is not None and self._forks.has(pid, process):
            return True
        try:
            return self._mark in Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            return False


class OfThread:
    """What was started by the thread in which this is made."""

    def __init__(self) -> None:
        self._list = Path(f"/proc/self/task/{threading.get_native_id()}/children")

    def __call__(self, processes: Mapping[int, Process], age: float) -> set[int]:
        try:
            children = {int(pid) for pid in self._list.read_text().split()}
        except OSError:  # no such list here, or no such thread any more
            return set()
        found = _with_descendants(children & processes.keys(), processes)
        return {pid for pid in found if processes[pid].age <= age and not processes[pid].is_dead}


def _with_descendants(roots: Iterable[int], processes: Mapping[int, Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found, waiting = set[int](), list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


Find = Callable[[Mapping[int, Process], float], set[int]]


def end_processes(find: Find, since: float) -> int:
    """Kill what ``find`` finds and what was started at ``since`` (monotonic seconds) or later; return how many."""
    frozen = set[int]()
    for _ in range(LOOKS):
        new = find(table(), monotonic() - since + SLACK) - frozen
        if not new:
            break
        frozen |= new
        _signal(new, signal.SIGSTOP)
    _signal(frozen, signal.SIGKILL)
    return len(frozen)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


# -- orphans ---------------------------------------------------------------------------------------------------------


def adopt_orphans() -> None:
    """Become the parent of what loses its own below this process, instead of init. (Elsewhere they go to init.)"""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def collect_orphans(own: set[int]) -> None:
    """Collect the dead children of this process that are not its ``own``: it adopted them, or it is process 1."""
    me = os.getpid()
    for pid, process in table().items():
        if process.parent == me and process.is_dead and pid not in own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
