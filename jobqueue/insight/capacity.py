"""Find out how many cores and how much memory this process may use, also inside a container.

It is the smallest of the machine itself, the CPU affinity (taskset, cpusets) and the quotas of the control groups that
the process is in (``docker run --cpus --memory``, a Kubernetes pod's limits, systemd's CPUQuota=). Formats:
https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max, memory.max) and cgroup-v1 (cpu.cfs_quota_us,
memory.limit_in_bytes). macOS has no such groups.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OURS = Path("/proc/self/cgroup")  # lines "number:controllers:path"; in version 2 "0::path"


def cores(cgroups: Path = CGROUPS, ours: Path = OURS) -> int:
    """Return on how many cores this process may run at once, at least 1. A quota of 1.5 cores counts as 2."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _groups("cpu", cgroups, ours) if (quota := _cpu_quota(group)) is not None]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def memory_mb(cgroups: Path = CGROUPS, ours: Path = OURS) -> float:
    """Return how much memory this process and those in the same control groups may use, in MB (2^20 bytes)."""
    import psutil

    limits = [limit for group in _groups("memory", cgroups, ours) if (limit := _memory_limit(group)) is not None]
    return min([float(psutil.virtual_memory().total), *limits]) / 2**20


def _groups(controller: str, cgroups: Path, ours: Path) -> Iterator[Path]:
    """Yield the control groups that limit this process for this controller, from its own up to the topmost visible one.
    In a container the path may be one that only the host sees: then the top is the container's own group."""
    try:
        lines = ours.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        top = cgroups / names if names else cgroups
        if not names and not (top / "cgroup.controllers").exists():
            top = cgroups / "unified"  # version 2 mounted beside version 1
        below = top / path.lstrip("/")
        while below != top and top in below.parents:
            yield below
            below = below.parent
        yield top


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:  # this group has no such limit
        return []


def _number(words: list[str], at: int = 0) -> float | None:
    try:
        number = float(words[at])
    except (IndexError, ValueError):  # "max": no limit
        return None
    return number if number > 0 else None  # in version 1, -1 means no limit


def _cpu_quota(group: Path) -> float | None:
    """Return the group's quota in cores."""
    words = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
    quota, period = _number(words), _number(words, 1)
    return quota / period if quota and period else None


def _memory_limit(group: Path) -> float | None:
    """Return the group's limit in bytes. In version 1 a number near 2^63 means no limit, and is more than any machine
    has."""
    return _number(_words(group / "memory.max") or _words(group / "memory.limit_in_bytes"))
