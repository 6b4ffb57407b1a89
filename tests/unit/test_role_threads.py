"""The threads of the supervisor: which roles there are, registration, owner names, and the last requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
import redis
from helpers import eventually

from jobqueue.protocol import keys
from jobqueue.store.connection import Address
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor import role_threads
from jobqueue.workers.supervisor.child_handle import make_handles
from jobqueue.workers.supervisor.role_threads import RoleThreads

OWNER = "w:0.1"


class FakeStore:
    """A store in this process, which a test switches on and off."""

    def __init__(self) -> None:
        self.redis = fakeredis.FakeRedis()

    def client(self, **_: Any) -> redis.Redis:
        return self.redis

    def ensure(self) -> None:
        """Start nothing."""


class Bench:
    """The threads of a worker, and the events that they have posted to its main loop."""

    def __init__(self, **settings: Any) -> None:
        self.store = FakeStore()
        self.events: list[Callable[[], object]] = []
        store: Any = self.store
        cron: Any = settings.pop("cron", ())
        self.threads = RoleThreads(
            Settings(Address(url=""), "w", ("default",), 1, 1, **settings),
            store,
            cron,
            make_handles(1, 1)[1],
            self.events.append,
            on_left=lambda left: None,
            on_command=lambda command: None,
            on_lapse=lambda: None,
            fork_maintenance=lambda _plain: False,
        )

    @property
    def roles(self) -> list[str]:
        return [type(role).__name__ for role in self.threads._roles()]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.threads._heartbeat_thread.stop(10)
    bench.threads._roles_thread.stop(10)


@pytest.mark.parametrize(
    ("scheduler", "cron", "more"),
    [
        (False, False, []),
        (True, False, ["Scheduler", "CronRegistration"]),
        (False, True, ["CronLeader", "CronRegistration"]),
        (True, True, ["Scheduler", "CronLeader", "CronRegistration"]),
    ],
)
def test_the_rescuer_is_the_first_of_the_roles(scheduler: bool, cron: bool, more: list[str]) -> None:
    """The rescuer steps first: the jobs of dead children come before all other duties."""
    bench = Bench(scheduler=scheduler, cron=["an entry"] if cron else ())
    assert bench.roles == ["Rescuer", "Maintenance", "WrongKeys", *more]


def test_a_worker_that_never_was_ready_leaves_no_key(bench: Bench) -> None:
    assert bench.threads.close(False)
    assert not bench.threads.has_lease
    assert bench.store.redis.keys() == []


def test_registration_is_first_and_the_last_requests_are_sent_at_the_stop(bench: Bench) -> None:
    bench.threads.register()
    bench.threads.register()
    eventually(lambda: bench.threads.has_lease)
    assert bench.store.redis.sismember(keys.WORKERS, keys.worker("w"))
    assert bench.store.redis.exists(keys.lease("w"))
    assert bench.threads.close(False)
    assert not bench.store.redis.sismember(keys.WORKERS, keys.worker("w"))
    assert not bench.store.redis.exists(keys.lease("w"))


def test_an_owner_name_is_stored_before_its_process_is_requested(bench: Bench) -> None:
    stood: list[bool] = []
    bench.threads.register()
    bench.threads.add_owner(OWNER, lambda: stood.append(bool(bench.store.redis.sismember(keys.OWNERS, OWNER))))
    eventually(lambda: bool(bench.events))
    for event in bench.events:
        event()
    assert stood == [True]


@pytest.mark.parametrize("busy", [True, False])
def test_a_stop_logs_what_could_not_be_recorded(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """A request is still under way, or the last requests do not succeed in time."""
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(role_threads, "GIVE_UP", 0.2)
    bench.threads.register()
    if not busy:
        monkeypatch.setattr(bench.threads._roles_thread, "stop", lambda timeout: False)
    assert not bench.threads.close(busy)
    assert "what was left of the last jobs could not be recorded within 0.2 s, although the store" in caplog.text
    monkeypatch.undo()
