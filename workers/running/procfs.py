"""Read what the kernel knows about a process and its threads: CPU time, memory, and what a thread waits for.

Most of this is in Linux's /proc. Each file is opened anew each time: a job may close our descriptors, and then a number
that was kept may be another file's. A value that cannot be read is None, never zero.
"""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

RUSAGE_THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)  # Linux only
PAGE_KB = resource.getpagesize() // 1024


class MemoryReading(NamedTuple):
    """The memory of one run, in kB: growth is what stayed afterwards, peak the most above the start; None: unknown."""

    growth: int
    peak: int | None


class Clocks(NamedTuple):
    """CPU seconds of the thread (own) and the process, and the thread's voluntary context switches."""

    own: float
    process: float
    switches: int | None  # None: this system does not count them for each thread


def process_clocks() -> Clocks:
    """Read the clocks of this process, including its threads and its subprocesses that have ended. For a process with
    one slot."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() + ended.ru_utime + ended.ru_stime
    return Clocks(cpu, cpu, None)


def thread_clocks() -> Clocks:
    """Read the clocks of this thread. For a process with several slots."""
    # not getrusage's CPU time: that is only brought up to date at a clock tick or a context switch
    switches = None if RUSAGE_THREAD is None else resource.getrusage(RUSAGE_THREAD).ru_nvcsw
    return Clocks(time.thread_time(), time.process_time(), switches)


FUTEX = {"x86_64": b"202", "aarch64": b"98", "riscv64": b"98"}.get(platform.machine())


def waits_outside(thread: int) -> bool | None:
    """Return whether a thread of this process waits in the kernel for something else than a futex; None: unknown.

    /proc/self/task/T/syscall holds "running", or the number of the system call that the thread is in. Threads of the
    same process may read it without privileges; macOS, gVisor and some kernels do not have it.
    """
    try:
        with open(f"/proc/self/task/{thread}/syscall", "rb", buffering=0) as f:
            call = f.read(32).split(b" ", 1)[0].strip()
    except OSError:
        return None
    return None if FUTEX is None else call not in (b"running", b"-1", FUTEX)


def queued_for_a_core(thread: int) -> float | None:
    """Return for how many seconds a thread of this process could run but had no core (/proc/self/task/T/schedstat);
    None where the kernel does not count them."""
    try:
        with open(f"/proc/self/task/{thread}/schedstat", "rb", buffering=0) as f:
            return int(f.read(100).split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return None


class MemoryMeter:
    """Measure the memory of one run, in a process that runs one job at a time. ``begin`` and ``end`` together take
    about 25 µs."""

    def __init__(self) -> None:
        self._before: int | None = None

    def begin(self) -> None:
        self._resets = _reset_peak()
        self._before = _try(_rss_kb)

    def end(self) -> MemoryReading | None:
        """Return the reading; None: there is no /proc, or a part of it is missing (hardened containers, gVisor)."""
        before, after = self._before, _try(_rss_kb)
        if before is None or after is None:
            return None
        peak = _try(_peak_kb) if self._resets else None
        # the kernel updates its peak late, so it may be below the present size
        return MemoryReading(after - before, None if peak is None else max(0, after - before, peak - before))


def _try(read: Callable[[], int]) -> int | None:
    try:
        return read()
    except (OSError, ValueError, IndexError):
        return None


def _rss_kb() -> int:
    with open("/proc/self/statm", "rb", buffering=0) as f:
        return int(f.read(200).split()[1]) * PAGE_KB


def _peak_kb() -> int:
    with open("/proc/self/status", "rb", buffering=0) as f:
        text: bytes = f.read(4096)
    at = text.index(b"VmHWM:") + 6
    return int(text[at : text.index(b"kB", at)])


def _reset_peak() -> bool:
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as f:
            f.write(b"5")
        return True
    except OSError:
        return False
