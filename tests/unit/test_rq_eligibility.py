"""RQ's own loop runs workers whose class changes how RQ runs jobs; our engine runs those that only set attributes."""

from __future__ import annotations

import threading
from typing import Any
from unittest import mock

import pytest
import redis
import rq
from rq.timeouts import TimerDeathPenalty

import jobqueue
from jobqueue.workers.rq_classes.on_engine import OnOurEngine
from jobqueue.workers.rq_classes.worker import SimpleWorker, Worker


class Tagged(SimpleWorker):
    """A class that has settings, and a method that RQ does not have."""

    log_result_lifespan = False

    def tag(self) -> str:
        return "mine"


class Performs(SimpleWorker):
    def perform_job(self, *args: Any) -> bool:
        return bool(super().perform_job(*args))


class LoudJob(rq.job.Job):
    def perform(self) -> Any:
        return super().perform()


class PlainJob(rq.job.Job):
    """A subclass without attributes of its own."""


class Resolves(rq.job.Job):
    """A class with a method that our class has too."""

    def resolve(self) -> None:
        pass


class OwnKeys(rq.Queue):
    redis_queue_namespace_prefix = "mine:queue:"


class Timed(Worker):
    death_penalty_class = TimerDeathPenalty


def why(worker: OnOurEngine) -> str:
    return worker._why_rq()


@pytest.mark.parametrize("cls", [SimpleWorker, Worker, Tagged])
@pytest.mark.parametrize(
    "options", [{}, {"job_class": PlainJob}, {"queue_class": jobqueue.Queue}, {"serializer": "json"}]
)
def test_classes_that_our_engine_runs(store: redis.Redis, cls: type[OnOurEngine], options: dict[str, Any]) -> None:
    assert why(cls(["q"], connection=store, **options)) == ""


@pytest.mark.parametrize(
    ("cls", "options", "reason"),
    [
        (Performs, {}, "Performs.perform_job is overridden"),
        (SimpleWorker, {"job_class": LoudJob}, "LoudJob.perform is overridden"),
        (SimpleWorker, {"job_class": Resolves}, "Resolves.resolve is overridden"),
        (Worker, {"queue_class": OwnKeys}, "OwnKeys.redis_queue_namespace_prefix is overridden"),
        (Timed, {}, "its death_penalty_class is TimerDeathPenalty"),
    ],
)
def test_classes_that_rqs_own_loop_runs(
    store: redis.Redis, cls: type[OnOurEngine], options: dict[str, Any], reason: str
) -> None:
    assert why(cls(["q"], connection=store, **options)) == reason


@pytest.mark.parametrize("patched", [rq.worker.BaseWorker, rq.worker.SimpleWorker, SimpleWorker, rq.job.Job])
def test_a_patched_class_runs_on_rqs_own_loop(store: redis.Redis, patched: type) -> None:
    """The patch is made as Sentry's integration makes it."""
    name = "perform" if patched is rq.job.Job else "execute_job"
    worker = SimpleWorker(["q"], connection=store)
    with mock.patch.object(patched, name):
        assert why(worker) == f"{patched.__name__}.{name} is overridden"
    assert why(worker) == ""


def test_a_patched_instance_runs_on_rqs_own_loop(store: redis.Redis) -> None:
    worker = SimpleWorker(["q"], connection=store)
    with mock.patch.object(worker, "heartbeat"):
        assert why(worker) == "heartbeat is overridden"


def test_outside_the_main_thread_rqs_own_loop_runs(store: redis.Redis) -> None:
    worker, found = SimpleWorker(["q"], connection=store), list[str]()
    thread = threading.Thread(target=lambda: found.append(why(worker)))
    thread.start()
    thread.join()
    assert found == ["it is not in the main thread"]


def test_rqs_own_loop_still_works(store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    job = queue.enqueue("samples.ok", 3)
    Performs([queue], connection=store).work(burst=True)
    assert job.return_value() == 3


def test_rqs_timer_death_penalty_still_works() -> None:
    """RQ calls the same function of CPython with another type for the thread's id."""
    import jobqueue.workers.running.limits  # noqa: F401

    def spin() -> None:
        while True:
            pass

    class Late(rq.timeouts.BaseTimeoutException):  # it overwrites the class's __init__
        pass

    with pytest.raises(Late), TimerDeathPenalty(1, Late):
        spin()
