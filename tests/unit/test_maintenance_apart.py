"""RQ's maintenance in helper processes: what the worker does after one ends."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from jobqueue.workers.rq_classes import maintenance_apart
from jobqueue.workers.rq_classes.helper_process import STORE_AWAY
from jobqueue.workers.rq_classes.maintenance_apart import AGAIN, LONGEST, MaintenanceApart
from jobqueue.workers.shared.deaths import FAILED

KILLED = 9


class Helper:
    """A helper process that ends when the test says so."""

    made: list[Helper]

    def __init__(self, _worker: object, _duty: str, silent: float = 0.0) -> None:
        self.name = f"helper {len(self.made)}"
        self.status: int | None = None
        self.made.append(self)

    def poll(self, _now: float) -> int | None:
        return self.status

    def kill(self) -> None:
        self.status = KILLED

    def wait(self) -> int:
        assert self.status is not None
        return self.status


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> list[Helper]:
    monkeypatch.setattr(Helper, "made", [], raising=False)
    monkeypatch.setattr(maintenance_apart, "HelperProcess", Helper)
    return Helper.made


class Worker(SimpleNamespace):
    @property
    def should_run_maintenance_tasks(self) -> bool:
        return self.last_cleaned_at is None


@pytest.fixture
def worker() -> Any:
    log = SimpleNamespace(warning=lambda *_: None)
    return Worker(name="w", last_cleaned_at=None, scheduler=None, log=log)


def starts(*_: object) -> bool:
    return True


def maintenance_of(worker: Any, start: Callable[..., bool] = starts) -> MaintenanceApart:
    return MaintenanceApart(worker, start)


def test_a_round_that_succeeds_is_not_repeated(helpers: list[Helper], worker: Any) -> None:
    maintenance = maintenance_of(worker)
    maintenance.step(0.0)
    maintenance.look(0.1)
    maintenance.step(0.2)
    assert (len(helpers), worker.last_cleaned_at) == (1, None)
    helpers[0].status = 0
    maintenance.look(0.3)
    maintenance.step(0.4)
    assert len(helpers) == 1
    assert worker.last_cleaned_at
    assert maintenance.helper is None


@pytest.mark.parametrize("second", [0, KILLED, FAILED << 8])
def test_a_round_that_died_is_repeated_once(helpers: list[Helper], worker: Any, second: int) -> None:
    maintenance = maintenance_of(worker)
    maintenance.step(0.0)
    helpers[0].status = KILLED
    maintenance.look(0.1)
    assert (len(helpers), worker.last_cleaned_at) == (2, None)
    helpers[1].status = second
    maintenance.look(0.2)
    assert worker.last_cleaned_at
    maintenance.step(0.3)
    assert len(helpers) == 2


def test_a_round_that_failed_in_an_outage_is_repeated_later(helpers: list[Helper], worker: Any) -> None:
    """The round is tried again after a while, with callbacks."""
    maintenance = maintenance_of(worker)
    maintenance.step(0.0)
    helpers[0].status = STORE_AWAY << 8
    maintenance.look(1.0)
    maintenance.step(1.0 + AGAIN - 0.1)
    assert len(helpers) == 1
    maintenance.step(1.0 + AGAIN)
    assert len(helpers) == 2


def test_a_round_that_takes_too_long_is_killed(helpers: list[Helper], worker: Any) -> None:
    maintenance = maintenance_of(worker)
    maintenance.step(0.0)
    maintenance.look(LONGEST)
    assert len(helpers) == 1
    maintenance.look(LONGEST + 0.1)
    assert (helpers[0].status, len(helpers)) == (KILLED, 2)


def test_a_stop_starts_no_further_round(helpers: list[Helper], worker: Any) -> None:
    maintenance = maintenance_of(worker)
    maintenance.step(0.0)
    maintenance.close()
    maintenance.close()
    maintenance.look(0.1)
    assert (maintenance.helper, len(helpers)) == (None, 1)


def test_a_process_that_could_not_be_started_is_tried_again_later(helpers: list[Helper], worker: Any) -> None:
    maintenance = maintenance_of(worker, lambda *_: False)
    maintenance.step(0.0)
    maintenance.step(AGAIN / 2)
    assert len(helpers) == 1
    maintenance.step(AGAIN)
    assert len(helpers) == 2
