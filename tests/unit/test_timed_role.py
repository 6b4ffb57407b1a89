"""A thread of roles does requests in order until they succeed, steps on time, and logs an outage once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import redis
from fake_children import Clock
from helpers import eventually

from jobqueue.own_random import own_random
from jobqueue.workers.roles import timed_role
from jobqueue.workers.roles.timed_role import REQUEST, Outage, RoleThread
from jobqueue.workers.shared.failures import Failures


class Role:
    """A role that counts its steps."""

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

    def request() -> object:
        if left[0]:
            left[0] -= 1
            raise redis.ConnectionError("away")
        return then()

    return request


def test_steps_are_taken_on_time() -> None:
    often, seldom = Role(0.01), Role(3600)
    role_thread = RoleThread("test", [often, seldom])
    role_thread.start()
    eventually(lambda: often.steps > 3)
    assert role_thread.stop(20)
    assert seldom.steps == 1
    assert often.reconnects == 0


def test_requests_are_done_in_order_each_until_it_succeeds() -> None:
    done: list[int] = []
    role_thread = RoleThread("test", [])
    role_thread.do(failing(3, lambda: done.append(1)))
    role_thread.do(lambda: done.append(2))
    role_thread.start()
    role_thread.do(lambda: done.append(3))
    assert role_thread.stop(20)
    assert done == [1, 2, 3]


def test_after_an_outage_every_role_is_told_before_it_steps(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Role(), Role()
    role_thread = RoleThread("test", [first, second])
    with caplog.at_level(logging.INFO, "jobqueue.workers.roles.timed_role"):
        role_thread.start()
        eventually(lambda: first.steps > 1)
        role_thread.do(failing(3, lambda: None))
        eventually(lambda: second.reconnects)
        assert role_thread.stop(20)
    assert min(first.reconnects, second.reconnects) >= 1
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "does not answer" in line]) == 1
    assert said[-1] == "the store answers again"


def test_an_outage_of_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """After thousands of failed attempts, here without their pauses, the thread continues."""
    monkeypatch.setattr(own_random, "uniform", lambda _least, _most: 0.0)
    done: list[int] = []
    role_thread = RoleThread("test", [Role(3600)])
    role_thread.do(failing(10_000, lambda: done.append(1)))
    role_thread.start()
    assert role_thread.stop(60)
    assert done == [1]


def test_stop_gives_up_on_a_request_that_never_succeeds() -> None:
    role_thread = RoleThread("test", [])
    away = [True]

    def request() -> None:
        if away[0]:
            raise redis.ConnectionError("away")

    role_thread.do(request)
    role_thread.start()
    assert not role_thread.stop(0.1)
    away[0] = False
    assert role_thread.stop(20)


def test_stop_before_start_and_twice() -> None:
    role_thread = RoleThread("test", [Role()])
    assert role_thread.stop(1)
    assert role_thread.stop(1)


# -- what nobody expected --------------------------------------------------------------------------------------------


class Broken(Role):
    """A role that fails until it is repaired, although the store answers."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    def step(self, now: float) -> None:
        super().step(now)
        if self.error:
            raise self.error


UNEXPECTED = [
    OverflowError("cannot convert float infinity to integer"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    redis.ResponseError("ERR value is not an integer or out of range script: 00, on @user_script:1."),
    RecursionError(),
]


@pytest.mark.parametrize("error", UNEXPECTED, ids=repr)
def test_a_role_that_fails_is_tried_again_and_the_others_continue(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other, changes = Broken(error), Role(), []
    failures = Failures(on_change=lambda: changes.append(failures.why()))
    role_thread = RoleThread("test", [broken, other], failures=failures)
    with caplog.at_level(logging.INFO):
        role_thread.start()
        eventually(lambda: broken.steps >= 2 and other.steps > 3)
        assert failures.why().startswith(f"the broken fails: {type(error).__name__}")
        done: list[int] = []
        role_thread.do(lambda: done.append(1))
        eventually(lambda: done)
        broken.error = None
        eventually(lambda: not failures.why())
        assert role_thread.stop(20)
    assert "Traceback" in caplog.text
    assert caplog.messages.count("the broken works again") == 1
    assert (changes[0].startswith("the broken fails"), changes[-1]) == (True, "")
    assert other.reconnects == 0


@pytest.mark.parametrize("error", UNEXPECTED, ids=repr)
def test_a_request_that_fails_holds_up_nothing(error: Exception) -> None:
    """A failing request is repeated until it succeeds; meanwhile other requests are done and the roles take their
    steps."""
    role, done, broken = Role(), [], [True]
    failures = Failures()

    def request() -> None:
        if broken:
            raise error
        done.append("mended")

    role_thread = RoleThread("test", [role], failures=failures)
    role_thread.do(request)
    role_thread.do(lambda: done.append("next"))
    role_thread.start()
    eventually(lambda: done == ["next"] and role.steps > 3)
    assert failures.why().startswith(f"{REQUEST} fails: ")
    assert not role_thread.stop(0.2)
    broken.clear()
    assert role_thread.stop(20)
    assert done == ["next", "mended"]


def test_roles_step_while_the_store_refuses_one_request() -> None:
    """A store that refuses a request may still accept a heartbeat."""
    role, away = Role(), [True]

    def request() -> None:
        if away:
            raise redis.ConnectionError("away")

    role_thread = RoleThread("test", [role])
    role_thread.do(request)
    role_thread.start()
    eventually(lambda: role.steps > 3)
    away.clear()
    assert role_thread.stop(20)


def test_a_store_that_cannot_be_started_does_not_end_the_thread() -> None:
    """The start may raise any exception."""
    done: list[int] = []
    calls: list[int] = []

    def cannot() -> None:
        calls.append(1)
        raise FileNotFoundError("its directory is gone")

    role_thread = RoleThread("test", [Role()], on_away=cannot)
    role_thread.do(failing(3, lambda: done.append(1)))
    role_thread.start()
    eventually(lambda: done)
    assert len(calls) == 3
    assert role_thread.stop(20)


def test_away_is_set_only_while_the_store_does_not_answer() -> None:
    """A stop that leaves a request undone may report "it does not answer" only if that is true."""
    gate = [False]

    def request() -> None:
        if not gate[0]:
            raise redis.ConnectionError("away")

    role_thread = RoleThread("test", [Role()])
    role_thread.start()
    assert not role_thread.is_away
    role_thread.do(request)
    eventually(lambda: role_thread.is_away)
    gate[0] = True
    eventually(lambda: not role_thread.is_away)
    assert role_thread.stop(20)


def test_an_outage_is_logged_once_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """The first thread that notices the outage logs it; it is logged again for a later outage."""
    clock = Clock()
    outage, error = Outage(clock), redis.ConnectionError("gone")
    with caplog.at_level(logging.INFO, timed_role.__name__):
        for seconds, said in ((0.0, 1), (0.1, 1), (timed_role.SAME_OUTAGE, 2)):
            clock.now += seconds
            outage.begins(error)
            outage.begins(error)
            outage.is_over()
            assert caplog.text.count("the store does not answer") == said
