"""The inputs of a judgement: how a task behaves, and the machine where it is to run."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobqueue.insight import capacity

if TYPE_CHECKING:
    from jobqueue.insight.usage import Record, TaskUsage

# Runs that are needed for a judgement, because the first one imports and fills caches. Three are enough when they are
# long: what a first run does extra is little beside a second of work.
NEEDED, NEEDED_LONG, LONG_S = 10, 3, 1.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the jobs are to run."""

    cores: int
    memory_mb: float
    gil: bool
    python: str

    @classmethod
    def here(cls) -> Machine:
        """Return the part of this machine that this process may use (see capacity.py), and the state of its Python."""
        gil = getattr(sys, "_is_gil_enabled", lambda: True)()
        return cls(capacity.cores(), capacity.memory_mb(), gil, platform.python_version())


@dataclass(frozen=True, slots=True)
class Profile:
    """How a task behaves. Times are seconds per run, memory is MB per run; None where it could not be measured.

    gil_wait and core_wait are the shares of the wall time that were spent waiting for the GIL and for a core: time that
    the task takes only because other jobs run beside it. cpu_s_mean counts the CPU time of the job alone.
    """

    task: str
    runs: int
    errors: int
    wall_s_mean: float
    cpu_s_mean: float
    wall_s_p50: float
    wall_s_p95: float
    memory_growth_mb: float | None
    memory_peak_mb: float | None
    gil_wait: float | None
    core_wait: float | None = None
    lock_wait: float | None = (
        None  # share of the wall time in company, for a lock or a GIL whose holder did not compute
    )
    slower: float | None = None  # wall time beside others / wall time alone, both without waits for the GIL or a core
    company: float | None = None  # how many others ran beside it, on average
    held: float | None = None  # share of the wall time alone in which its C code kept the GIL

    @classmethod
    def of(cls, usage: TaskUsage) -> Profile:
        """Return the profile of what workers recorded: from processes with one job at a time if there are enough such
        runs, because jobs take longer beside others; else from the width with the most runs."""
        most = max(usage.records, key=lambda r: r.runs)
        alone = usage.records[0] if usage.records[0].width == 1 else None
        measured = alone is not None and enough(alone.runs, alone.wall_s / alone.runs)
        r = alone if alone is not None and measured else most
        widest = usage.records[-1] if enough(usage.records[-1].runs, usage.records[-1].wall_s) else None
        crowd = widest if widest is not None and widest.width > 1 else None
        return cls(
            task=usage.task,
            runs=r.runs,
            errors=r.errors,
            wall_s_mean=r.wall_s / r.runs,
            cpu_s_mean=(r.cpu_s or 0.0) / r.runs,
            wall_s_p50=r.wall_s_p50,
            wall_s_p95=r.wall_s_p95,
            memory_growth_mb=r.memory_growth_mb,
            memory_peak_mb=alone.memory_peak_mb if alone else None,
            gil_wait=r.gil_wait,
            core_wait=r.core_wait,
            lock_wait=crowd.lock_wait if crowd else None,
            slower=_own_wall(crowd) / _own_wall(alone) if crowd and alone and measured else None,
            company=crowd.company if crowd else None,
            held=alone.held if alone else None,
        )

    @property
    def alone_s(self) -> float:
        """Return the wall time of a run without its waits for the GIL or for a core."""
        waited = self.wall_s_mean * ((self.gil_wait or 0.0) + (self.core_wait or 0.0))
        return self.wall_s_mean - max(0.0, min(waited, self.wall_s_mean - self.cpu_s_mean))

    @property
    def cpu_share(self) -> float:
        """Return CPU time / wall time of a run that has nothing beside it; above 1 when the job has threads of its
        own."""
        return self.cpu_s_mean / self.alone_s if self.alone_s > 0 else 1.0


def _own_wall(r: Record) -> float:
    """Return the wall time of a run without its waits for the GIL or for a core."""
    return r.wall_s / r.runs * max(0.0, 1 - (r.gil_wait or 0.0) - (r.core_wait or 0.0))


def enough(runs: int, wall_s_mean: float) -> bool:
    """Return whether that many runs are enough for a judgement."""
    return runs >= NEEDED or (runs >= NEEDED_LONG and runs * wall_s_mean >= LONG_S)
