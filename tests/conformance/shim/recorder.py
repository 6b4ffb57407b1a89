"""A pytest plugin that writes each test's outcome to a file as soon as it is known, so that the file shows which test
hung or was killed.

One JSON list a line: [test, outcome, seconds, text]; outcomes "collected" and "begun" come first. And it makes sleeps
in the bodies of tests longer when it is told to.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

STRETCH = int(os.environ["JOBQ_CONFORMANCE_STRETCH"])


def _write(*record: Any) -> None:
    with open(os.environ["JOBQ_CONFORMANCE_RECORD"], "a") as f:
        f.write(json.dumps(record) + "\n")


def pytest_collection_finish(session: Any) -> None:
    for item in session.items:
        _write(item.nodeid, "collected", 0.0, "")


def pytest_runtest_logstart(nodeid: str) -> None:
    _write(nodeid, "begun", 0.0, "")


def pytest_sessionfinish() -> None:
    _write("", "finished", 0.0, "")


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        outcome = "error" if report.outcome == "failed" and report.when != "call" else report.outcome
        _write(report.nodeid, outcome, report.duration, report.longreprtext if report.failed else "")


def pytest_configure() -> None:
    if STRETCH > 1:
        time.sleep = _stretched(time.sleep)


def _stretched(sleep: Any) -> Any:
    """Sleep longer if a test calls it to wait; jobs in fixtures.py sleep as long as written."""

    def longer(seconds: float) -> None:
        waits = sys._getframe(1).f_globals.get("__name__", "").startswith("tests.test_")
        sleep(seconds * STRETCH if waits else seconds)

    return longer
