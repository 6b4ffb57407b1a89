"""What the kernel knows about a process and its threads: CPU time, memory, and what a thread waits for.

Most of it is Linux's /proc, opened anew each time: a job that closes and reuses descriptors must not be read, let alone
written into. What cannot be had is None, never zero.
"""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

RUSAGE_THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)  # Linux's
PAGE_KB = resource.getpagesize() // 1024


class MemoryReading(NamedTuple):
    """Of one run, in kB: what stayed, and how much more than before there was at its height."""

    growth: int
    peak: int | None


class Clocks(NamedTuple):
    """CPU seconds, and how often the thread went to sleep by itself."""

    own: float
    process: float
    switches: int | None  # None: this system does not count them per thread


def process_clocks() -> Clocks:
    """Of this process, its threads and its subprocesses that have ended; nobody else is here."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() + ended.ru_utime + ended.ru_stime
    return Clocks(cpu, cpu, None)


def thread_clocks() -> Clocks:
    """Of this thread, beside others."""
    # not getrusage's CPU time: it is as of the last tick or context switch, often one that a short run has made itself
    switches = None if RUSAGE_THREAD is None else resource.getrusage(RUSAGE_THREAD).ru_nvcsw
    return Clocks(time.thread_time(), time.process_time(), switches)


FUTEX = {"x86_64": b"202", "aarch64": b"98", "riscv64": b"98"}.get(platform.machine())


def waits_outside(thread: int) -> bool | None:
    """Tell whether a thread of this process waits in the kernel, but not on a futex; None: nobody can tell.

    /proc/self/task/T/syscall holds "running", or the number of the system call that the thread is in. The kernel shows
    it to threads of the same process without any privilege; macOS, gVisor and some kernels do not have it.
    """
    try:
        with open(f"/proc/self/task/{thread}/syscall", "rb", buffering=0) as f:
            call = f.read(32).split(b" ", 1)[0].strip()
    except OSError:
        return None
    return None if FUTEX is None else call not in (b"running", b"-1", FUTEX)


def queued_for_a_core(thread: int) -> float | None:
    """Seconds that a thread of this process was able to run and had no core (/proc/self/task/T/schedstat); None where
    the kernel does not count them."""
    try:
        with open(f"/proc/self/task/{thread}/schedstat", "rb", buffering=0) as f:
            return int(f.read(100).split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return None


class MemoryMeter:
    """Weighs one run of a process that runs one job at a time. About 25 µs for both ends."""

    def __init__(self) -> None:
        self._before: int | None = None

    def begin(self) -> None:
        self._resets = _reset_peak()
        self._before = _try(_rss_kb)

    def end(self) -> MemoryReading | None:
        """None: there is no /proc, or not all of it (hardened containers, gVisor)."""
        before, after = self._before, _try(_rss_kb)
        if before is None or after is None:
            return None
        peak = _try(_peak_kb) if self._resets else None
        # the kernel takes the peak into its books late, so it may stand below what we see
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
