"""Attempts that fail are repeated with pauses, a limited number of times; then the cause is reported."""

from __future__ import annotations

import pytest

from jobqueue.errors import BootFailed
from jobqueue.workers.shared.attempts import AFTER_WORK, SOON, TRIES, UNDER_KILLS, Attempts


def test_attempts_that_all_fail_end_with_the_cause() -> None:
    attempts, now, pauses = Attempts("It"), 100.0, []
    for _ in range(TRIES - 1):
        attempts.failed("was killed by SIGSEGV", now, now)
        pauses.append(attempts.not_before - now)
        now = attempts.not_before
    assert pauses == pytest.approx([0.4, 0.8, 1.6])
    with pytest.raises(BootFailed, match=r"It was killed by SIGSEGV \(4 attempts\)\."):
        attempts.failed("was killed by SIGSEGV", now, now)


def test_kills_from_outside_end_the_worker_only_if_they_go_on_too_long() -> None:
    """Many kills do not end the worker; kills that continue for too long do."""
    attempts, now = Attempts("It"), 100.0
    while now < 100.0 + UNDER_KILLS:
        attempts.failed("was killed by SIGKILL", now, now, killed=True)
        assert attempts.not_before <= now + SOON
        now = attempts.not_before
    with pytest.raises(BootFailed, match=r"It was killed by SIGKILL \(\d+ attempts\)\."):
        attempts.failed("was killed by SIGKILL", now, now, killed=True)


def test_once_one_has_worked_there_is_more_patience() -> None:
    """Somebody may be replacing the modules' files at this moment."""
    attempts, now = Attempts("It"), 100.0
    attempts.worked()
    while now < 100.0 + AFTER_WORK:
        attempts.failed("cannot import dep", now, now)
        now = attempts.not_before
    with pytest.raises(BootFailed, match=r"It cannot import dep \(\d+ attempts\)\."):
        attempts.failed("cannot import dep", now, now)


def test_processes_that_started_together_count_as_one_attempt() -> None:
    attempts = Attempts("It")
    for _ in range(100):
        attempts.failed("left", 100.0, 100.1)
    assert attempts.not_before == pytest.approx(100.5)


def test_an_attempt_that_worked_resets_the_count() -> None:
    attempts, now = Attempts("It"), 100.0
    for _ in range(100):
        attempts.failed("left", now, now)
        now = attempts.not_before
        attempts.worked()
    assert attempts.not_before == 0.0
