"""What a worker costs: the CPU time and the memory of its whole process tree, read from outside by psutil."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """Return the process and all its descendants that live now; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass(frozen=True)
class TreeMemory:
    """Bytes of a tree. uss: pages that belong to one process alone; pss: also its part of shared ones (Linux only)."""

    uss: int
    pss: int | None


def memory_of(pid: int) -> TreeMemory:
    """Add up the memory of the tree of pid as it is now."""
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
    """How much more memory than now the process of pid holds at its highest from now on, in bytes (Linux)."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the kernel forgets the highest so far
            self._before = self._read("VmRSS")
        except OSError:
            self._before = None

    def read(self) -> int | None:
        """None where nobody can tell."""
        highest = None if self._before is None else self._read("VmHWM")
        return None if highest is None or self._before is None else max(0, highest - self._before)

    def _read(self, name: str) -> int | None:
        try:
            found = re.search(rf"^{name}:\s+(\d+) kB", self._status.read_text(), re.MULTILINE)
        except OSError:
            return None
        return int(found[1]) * 1024 if found else None


class CpuMeter:
    """CPU seconds and wall seconds of the tree of pid since the meter was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: dict[tuple[int, float], float] = {}  # what a process had used when it was last seen
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
