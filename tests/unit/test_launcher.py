"""The numbers of children and slots follow from the flags."""

from __future__ import annotations

from typing import Any

import pytest

from jobqueue.errors import UsageError
from jobqueue.insight.capacity import cores
from jobqueue.store.connection import Address
from jobqueue.workers.launcher import THREADS, describe, shape, worker_name
from jobqueue.workers.shared.settings import Settings


@pytest.mark.parametrize(
    ("mode", "number", "threads", "expected"),
    [
        ("thread", None, None, (1, THREADS)),
        ("thread", 3, None, (1, 3)),
        ("process", None, None, (cores(), 1)),
        ("process", 3, None, (3, 1)),
        ("process", 3, 4, (3, 4)),
        ("process", None, 4, (cores(), 4)),
    ],
)
def test_children_and_slots_that_follow_from_the_flags(
    mode: str, number: int | None, threads: int | None, expected: tuple[int, int]
) -> None:
    assert shape(mode, number, threads) == expected


@pytest.mark.parametrize(
    ("mode", "number", "threads", "flag"),
    [("process", 0, None, "-n 0"), ("thread", -1, None, "-n -1"), ("process", 1, 0, "--threads 0")],
)
def test_numbers_of_children_and_slots_that_are_refused(
    mode: str, number: int | None, threads: int | None, flag: str
) -> None:
    with pytest.raises(UsageError, match=flag):
        shape(mode, number, threads)


def test_threads_can_be_set_only_in_process_mode() -> None:
    with pytest.raises(UsageError, match="--threads goes with --mode process"):
        shape("thread", 2, 2)


def settings(**fields: Any) -> Settings:
    base: dict[str, Any] = {"address": Address(url="redis://127.0.0.1:1/0"), "worker": "w", "queues": ("default",)}
    return Settings(**{**base, "children": 1, "slots": 1, **fields})


def test_settings_are_the_same_after_json() -> None:
    told = settings(modules=("a", "b.c"), queues=("high", "low"), grace=1.5, accept=("json", "pickle"))
    assert Settings.from_json(told.to_json()) == told


def test_worker_names_are_unique_and_can_be_parts_of_keys() -> None:
    names = {worker_name() for _ in range(10)}
    assert len(names) == 10
    assert not [name for name in names if set(name) & set(": {}*")]


def test_the_description_of_a_worker() -> None:
    assert "1 process with 3 threads" in describe(settings(slots=3), "thread")
    assert "2 processes with 4 threads each" in describe(settings(children=2, slots=4), "process")
    assert "1 process, serving a, b" in describe(settings(queues=("a", "b")), "process")
