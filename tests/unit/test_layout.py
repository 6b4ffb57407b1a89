"""Queues and worker commands: tasks that are run in the same way share a queue, and the commands start such workers."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from click.testing import CliRunner

from jobqueue.cli.worker import worker
from jobqueue.insight.advice import Advice, judge
from jobqueue.insight.layout import Group, lay_out, module_of
from jobqueue.insight.profile import Machine, Profile

TWO = Machine(cores=2, memory_mb=8000, gil=True, python="3.13.0")


def task(name: str, wall_ms: float, cpu_ms: float, **changes: object) -> tuple[Profile, Advice]:
    base = Profile(name, 100, 0, wall_ms / 1e3, cpu_ms / 1e3, wall_ms / 1e3, wall_ms / 1e3, 0.0, 1.0, None)
    profile = replace(base, **changes)  # type: ignore[arg-type]
    return profile, judge(profile, TWO)


WAITS = task("shop.web.fetch", 50, 5)
WAITS_TOO = task("shop.web.ask", 50, 0.5)
COMPUTES = task("jobqueue.tasks.heavy", 50, 50)
COMPUTES_TOO = task("images.Photo.shrink", 50, 49)
MIXED = task("shop.mail.send", 50, 20)
GROWS = task("shop.reports.make", 50, 50, memory_growth_mb=4.0)
TINY = task("jobqueue.tasks.square", 0.01, 0.01)
UNKNOWN = task("shop.new.thing", 50, 50, runs=2)


def queues(groups: list[Group]) -> dict[str, tuple[str, ...]]:
    return {group.queue: group.tasks for group in groups}


def test_similar_tasks_share_a_queue_and_others_do_not() -> None:
    groups = lay_out([COMPUTES, WAITS, MIXED, UNKNOWN, GROWS, WAITS_TOO, TINY, COMPUTES_TOO], TWO)
    assert queues(groups) == {
        "waiting": ("jobqueue.tasks.square", "shop.web.ask", "shop.web.fetch"),
        "computing": ("images.Photo.shrink", "jobqueue.tasks.heavy"),
        "mixed": ("shop.mail.send",),
        "growing": ("shop.reports.make",),
    }
    assert [group.command for group in groups] == [
        "jobq worker waiting --mode thread -n 36 -I shop.web",
        "jobq worker computing --mode process -n 2 -I images",
        "jobq worker mixed --mode process -n 2 --threads 2 -I shop.mail",
        "jobq worker growing --mode process -n 2 --max-memory 2000 -I shop.reports",
    ]


@pytest.mark.parametrize("one", [WAITS, COMPUTES, MIXED, GROWS, TINY])
def test_a_single_kind_stays_in_the_default_queue(one: tuple[Profile, Advice]) -> None:
    (group,) = lay_out([one], TWO)
    assert group.queue == "default"


def test_tiny_jobs_do_not_share_a_queue_with_computing_jobs() -> None:
    assert queues(lay_out([COMPUTES, TINY], TWO)) == {
        "computing": ("jobqueue.tasks.heavy",),
        "tiny": ("jobqueue.tasks.square",),
    }


def test_without_known_tasks_no_worker_is_suggested() -> None:
    assert lay_out([UNKNOWN], TWO) == []


def test_the_suggested_commands_are_understood_by_jobq_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(
        "jobqueue.workers.launcher.launch", lambda settings, mode, *_, **__: started.append((settings, mode)) or 0
    )
    groups = lay_out([WAITS, COMPUTES, MIXED, GROWS], TWO)
    with monkeypatch.context() as patched:
        patched.setenv("JOBQ_URL", "redis://127.0.0.1:1/0")
        patched.setattr("jobqueue.cli.worker.opened", FakeStore)
        for group in groups:
            done = CliRunner().invoke(worker, shlex.split(group.command)[2:])
            assert done.exit_code == 0, done.output
    for group, (settings, mode) in zip(groups, started, strict=True):
        assert mode == group.mode
        assert settings.queues == (group.queue,)
        assert settings.children * settings.slots == group.workers * group.threads
        assert settings.max_memory == group.max_memory_mb
        assert all(any(name.startswith(f"{module}.") for module in settings.served) for name in group.tasks)


class FakeStore:
    """An open store that is never asked anything."""

    def __init__(self, _url: str | None, wait: float) -> None:
        self.address = None

    def __enter__(self) -> FakeStore:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("shop.tasks.resize", "shop.tasks"),
        ("tasks.resize", "tasks"),
        ("shop.models.Order.ship", "shop.models"),
        ("shop.models.Order", "shop.models"),
        ("jobqueue.tasks.square", "jobqueue.tasks"),
        ("alone", "alone"),
    ],
)
def test_the_module_of_a_task_name(name: str, module: str) -> None:
    assert module_of(name) == module
