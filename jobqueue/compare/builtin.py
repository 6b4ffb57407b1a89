"""What is compared: the built-in four against the loopback site, or a task with the values that were given."""

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

Wish = tuple[Work, Sequence[Any]]  # and the values, for the report


@dataclass(frozen=True)
class Wanted:
    """A task as people name it, the values of its jobs, as they are shown, and their arguments; without any, jobs
    without positional arguments."""

    task: str
    values: tuple[Any, ...]
    argses: tuple[tuple[Any, ...], ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def wishes(wanted: Wanted | None, site: Contents | None) -> list[Wish]:
    """What is wanted; without it the built-in four on the site. Raises TaskNotFound."""
    if wanted is not None:
        return works(wanted)
    assert site
    return builtin(site)


def builtin(site: Contents) -> list[Wish]:
    """The four of a guide to threads and processes: no work, computing, downloading, reading pages."""
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
    """The jobs of one task. Raises TaskNotFound."""
    name = catalog.dotted_name(wanted.task)
    return [(Work(wanted.task, name, wanted.argses or ((),), wanted.kwargs), wanted.values)]
