"""Find the processes that a job started, and end them with it when it is stopped, past its time limit, or killed.

Each child leads a session. The processes that its job started are found by their parents, by that session, by the mark
that programs inherit in their environment, and by a note that forked copies leave (``Forks``). So daemons are found
too, which have left both their parent and the session. Processes that were started before the job are not its own, nor
are those that an earlier job left running. With several slots, only processes that the job's own thread started are
known to be its own.

The processes are stopped first, then killed: one that is just forking is found in the next round. Where there is no
/proc (macOS), psutil lists processes, and daemons and the processes of single threads are not found.
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

from jobqueue.clock import monotonic

log = logging.getLogger(__name__)

MARK = "JOBQ_OWNER"  # the variable in the environment of jobs' programs: the child's owner name
PR_SET_CHILD_SUBREAPER = 36
SLACK = 0.02  # seconds; the kernel stores the start of a process in hundredths of a second
LOOKS = 50  # rounds at most, for processes that fork faster than they can be stopped
# Signals that a terminal, systemd or a container may send to all processes of a tree: only the supervisor acts on them.
TO_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """One line of the process table."""

    parent: int
    session: int
    started: int  # ticks after the boot; 0: the system does not tell
    age: float  # seconds
    is_dead: bool  # its parent has not collected it yet


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
    """Return the fields of /proc/PID/stat after the name."""
    text = Path("/proc", pid, "stat").read_bytes()
    return text[text.rindex(b")") + 2 :].split()


def _table_by_psutil() -> dict[int, Process]:
    import psutil  # imported here: 1.2 MB, which no worker on Linux needs

    now, found = time.time(), {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            dead = process.status() == psutil.STATUS_ZOMBIE
            age = now - process.create_time()
            found[process.pid] = Process(process.ppid(), os.getsid(process.pid), 0, age, dead)
    return found


class Forks:
    """The processes that were forked below a child, noted by themselves: a program has the mark in its environment, a
    forked copy has not. The memory is shared with the process that forked the child, which reads it after the child's
    death. A word has the pid and the start, so that a later process of this pid is not taken for it. There is one word
    for each remainder of a pid, so a later fork may overwrite an earlier one."""

    WORDS = 2048

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 8 * self.WORDS)
        self._words = memoryview(self._map).cast("Q")

    def watch(self) -> None:
        """Have each process that ``os.fork`` makes here, or below, note its pid from now on. The child calls this."""
        global _here
        _here = self
        os.register_at_fork(after_in_child=self._note)

    def _note(self) -> None:
        pid = os.getpid()
        with contextlib.suppress(OSError):  # no /proc
            self._words[pid % self.WORDS] = pid << 40 | int(_fields("self")[19])

    def has(self, pid: int, process: Process) -> bool:
        return self._words[pid % self.WORDS] == pid << 40 | process.started


_here: Forks | None = None  # those of this process, if it is a child


class OfProcess:
    """Find what a child that runs one job at a time has started, or what all jobs of a dead child have started."""

    def __init__(self, pid: int, name: str, forks: Forks | None) -> None:
        """name: the owner name in the mark."""
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
    """Find what the thread has started in which this object is made."""

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
    """Kill the processes that ``find`` finds and that were started at ``since`` (monotonic seconds) or later; return
    how many."""
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
    """Become the parent of descendants whose own parent ends; on other systems than Linux, init does."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def collect_orphans(own: set[int]) -> None:
    """Collect the dead children of this process that are not its ``own``: those that it adopted, or got as process
    1."""
    me = os.getpid()
    for pid, process in table().items():
        if process.parent == me and process.is_dead and pid not in own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
