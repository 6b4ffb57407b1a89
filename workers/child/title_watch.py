"""Show in the process title what a child has been running for a while:

    jobq: child 3 of NAME, running shop.tasks:resize

The child watchdog looks; no slot does anything for it. So the title is up to half a second late.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobqueue.protocol.claims import Claimed
from jobqueue.words import one_line
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.task_name import task_name
from jobqueue.workers.shared.titles import Title

LOOK_EVERY = 0.5  # seconds
LONG_ENOUGH = 0.1  # seconds that a job has to have run to be shown
LONGEST = 200  # characters of a name


class TitleWatch:
    """Shows and removes the titles. The child watchdog uses it, in its thread."""

    def __init__(self, title: Title | None) -> None:
        self._title = title if title is not None and title.is_shown else None
        self._next_look_at = 0.0  # monotonic seconds
        self._shown: list[int] = []  # claims, the oldest first

    def step(self, now: float, running: Sequence[tuple[Slot, Claimed]]) -> None:
        """Show the jobs that have been running for a while, if a look is due."""
        if self._title is None or now < self._next_look_at:
            return
        self._next_look_at = now + LOOK_EVERY
        long = [(slot.since, job) for slot, job in running if now - slot.since >= LONG_ENOUGH]
        jobs = [job for _, job in sorted(long, key=lambda found: found[0])]
        claims = [job.claim for job in jobs]
        if claims != self._shown:
            self._shown = claims
            self._title.show(_in_words(jobs))

    def wants_to_look(self, runs: bool) -> bool:
        """Whether there is something to show or to remove. runs: a job runs."""
        return self._title is not None and (runs or bool(self._shown))

    def due_in(self, now: float) -> float:
        """Return the seconds until the next look."""
        return self._next_look_at - now


def _in_words(jobs: Sequence[Claimed]) -> str:
    if not jobs:
        return ""
    name = one_line(task_name(jobs[0].data) or f"job {jobs[0].id}")[:LONGEST]
    return f"running {name}" + (f" +{len(jobs) - 1}" if len(jobs) > 1 else "")
