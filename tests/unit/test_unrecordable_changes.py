"""A job, or its callback, sets a value on the RQ job that cannot be recorded: that job fails once, with the reason."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis
import rq
from rq import Callback
from rq.job import Job
from samples_unfriendly import Reduced
from test_rq_finish import ONE, Desk, NoLimit, W, error, value

from jobqueue.protocol import keys
from jobqueue.protocol.claims import Claimed
from jobqueue.store.connection import Address
from jobqueue.workers.rq_finish.finish import Finisher
from jobqueue.workers.running.runner import Ending
from jobqueue.workers.shared.settings import Settings

SET: dict[str, Any] = {}  # what the callbacks below set on their job
CALLED: list[str] = []
DAY = timedelta(days=1)


@pytest.fixture
def desk(store: redis.Redis, server: Any) -> Iterator[Desk]:
    desk = Desk(store, server.url)
    handlers = (f"{__name__}.handle",)
    settings = Settings(
        Address(url=server.url), W, ("default",), 1, 1, modules=(__name__,), exception_handlers=handlers
    )
    desk.finisher = Finisher(settings, ONE, store, NoLimit)
    yield desk
    SET.clear()
    CALLED.clear()


def succeeded(job: Job, _connection: redis.Redis, _result: Any) -> None:
    CALLED.append("success")
    job.__dict__.update(SET)


def failed(job: Job, _connection: redis.Redis, *_error: Any) -> None:
    CALLED.append("failure")
    job.__dict__.update(SET)


def stop_called(job: Job, _connection: redis.Redis) -> None:
    CALLED.append("stopped")
    job.__dict__.update(SET)


def handle(*_told: Any) -> None:
    CALLED.append("handler")


def begin_a_transaction(_job: Job, connection: redis.Redis, *_told: Any) -> None:
    connection.execute_command("multi")


CALLBACKS = {"on_success": Callback(succeeded), "on_failure": Callback(failed)}


def finish(desk: Desk, job: Claimed, ending: Ending, **changes: Any) -> None:
    desk.finisher.finish(job.id, job.claim, job.queue, ending, 1_795_000_000.0, changes)


def fails_once(desk: Desk, job_id: str, reason: str) -> None:
    """Assert that the job can be read, its dependent is not enqueued, and no process holds it."""
    read = desk.job(job_id)
    assert read.get_status().value == "failed"
    assert re.search(reason, read.latest_result().exc_string)
    assert [one.type.name for one in read.results()] == ["FAILED"]
    assert desk.store.zscore(keys.registry("failed", "default"), job_id) is not None
    assert not desk.waiting()
    desk.nothing_is_held()


# What RQ's finish of a success cannot write, and what Job.fetch could not read again.
NOT_WRITTEN = [
    *({"result_ttl": odd} for odd in (DAY, Decimal(60), True, "60", 1.5, float("nan"), float("inf"), 60.0, [60])),
    *({"failure_ttl": odd} for odd in (DAY, 1.5)),
    *({name: 1.5} for name in ("ttl", "retries_left", "repeats_left", "number_of_retries", "timeout")),
    *({"description": odd} for odd in ("\ud800", [1])),
    *({"_success_callback_timeout": 1.5}, {"webhooks": "x"}, {"retry_intervals": [DAY]}),
    *({"repeats_left": 1, "repeat_intervals": odd} for odd in ([float("nan")], ["x"], [DAY])),
]


@pytest.mark.parametrize(
    ("changes", "whose"),
    [*((odd, "job") for odd in NOT_WRITTEN), *((odd, "callback") for odd in NOT_WRITTEN[:4])],
    ids=repr,
)
def test_changes_by_a_job_that_succeeded(desk: Desk, changes: dict[str, Any], whose: str) -> None:
    """As in RQ, the job then fails, and its callback and handlers are called."""
    job = desk.claim_one(**CALLBACKS)
    after = desk.queue.enqueue("samples.ok", 6, depends_on=job.id)
    SET.update(changes if whose == "callback" else {})
    finish(desk, job, value(5), **(changes if whose == "job" else {}))
    fails_once(desk, job.id, r"(Error|BadValue): ")
    assert CALLED == ["success", "failure", "handler"]
    assert desk.status(after.id) == "deferred"


RETRY = {"retries_left": 2}
NOT_RETRIED = [
    *({"retries_left": odd} for odd in ("3", DAY)),
    *(RETRY | {"retry_intervals": odd} for odd in (["x"], [float("nan")], [DAY], [1e300], 5)),
    *(RETRY | {"meta": {"at": odd}} for odd in (datetime(2026, 1, 1, tzinfo=UTC), {1, 2})),
    *(RETRY | {"result_ttl": odd} for odd in (DAY, 1.5, True)),
    *({"failure_ttl": odd} for odd in (DAY, "60", 1.5, float("nan"), Decimal(60), True)),
    *(RETRY | {"webhooks": "x"}, {"retries_left": "3", "result_ttl": "60"}),
]


@pytest.mark.parametrize(
    ("changes", "whose"),
    [*((odd, "job") for odd in NOT_RETRIED), *((odd, "callback") for odd in NOT_RETRIED[:4])],
    ids=repr,
)
def test_changes_by_a_job_that_failed(desk: Desk, changes: dict[str, Any], whose: str) -> None:
    """The job's failure is recorded as it was, with a note on the other error."""
    job = desk.claim_one(**CALLBACKS)
    SET.update(changes if whose == "callback" else {})
    finish(desk, job, error("what the job raised"), **(changes if whose == "job" else {}))
    fails_once(desk, job.id, "ValueError: what the job raised")
    assert "Its end could not be recorded as the job left it." in desk.job(job.id).latest_result().exc_string
    assert CALLED == ["failure", "handler"]


