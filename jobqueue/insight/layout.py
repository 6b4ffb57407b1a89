"""Lay out queues and workers from the advice on single tasks: tasks that are run alike share a queue and a worker.

Jobs that wait go to a worker of threads, jobs that compute to processes, so that neither delays the other: among
threads a job that computes keeps the GIL from those that wait, and in processes one that waits leaves a core idle.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobqueue.insight.advice import MOST, Advice, Kind, Mode, threads_that_fit
from jobqueue.insight.profile import Machine, Profile

BUILTIN_TASKS = "jobqueue.tasks"  # every worker serves them
QUEUES: dict[Kind, str] = {
    "waits": "waiting",
    "takes turns": "turns",
    "computes": "computing",
    "mixed": "mixed",
    "grows memory": "growing",
    "tiny": "tiny",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Tasks that are run alike, the queue to submit them to, and the worker that serves it."""

    queue: str
    mode: Mode
    workers: int
    threads: int
    max_memory_mb: int
    tasks: tuple[str, ...]

    @property
    def command(self) -> str:
        """Return the command line of the worker. Flags that only the user can know (--accept, --allow-private, --url)
        are not in it."""
        words = ["jobq", "worker", self.queue, "--mode", self.mode, "-n", str(self.workers)]
        if self.threads > 1:
            words += ["--threads", str(self.threads)]
        if self.max_memory_mb:
            words += ["--max-memory", str(self.max_memory_mb)]
        modules = dict.fromkeys(module for task in self.tasks if (module := module_of(task)) != BUILTIN_TASKS)
        words += [word for module in modules for word in ("-I", module)]
        return shlex.join(words)


def lay_out(judged: Sequence[tuple[Profile, Advice]], machine: Machine) -> list[Group]:
    """Return a group per kind of task; a single group gets the queue "default". Unknown tasks are in none."""
    kinds: dict[Kind, list[tuple[Profile, Advice]]] = {}
    for profile, advice in judged:
        if advice.kind != "unknown":
            kinds.setdefault(advice.kind, []).append((profile, advice))
    if "waits" in kinds and "tiny" in kinds:
        # Tiny jobs go with those that wait, where a thread is soon free; behind jobs that compute they would wait.
        tiny = kinds.pop("tiny")
        groups = [_group(kind, members, tiny if kind == "waits" else [], machine) for kind, members in kinds.items()]
    else:
        groups = [_group(kind, members, [], machine) for kind, members in kinds.items()]
    groups.sort(key=lambda group: list(QUEUES.values()).index(group.queue))
    return groups if len(groups) != 1 else [_renamed(groups[0], "default")]


def _group(
    kind: Kind, members: Sequence[tuple[Profile, Advice]], guests: Sequence[tuple[Profile, Advice]], machine: Machine
) -> Group:
    advices = [advice for _, advice in members]
    mode = advices[0].mode
    assert mode is not None
    tasks = tuple(sorted(advice.task for _, advice in (*members, *guests)))
    workers = max(advice.workers for advice in advices)
    if kind == "waits":
        workers = _threads([profile for profile, _ in members], machine)
    elif kind == "grows memory":
        workers = min(advice.workers for advice in advices)
    limits = [advice.max_memory_mb for advice in advices if advice.max_memory_mb]
    threads = max(advice.threads for advice in advices)
    peak = max((profile.memory_peak_mb or 0.0 for profile, _ in members), default=0.0)
    if mode == "thread":
        workers = min(workers, threads_that_fit(peak, machine))
    elif threads > 1:
        threads = min(threads, threads_that_fit(peak * workers, machine))
    return Group(QUEUES[kind], mode, workers, threads, min(limits, default=0), tasks)


def _threads(profiles: Sequence[Profile], machine: Machine) -> int:
    """Return the number of threads for the recorded mix of tasks, computed as advice.py does for one task."""
    wall = sum(p.runs * p.alone_s for p in profiles)
    cpu = sum(p.runs * p.cpu_s_mean for p in profiles)
    return max(2, min(MOST, round(machine.cores * wall / max(cpu, 1e-9))))


def _renamed(group: Group, queue: str) -> Group:
    return Group(queue, group.mode, group.workers, group.threads, group.max_memory_mb, group.tasks)


def module_of(task: str) -> str:
    """Return the module that a worker has to serve. Nothing is imported to find out: a part that begins with a capital
    is taken for a class (shop.models.Order.ship is in shop.models)."""
    return ".".join(_modules(task.split("."))) or task


def _modules(parts: Sequence[str]) -> Iterator[str]:
    for part in parts[:-1]:
        if part[:1].isupper():
            return
        yield part
