"""Measure the CPU time and the memory of a whole process tree from outside, by psutil."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """Return the process and all its living descendants; an empty list when the process is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass(frozen=True)
class TreeMemory:
    """The memory of a process tree in bytes. uss: pages of one process alone; pss: also its share of shared pages
    (Linux)."""

    uss: int
    pss: int | None


def memory_of(pid: int) -> TreeMemory:
    """Return the memory of the tree of ``pid`` as it is now."""
    uss, pss = 0, 0
    for process in tree(pid):
        try:
            full = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        uss += full.uss
        pss += getattr(full, "pss", 0)
    return TreeMemory(uss, pss or None)


class PeakMeter:
    """Measures how far the memory of a process rises above its present amount, in bytes (Linux)."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the kernel's peak value
            self._before = self._read("VmRSS")
        except OSError:
            self._before = None

    def read(self) -> int | None:
        """Return the rise so far in bytes; None where the system does not tell."""
        highest = None if self._before is None else self._read("VmHWM")
        return None if highest is None or self._before is None else max(0, highest - self._before)

    def _read(self, name: str) -> int | None:
        try:
            found = re.search(rf"^{name}:\s+(\d+) kB", self._status.read_text(), re.MULTILINE)
        except OSError:
            return None
        return int(found[1]) * 1024 if found else None


class CpuMeter:
    """Measures the CPU seconds and the wall seconds of the tree of a process, from lap to lap."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: dict[tuple[int, float], float] = {}  # CPU seconds of each process when it was last seen
        self._cpu, self._wall = self._read(), time.monotonic()

    def lap(self) -> tuple[float, float]:
        """Return (cpu, wall) seconds since the last lap."""
        cpu, wall = self._read(), time.monotonic()
        used = cpu - self._cpu, wall - self._wall
        self._cpu, self._wall = cpu, wall
        return used

    def _read(self) -> float:
        for process in tree(self._pid):
            try:
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return sum(self._seen.values())
