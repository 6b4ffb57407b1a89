"""The content of a child's title, and when it changes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from jobqueue.protocol.claims import Claimed
from jobqueue.workers.child.title_watch import LOOK_EVERY, TitleWatch

NOW = 1000.0


class FakeTitle:
    is_shown = True

    def __init__(self) -> None:
        self.said: list[str] = []

    def show(self, doing: str = "") -> None:
        self.said.append(doing)


def running(claim: int, seconds: float, name: str = "shop.tasks.resize", data: bytes | None = None) -> Any:
    """Make a slot that at NOW has run a job for this number of seconds."""
    encoded = json.dumps([f"{name}", None, [], {}]).encode() if data is None else data
    return SimpleNamespace(since=NOW - seconds), Claimed(f"j{claim}", claim, "q", encoded, None, None, None, 0)


def test_the_title_shows_the_running_task_and_removes_it() -> None:
    title = FakeTitle()
    watch = TitleWatch(title)  # type: ignore[arg-type]
    watch.step(NOW, [running(2, 3.0, "shop.tasks.pay"), running(1, 5.0), running(3, 1.0)])
    assert title.said == ["running shop.tasks:resize +2"]
    watch.step(NOW + LOOK_EVERY, [running(2, 3.0, "shop.tasks.pay")])
    watch.step(NOW + 2 * LOOK_EVERY, [running(2, 3.0, "shop.tasks.pay")])
    assert title.said[1:] == ["running shop.tasks:pay"]
    assert watch.wants_to_look(runs=False)
    watch.step(NOW + 3 * LOOK_EVERY, [])
    assert title.said[2:] == [""]
    assert not watch.wants_to_look(runs=False)


def test_short_jobs_are_not_shown_and_slots_are_not_read_too_often() -> None:
    title = FakeTitle()
    watch = TitleWatch(title)  # type: ignore[arg-type]
    watch.step(NOW, [running(1, 0.01)])
    assert watch.wants_to_look(runs=True)
    assert watch.due_in(NOW) == LOOK_EVERY
    watch.step(NOW + 0.1, [running(1, 5.0)])
    assert title.said == []


def test_names_that_cannot_be_read_and_names_with_control_characters() -> None:
    title = FakeTitle()
    watch = TitleWatch(title)  # type: ignore[arg-type]
    watch.step(NOW, [running(7, 5.0, data=b"\x81\xa1a")])
    watch.step(NOW + LOOK_EVERY, [running(8, 5.0, "a.b\0\x1b[2J")])
    assert title.said == ["running job j7", "running a:b\\x00\\x1b[2J"]


def test_without_titles_no_slot_is_read() -> None:
    assert not TitleWatch(None).wants_to_look(runs=True)
    TitleWatch(None).step(NOW, [running(1, 5.0)])
