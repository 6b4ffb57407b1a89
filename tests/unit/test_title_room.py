"""What a process title says where there is little room for it."""

from __future__ import annotations

import pytest

from jobqueue.workers.shared import titles
from jobqueue.workers.shared.titles import Title


def test_a_title_that_has_too_little_room_has_no_workers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child runs is worth more than its worker's name."""
    shown: list[str] = []
    monkeypatch.setattr(titles, "setter", lambda: shown.append)
    monkeypatch.setattr(titles, "_room", lambda: len("jobq: child 0 of web-1-a, running shop:sell"))
    title = Title("web-1-a", "child 0")
    title.show("running shop:sell")
    title.show("running shop:resize")
    title.show()
    assert shown == [
        "jobq: child 0 of web-1-a",
        "jobq: child 0 of web-1-a, running shop:sell",
        "jobq: child 0, running shop:resize",
        "jobq: child 0 of web-1-a",
    ]
