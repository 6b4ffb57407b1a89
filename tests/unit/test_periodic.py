"""The one timed loop: errands in order until they succeed, steps on time, an outage said once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import redis
from helpers import eventually

from workers.periodic import Periodic


class Role:
    """Counts its steps."""

    def __init__(self, every: float = 0.01) -> None:
        self.every = every
        self.steps = 0
        self.reconnects = 0

    def step(self, now: float) -> None:
        self.steps += 1

    def reconnected(self) -> None:
        self.reconnects += 1


def failing(times: int, then: Callable[[], object]) -> Callable[[], object]:
    left = [times]

    def errand() -> object:
        if left[0]:
            left[0] -= 1
            raise redis.ConnectionError("away")
        return then()

    return errand


def test_steps_on_time() -> None:
    often, seldom = Role(0.01), Role(3600)
    periodic = Periodic("test", [often, seldom])
    periodic.start()
    eventually(lambda: often.steps > 3)
    assert periodic.stop(20)
    assert seldom.steps == 1
    assert often.reconnects == 0


def test_errands_in_order_each_until_it_succeeds() -> None:
    done: list[int] = []
    periodic = Periodic("test", [])
    periodic.do(failing(3, lambda: done.append(1)))
    periodic.do(lambda: done.append(2))
    periodic.start()
    periodic.do(lambda: done.append(3))
    assert periodic.stop(20)
    assert done == [1, 2, 3]


def test_after_an_outage_every_role_hears_of_it_before_it_steps(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Role(), Role()
    periodic = Periodic("test", [first, second])
    with caplog.at_level(logging.INFO, "workers.periodic"):
        periodic.start()
        eventually(lambda: first.steps > 1)
        periodic.do(failing(3, lambda: None))
        eventually(lambda: second.reconnects)
        assert periodic.stop(20)
    assert min(first.reconnects, second.reconnects) >= 1
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "does not answer" in line]) == 1
    assert said[-1] == "the store answers again"


def test_an_outage_of_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of attempts in vain, here without their pauses."""
    monkeypatch.setattr("random.uniform", lambda _least, _most: 0.0)
    done: list[int] = []
    periodic = Periodic("test", [Role(3600)])
    periodic.do(failing(10_000, lambda: done.append(1)))
    periodic.start()
    assert periodic.stop(60)
    assert done == [1]


def test_stop_gives_up_on_an_errand_that_never_succeeds() -> None:
    periodic = Periodic("test", [])
    away = [True]

    def errand() -> None:
        if away[0]:
            raise redis.ConnectionError("away")

    periodic.do(errand)
    periodic.start()
    assert not periodic.stop(0.1)
    away[0] = False
    assert periodic.stop(20)


def test_stop_before_start_and_twice() -> None:
    periodic = Periodic("test", [Role()])
    assert periodic.stop(1)
    assert periodic.stop(1)
