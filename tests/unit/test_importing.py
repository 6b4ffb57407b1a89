"""When the log warns that an import takes long, and what the health file says meanwhile."""

from __future__ import annotations

import logging
import time

import pytest

from jobqueue.workers.supervisor.importing import LONG, Importing


def test_it_is_logged_after_a_while_and_then_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    importing = Importing()
    now = time.monotonic()
    assert not importing.step(now + 100), "nothing is imported"
    importing.begin()
    assert not importing.step(now + 100), "nobody has said what"
    importing.next("shop.tasks")
    with caplog.at_level(logging.WARNING, "jobqueue.workers.supervisor.importing"):
        said = [seconds for seconds in range(60) if importing.step(now + seconds + 0.5)]
    assert said == [LONG, 2 * LONG, 4 * LONG]
    assert "importing shop.tasks has not ended after 10 s: no job starts" in caplog.text
    assert importing.describe().startswith("it is starting: importing shop.tasks for ")
    importing.end()
    assert not importing.step(now + 1000)
    assert importing.describe() == "it is starting"
