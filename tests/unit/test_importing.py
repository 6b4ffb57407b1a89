"""When the log warns that an import takes long, and what the health file says meanwhile."""

from __future__ import annotations

import logging

import pytest
from fake_children import Clock

from jobqueue.workers.supervisor.importing import LONG, Importing


def test_a_slow_import_is_logged_after_a_while_and_then_ever_less_often(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    importing, now = Importing(clock), clock.now
    assert not importing.step(now + 100), "nothing is imported"
    importing.begin()
    assert not importing.step(now + 100), "nobody has said what"
    importing.next("shop.tasks")
    with caplog.at_level(logging.WARNING, "jobqueue.workers.supervisor.importing"):
        said = [seconds for seconds in range(60) if importing.step(now + seconds + 0.5)]
    assert said == [LONG, 2 * LONG, 4 * LONG]
    assert "importing shop.tasks has not ended after 10 s: no job starts" in caplog.text
    clock.now += 61.0
    assert importing.describe() == "it is starting: importing shop.tasks for 61 s"
    importing.end()
    assert not importing.step(now + 1000)
    assert importing.describe() == "it is starting"
