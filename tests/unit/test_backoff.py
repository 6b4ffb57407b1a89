"""Backoff stays bounded after any number of failures, and so does every loop that uses it."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest

from jobqueue.network.backoff import Backoff

ROOT = Path(__file__).parents[2]
MANY = 10_000  # a store that is away for five hours


def test_the_delay_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(first=0.05, most=1.0)
    delays = [backoff.delay]
    for _ in range(7):
        backoff.failed()
        delays.append(backoff.delay)
    assert delays == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_first_free_failures_cost_no_delay() -> None:
    backoff = Backoff(first=0.8, most=5.0, free=2)
    assert [backoff.failed(), backoff.failed()] == [0.0, 0.0]
    assert backoff.failed() > 0.0
    assert backoff.delay == 0.8


def test_the_pause_stays_bounded_and_random_after_many_failures() -> None:
    backoff = Backoff()
    pauses = [backoff.failed() for _ in range(MANY)]
    assert backoff.failures == MANY
    assert min(pauses) >= 0.025
    assert max(pauses) <= 2.0
    assert all(1.0 <= pause <= 2.0 for pause in pauses[10:])
    assert len(set(pauses)) > MANY / 2  # processes that failed together retry at different times


def test_reset_starts_again_with_the_first_delay() -> None:
    backoff = Backoff()
    for _ in range(100):
        backoff.failed()
    backoff.reset()
    assert (backoff.failures, backoff.delay, backoff.pause()) == (0, 0.0, 0.0)
    backoff.failed()
    assert backoff.delay == 0.05


def test_no_other_module_computes_a_backoff() -> None:
    """Doubling a pause is the duty of Backoff alone: a power of the number of failures overflows in the end."""
    own = re.compile(r"2(\.0)? ?\*\* ?[a-z_]|(delay|pause) = min\(")
    found = []
    for package in ("jobqueue", "workers"):
        for path in {*(ROOT / package).rglob("*.py")} - {ROOT / "jobqueue" / "network" / "backoff.py"}:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Assign | ast.Call | ast.Return) and own.search(ast.unparse(node)):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_backoff_itself_never_sleeps() -> None:
    """Backoff returns the pause, and leaves sleeping to the caller."""
    before = time.monotonic()
    backoff = Backoff(first=1000.0, most=1e9)
    assert 500.0 <= backoff.failed() <= 1000.0
    assert time.monotonic() - before < 100.0
