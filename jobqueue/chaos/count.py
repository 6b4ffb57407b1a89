"""Count what became of each job, from what the store has at the end. Pure functions: no store, no processes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jobqueue.chaos.task import DONE

ENDED = ("finished", "failed")


@dataclass(frozen=True)
class Fact:
    """One job at the end: its status (None: no hash), the entries in its result stream, its runs, and whether a list or
    sorted set still has it."""

    status: str | None
    outcomes: int = 0
    begun: int = 0
    done: int = 0
    stands: bool = False


@dataclass(frozen=True)
class ChaosCounts:
    """The number of jobs of one mode by what became of them. submitted = finished + failed + stuck + lost."""

    submitted: int = 0
    finished: int = 0
    failed: int = 0
    stuck: int = 0  # without an outcome, but still in a list or sorted set
    lost: int = 0  # without an outcome, and in no list or sorted set
    ran_more_than_once: int = 0
    completed_more_than_once: int = 0
    outcomes_recorded_twice: int = 0
    finished_without_running: int = 0
    ended_and_still_queued: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)  # failures by cause

    @property
    def is_kept(self) -> bool:
        """Return whether the promise was kept: every job has one outcome, and none is finished without a complete
        run."""
        broken = self.lost + self.stuck + self.outcomes_recorded_twice
        return not (broken + self.finished_without_running + self.ended_and_still_queued)


def tally(facts: Iterable[Fact], errors: Iterable[str] = ()) -> ChaosCounts:
    """Count the jobs. errors: the last line of each failure."""
    facts = list(facts)
    ended = [fact for fact in facts if fact.status in ENDED]
    open_ = [fact for fact in facts if fact.status not in ENDED]
    return ChaosCounts(
        submitted=len(facts),
        finished=sum(fact.status == "finished" for fact in facts),
        failed=sum(fact.status == "failed" for fact in facts),
        stuck=sum(fact.stands for fact in open_),
        lost=sum(not fact.stands for fact in open_),
        ran_more_than_once=sum(fact.begun > 1 for fact in facts),
        completed_more_than_once=sum(fact.done > 1 for fact in facts),
        outcomes_recorded_twice=sum(fact.outcomes > 1 for fact in facts),
        finished_without_running=sum(fact.status == "finished" and not fact.done for fact in facts),
        ended_and_still_queued=sum(fact.stands for fact in ended),
        causes=dict(Counter(cause(error) for error in errors).most_common()),
    )


def cause(error: str) -> str:
    """Return the sentence without what differs from death to death: pids and names of workers."""
    error = re.sub(r" ?\(pid \d+\)", "", error)
    return re.sub(r"The worker \S+", "The worker", error)


def runs(record: Mapping[bytes, bytes]) -> tuple[Counter[str], Counter[str]]:
    """Return, from the hash that the jobs wrote, how often each id began and how often it was done."""
    begun: Counter[str] = Counter()
    done: Counter[str] = Counter()
    for name, state in record.items():
        job_id = name.decode().rpartition(":")[0]
        begun[job_id] += 1
        done[job_id] += state.decode() == DONE
    return begun, done


@dataclass(frozen=True)
class Spread:
    """The median and the maximum of some measured times; None where nothing was measured."""

    median: float | None = None
    max: float | None = None
    count: int = 0

    @classmethod
    def of(cls, values: Iterable[float], digits: int) -> Spread:
        ordered = sorted(values)
        if not ordered:
            return cls()
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        return cls(round(middle, digits), round(ordered[-1], digits), len(ordered))
