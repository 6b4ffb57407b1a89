"""Count the processes that the kernel has killed for lack of memory: SIGKILL does not show who sent it."""

from __future__ import annotations

from pathlib import Path

VMSTAT = Path("/proc/vmstat")  # Linux 4.13 and newer count them there, also for a cgroup's own limit


def kills() -> int:
    """Return the count since the machine started; 0 where the kernel does not count."""
    try:
        lines = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