@pytest.mark.parametrize("how", ["exit", "interrupt"])
def test_meta_whose_own_code_would_end_the_process(desk: Desk, how: str) -> None:
    job = desk.claim_one(**CALLBACKS)
    desk.finisher.runner.serializer_of = lambda _data: pickle  # type: ignore[method-assign]
    finish(desk, job, error(), **RETRY, meta={"x": Reduced(how, "dumps")})
    fails_once(desk, job.id, "ValueError: no")
    assert CALLED == ["failure", "handler"]


def test_a_change_that_neither_success_nor_failure_can_record(desk: Desk) -> None:
    """The store refuses the success, and also the failure that follows from it."""
    job = desk.claim_one(**CALLBACKS)
    finish(desk, job, value(5), result_ttl="60", retries_left="3")
    fails_once(desk, job.id, "TypeError")
    assert CALLED == ["success", "failure", "handler"]


def test_a_number_given_as_text_is_recorded(desk: Desk) -> None:
    job = desk.claim_one()
    finish(desk, job, value(5), failure_ttl="60", retries_left="3")
    read = desk.job(job.id)
    assert (read.get_status().value, read.failure_ttl, read.retries_left) == ("finished", 60, 3)


class HalfAWebhook:
    """A webhook that can be written, and not sent."""

    def to_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("ending", [value(5), error()], ids=["success", "failure"])
def test_an_error_after_the_record_changes_nothing(desk: Desk, ending: Ending) -> None:
    """The dependents are enqueued, which RQ does not do after such an error."""
    job = desk.claim_one(**CALLBACKS)
    after = desk.queue.enqueue("samples.ok", 6, depends_on=rq.job.Dependency([job.id], allow_failure=True))
    finish(desk, job, ending, webhooks=[HalfAWebhook()])
    assert desk.waiting() == [after.id]
    assert (desk.status(job.id), CALLED) in (("finished", ["success"]), ("failed", ["failure", "handler"]))
    assert desk.store.xlen(keys.results(job.id)) == 1
    desk.nothing_is_held()


def test_changes_by_a_job_that_was_stopped(desk: Desk) -> None:
    """A stopped job ends in the same way, and is recorded as stopped."""
    job = desk.claim_one(on_stopped=Callback(stop_called))
    SET.update(failure_ttl="x")
    desk.finisher.finish_stopped(job.id, job.claim, job.queue, error("stopped"), 1_795_000_000.0)
    read = desk.job(job.id)
    assert (read.get_status().value, CALLED) == ("stopped", ["stopped"])
    assert "stopped" in read.latest_result().exc_string
    desk.nothing_is_held()


def test_an_outage_after_such_a_failure(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finish waits for the store as usual, and calls no callback again."""
    job = desk.claim_one(**CALLBACKS)
    begin, lost = desk.finisher._begin, [redis.ConnectionError("away")] * 2
    calls: list[int] = []

    def flaky(fence: Any) -> Any:
        calls.append(1)
        if len(calls) > 1 and lost:
            raise lost.pop()
        return begin(fence)

    monkeypatch.setattr(desk.finisher, "_begin", flaky)
    finish(desk, job, error(), retries_left="3")
    fails_once(desk, job.id, "ValueError: no")
    assert (CALLED, len(calls)) == (["failure", "handler"], 4)


def test_the_next_job_is_finished_as_usual(desk: Desk) -> None:
    finish(desk, desk.claim_one(**CALLBACKS), error(), retries_left="3")
    CALLED.clear()
    job = desk.claim_one(**CALLBACKS)
    finish(desk, job, value(5))
    assert (desk.status(job.id), CALLED) == ("finished", ["success"])


def test_a_callback_that_begins_a_transaction_on_a_pools_connection(desk: Desk) -> None:
    """The transaction would stay open on the connection, whose next user is the finish."""
    job = desk.claim_one(on_success=Callback(begin_a_transaction))
    finish(desk, job, value(5))
    fails_once(desk, job.id, "multi")
