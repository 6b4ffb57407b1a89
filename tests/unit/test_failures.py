"""How an unexpected failure is logged: with a traceback where that helps."""

from __future__ import annotations

import errno
import logging

import pytest

from jobqueue.workers.shared.failures import Failures


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (KeyError("x"), True),
        (RuntimeError("of ours"), True),
        (OSError(errno.EBADF, "Bad file descriptor"), True),
        (RuntimeError("can't start new thread"), False),
        (MemoryError(), False),
        (OSError(errno.EMFILE, "Too many open files"), False),
    ],
)
def test_a_shortage_of_the_machine_is_logged_without_a_traceback(
    caplog: pytest.LogCaptureFixture, error: Exception, helps: bool
) -> None:
    failures = Failures()
    with caplog.at_level(logging.WARNING, "jobqueue.workers.shared.failures"):
        assert failures.failed("the role", error) > 0
    (record,) = caplog.records
    assert record.getMessage().startswith("the role failed and is tried again: ")
    assert bool(record.exc_info) is helps
    assert failures.why().startswith("the role fails: ")
