"""The demo's own part: which tasks the comparison measures, and how the results are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobqueue.cli.demo import DemoQuiet
from jobqueue.compare.figures import Sample, Work
from jobqueue.compare.trial_runs import Counter, to_its_end
from jobqueue.demo.run import MODES, Demo, DemoFailed, DemoResult, kinds_on
from jobqueue.harness.site import Contents, File, Page

SITE = Contents("http://site/", [Page("http://site/a", "A")], [File("http://site/f", 1, "abc")])
RIGHT: dict[str, Any] = {
    "square": [n * n for n in range(10_000)],
    "heavy": [7] * 60,
    "download": [{"sha256": "abc"}] * 5,
    "scrape": [{"title": "A"}] * 3,
}


class FakeCandidate:
    """A candidate that runs no job, and has its results ready."""

    mode = "thread"

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results

    def run(
        self, work: Work, jobs: int, deadline: float, tell: Callable[[int], None], take: Callable[[Iterator[Any]], None]
    ) -> Sample:
        tell(jobs)
        take(iter(self.results[work.task]))
        return Sample(jobs, 1.0, 0.5)


class Told(DemoQuiet):
    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []

    def jobs_done(self, kind: Any, jobs: int) -> None:
        self.said.append((kind.name, jobs))


def measure(results: dict[str, Any]) -> list[tuple[str, int]]:
    unused: Any = None
    screen, candidate = Told(), FakeCandidate(results)
    demo = Demo(SITE, unused, screen)
    for kind in kinds_on(SITE):
        assert demo._measure(candidate, kind).jobs == kind.jobs  # type: ignore[arg-type]
    return screen.said


def test_each_kind_is_measured_and_reported() -> None:
    assert measure(RIGHT) == [("squares", 10_000), ("heavy", 60), ("downloads", 5), ("page titles", 3)]


@pytest.mark.parametrize("task", RIGHT)
def test_wrong_results_end_the_demo(task: str) -> None:
    wrong = {"square": [0] * 10_000, "heavy": [1, 2], "download": [{"sha256": "x"}] * 5, "scrape": [{"title": "A"}]}
    with pytest.raises(DemoFailed, match="in thread mode gave wrong results"):
        measure(RIGHT | {task: wrong[task]})


def test_the_total_over_all_kinds() -> None:
    counter: Any = None
    memory: Any = None
    kinds = {"a": Sample(10, 1.0, 0.5, others=1.0), "b": Sample(20, 3.0, 1.5)}
    total = DemoResult(MODES[0], 0.5, kinds, counter, memory).total
    assert (total.jobs, total.wall, total.cpu, total.others) == (30, 4.0, 2.0, 0.25)
    assert (total.rate, total.cores) == (7.5, 0.5)


def test_threads_share_a_counter_and_processes_do_not() -> None:
    one = [{"pid": 1, "thread": n % 2, "count": n + 5} for n in range(4)]
    assert Counter.of(one) == Counter(jobs=4, consumers=2, processes=1, highest=8, shared=True)
    two = [{"pid": n % 2, "thread": 1, "count": n // 2 + 1} for n in range(4)]
    assert Counter.of(two) == Counter(jobs=4, consumers=2, processes=2, highest=2, shared=False)


def test_a_single_trial_ends_by_itself() -> None:
    def trial() -> Iterator[None]:
        yield
        yield
        return "found"

    assert to_its_end(trial(), every=0) == "found"  # type: ignore[arg-type]
