"""Choose what is compared: the four built-in tasks against the loopback site, or a task with the values that were
given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobqueue.compare.figures import Work
from jobqueue.harness.site import Contents
from jobqueue.producing import catalog

LATENCY = 0.05  # seconds the site waits before each answer
HEAVY = 50  # milliseconds
SQUARES = 1000
LARGEST = 100_000  # bytes: larger files would measure the site and the hashing rather than the waiting

Wish = tuple[Work, Sequence[Any]]  # with the values as the report shows them


@dataclass(frozen=True)
class Wanted:
    """A task as the user named it, the values of its jobs as the report shows them, and the arguments made of them.
    Without values: jobs without positional arguments."""

    task: str
    values: tuple[Any, ...]
    argses: tuple[tuple[Any, ...], ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def wishes(wanted: Wanted | None, site: Contents | None) -> list[Wish]:
    """Return what to compare: the tasks in ``wanted``, or without any the four built-in ones on the site. Raises
    TaskNotFound."""
    if wanted is not None:
        return works(wanted)
    assert site
    return builtin(site)


def builtin(site: Contents) -> list[Wish]:
    """Return the four tasks of docs/threads-and-processes.md: one without work, one that computes, one that downloads,
    one that reads pages."""
    values: dict[str, tuple[Any, ...]] = {
        "square": tuple(range(SQUARES)),
        "heavy": (HEAVY,),
        "download": tuple(f.url for f in site.files if f.bytes <= LARGEST),
        "scrape": tuple(p.url for p in site.pages),
    }
    return [
        wish
        for task, given in values.items()
        for wish in works(Wanted(task, given, tuple((value,) for value in given)))
    ]


def works(wanted: Wanted) -> list[Wish]:
    """Return the jobs of each task. Raises TaskNotFound."""
    name = catalog.dotted_name(wanted.task)
    return [(Work(wanted.task, name, wanted.argses or ((),), wanted.kwargs), wanted.values)]
