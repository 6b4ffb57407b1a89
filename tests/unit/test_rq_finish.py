"""RQ's own finish, on a real server, does what RQ does, and nothing without the token."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis
import rq
from rq import Callback
from rq.job import Dependency, Job, JobStatus
from rq.rate_limit import RateLimit
from rq.results import Result
from rq.timeouts import BaseDeathPenalty
from samples import words_of

import jobqueue.job
from jobqueue.admin.control import requeue
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.protocol.claims import Claimed, StartMark
from jobqueue.protocol.outcomes import RAISED, RETURNED
from jobqueue.protocol.protocol import Protocol
from jobqueue.serializers import JSON, Auto
from jobqueue.store.connection import Address
from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.rq_finish.fence import Fence, FencedPipeline
from jobqueue.workers.rq_finish.finish import Finisher
from jobqueue.workers.running.runner import Ending, raised
from jobqueue.workers.shared.settings import Settings

W = "host-1-abc"
ONE, TWO = f"{W}:0.1", f"{W}:1.1"


class NoLimit(BaseDeathPenalty):
    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


class Desk:
    """A real store, two owners, and one slot's finisher."""

    def __init__(self, store: redis.Redis, url: str) -> None:
        self.store = store
        self.protocol = Protocol(store)
        self.queue = Queue(connection=store)
        store.sadd(keys.OWNERS, ONE, TWO)
        self.finisher = Finisher(
            Settings(Address(url=url), W, ("default",), 1, 1, modules=("samples", __name__)), ONE, store, NoLimit
        )

    def claim(self, owner: str = ONE) -> Claimed:
        [job] = self.protocol.cycle(owner, W, ["default"], [], 1, 1).jobs
        return job

    def claim_one(self, **options: Any) -> Claimed:
        self.queue.enqueue("samples.ok", 5, **options)
        return self.claim()

    def finish(self, job: Claimed, ending: Ending) -> None:
        self.finisher.finish(job.id, job.claim, job.queue, ending, 1_795_000_000.0)

    def rescue(self) -> None:
        told = {"on_crash": "retry", "most": 3, "final": True, "cause": b"", "ended_at": "", "ended": 0.0}
        assert self.protocol.rescue(ONE, W, running=[], **told)

    def job(self, job_id: str) -> Job:
        return Job.fetch(job_id, self.store, Auto)

    def status(self, job_id: str) -> str:
        return str(self.job(job_id).get_status().value)

    def waiting(self) -> list[str]:
        return [i.decode() for i in self.store.lrange(keys.queue("default"), 0, -1)]

    def nothing_is_held(self) -> None:
        for key in (keys.own(ONE), keys.intermediate("default"), keys.registry("wip", "default")):
            assert not self.store.exists(key)
        assert not list(self.store.scan_iter(keys.fin("*")))
        assert not list(self.store.scan_iter("rq:execution*"))


@pytest.fixture
def desk(store: redis.Redis, server: Any) -> Desk:
    return Desk(store, server.url)


def value(of: Any) -> Ending:
    return Ending(RETURNED, base64.b64encode(JSON.dumps(of)), of)


def error(words: str = "no") -> Ending:
    try:
        raise ValueError(words)
    except ValueError as e:
        return raised(e)


# -- to the letter -------------------------------------------------------------------------------------------------


def test_a_success_is_recorded_as_rq_does(desk: Desk) -> None:
    job = desk.claim_one(on_success=Callback("samples.on_success"))
    desk.protocol.start_mark(ONE, W, [StartMark(job, "2026-11-22T12:00:00.000000Z", 90)])
    desk.finish(job, value(5))
    read = desk.job(job.id)
    assert (read.get_status(), read.return_value()) == (JobStatus.FINISHED, 5)
    assert read.started_at.timestamp() == 1_795_000_000.0
    assert read.latest_result().worker_name == W
    assert desk.store.zscore(keys.registry("finished", "default"), job.id) is not None
    assert desk.store.hgetall(words_of(job.id)) == {b"success": b"5", b"calls": b"1"}
    assert desk.store.hget(keys.worker(W), "successful_job_count") == b"1"
    desk.nothing_is_held()


def test_a_failure_is_recorded_as_rq_does(desk: Desk) -> None:
    job = desk.claim_one(on_failure=Callback("samples.on_failure"))
    desk.finish(job, error())
    read = desk.job(job.id)
    assert read.get_status() is JobStatus.FAILED
    assert read.latest_result().exc_string.strip().endswith("ValueError: no")
    assert desk.store.hget(words_of(job.id), "failure") == b"ValueError: no"
    assert desk.store.zscore(keys.registry("failed", "default"), job.id) is not None
    desk.nothing_is_held()


def test_a_success_callback_that_raises_fails_the_job(desk: Desk) -> None:
    job = desk.claim_one(on_success=Callback("samples.bad_callback"))
    desk.finish(job, value(5))
    read = desk.job(job.id)
    assert read.get_status() is JobStatus.FAILED
    assert "RuntimeError: the callback failed" in read.latest_result().exc_string
    desk.nothing_is_held()


def test_a_retry_without_an_interval(desk: Desk) -> None:
    job = desk.claim_one(retry=rq.Retry(max=1))
    desk.finish(job, error())
    assert desk.waiting() == [job.id]
    assert (desk.status(job.id), desk.job(job.id).retries_left) == ("queued", 0)
    desk.nothing_is_held()
    desk.finish(desk.claim(), error())
    assert desk.status(job.id) == "failed"
    desk.nothing_is_held()


def test_a_retry_with_an_interval(desk: Desk) -> None:
    job = desk.claim_one(retry=rq.Retry(max=1, interval=60))
    desk.finish(job, error())
    assert (desk.status(job.id), desk.waiting()) == ("scheduled", [])
    assert desk.store.zscore(keys.registry("scheduled", "default"), job.id) is not None
    desk.nothing_is_held()


def test_a_job_that_returns_retry(desk: Desk) -> None:
    job = desk.claim_one()
    desk.finish(job, Ending(RETURNED, b"", rq.Retry(max=1)))
    assert desk.waiting() == [job.id]
    assert desk.job(job.id).latest_result().type is Result.Type.RETRIED
    desk.nothing_is_held()


def test_dependents_are_enqueued(desk: Desk) -> None:
    first = desk.queue.enqueue("samples.ok", 5)
    after = [desk.queue.enqueue("samples.ok", n, depends_on=first) for n in range(3)]
    job = desk.claim()
    desk.finish(job, value(5))
    assert sorted(desk.waiting()) == sorted(job.id for job in after)
    assert {desk.status(job.id) for job in after} == {"queued"}
    desk.nothing_is_held()


def test_the_last_of_several_parents_enqueues_what_waits_for_all(desk: Desk) -> None:
    parents = [desk.claim_one(job_id=name) for name in ("left", "right")]
    desk.queue.enqueue("samples.ok", 6, job_id="after", depends_on=["left", "right"])
    desk.finish(parents[0], value(5))
    assert (desk.waiting(), desk.status("after")) == ([], "deferred")
    desk.finish(parents[1], value(5))
    assert (desk.waiting(), desk.status("after")) == (["after"], "queued")
    desk.nothing_is_held()


@pytest.mark.parametrize("by", ["jobq", "RQ"])
@pytest.mark.parametrize("first", ["finished", "failed", "kept for ever", "gone"])
def test_dependents_of_a_job_that_had_ended_leave_no_key_for_ever(desk: Desk, first: str, by: str) -> None:
    told: dict[str, Any] = {"result_ttl": -1} if first == "kept for ever" else {}
    left = desk.claim_one(job_id="left", **told)
    desk.finish(left, error() if first == "failed" else value(5))
    right = desk.claim_one(job_id="right")
    parents: list[Any] = ["left", "right"] if by == "jobq" else [desk.job("left"), desk.job("right")]
    if first == "gone":
        desk.store.delete(keys.job("left"), keys.results("left"))
    queue = desk.queue if by == "jobq" else rq.Queue(connection=desk.store, serializer=JSON)
    queue.enqueue("samples.ok", 6, job_id="after", depends_on=Dependency(parents, allow_failure=True))  # type: ignore[attr-defined]
    assert desk.status("after") == "deferred"
    desk.finish(right, value(5))
    assert desk.waiting() == ["after"]
    for_ever = [name for name in ("left", "right") if desk.store.ttl(keys.dependents(name)) == -1]
    assert for_ever == []


def test_dependents_of_a_failed_job_wait(desk: Desk) -> None:
    first = desk.queue.enqueue("samples.ok", 5)
    after = desk.queue.enqueue("samples.ok", 6, depends_on=first)
    desk.finish(desk.claim(), error())
    assert desk.waiting() == []
    assert desk.status(after.id) == "deferred"


def test_a_job_with_result_ttl_0_is_deleted(desk: Desk) -> None:
    job = desk.claim_one(result_ttl=0)
    desk.finish(job, value(5))
    assert not desk.store.exists(keys.job(job.id), keys.results(job.id))
    desk.nothing_is_held()


@pytest.mark.parametrize("ending", [value(5), error()], ids=["returned", "raised"])
def test_an_outcome_that_the_fast_path_recorded(desk: Desk, ending: Ending) -> None:
    """The journal's record has only the payload: the value is decoded; of an error only the text is known."""
    job = desk.claim_one()
    desk.finish(job, desk.finisher.runner.ending_of(ending.kind, ending.payload))
    read = desk.job(job.id)
    if ending.kind == RAISED:
        assert read.latest_result().exc_string.strip().endswith("ValueError: no")
    else:
        assert read.return_value() == 5
    desk.nothing_is_held()


def test_rqs_own_worker_leaves_the_same(desk: Desk) -> None:
    """The same job is run by RQ's SimpleWorker and by us: the same fields, status, TTLs and registries."""
    theirs = desk.queue.enqueue("samples.ok", 5, on_success=Callback("samples.on_success"), result_ttl=700)
    rq.SimpleWorker([desk.queue], connection=desk.store, serializer=JSON, log_job_description=False).work(
        burst=True, logging_level="ERROR"
    )
    ours = desk.claim_one(on_success=Callback("samples.on_success"), result_ttl=700)
    desk.finish(ours, value(5))
    fields = [desk.store.hgetall(keys.job(i)) for i in (theirs.id, ours.id)]
    assert set(fields[0]) == set(fields[1])
    assert fields[0][b"status"] == fields[1][b"status"]
    for key in (keys.job, keys.results):
        assert all(600 < desk.store.ttl(key(job.id)) <= 700 for job in (theirs, ours))
    assert [desk.job(i).return_value() for i in (theirs.id, ours.id)] == [5, 5]
    assert desk.store.zcard(keys.registry("finished", "default")) == 2


# -- the fence -----------------------------------------------------------------------------------------------------


def snapshot(desk: Desk) -> dict[bytes, bytes]:
    """Return every key with its content, except those that a callback writes."""
    return {key: desk.store.dump(key) for key in desk.store.scan_iter() if not key.startswith(b"words:")}


def test_without_the_token_nothing_is_done(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    job = desk.claim_one(on_success=Callback("samples.on_success"))
    desk.rescue()
    before = snapshot(desk)
    with caplog.at_level(logging.WARNING, "jobqueue.workers.rq_finish.finish"):
        desk.finish(job, value(5))
    assert snapshot(desk) == before
    assert desk.waiting() == [job.id]
    assert "was taken from this worker" in caplog.text


def test_if_another_owner_runs_the_job_nothing_is_done(desk: Desk) -> None:
    job = desk.claim_one(retry=rq.Retry(max=1))
    desk.rescue()
    desk.store.sadd(keys.OWNERS, ONE)
    desk.claim(TWO)
    before = snapshot(desk)
    desk.finish(job, error())
    assert snapshot(desk) == before


@pytest.mark.parametrize("ending", [value(5), error()], ids=["returned", "raised"])
def test_a_token_lost_during_the_callback(desk: Desk, ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    """The callback takes so long that the job is rescued meanwhile: it was called, and nothing is recorded."""
    import samples

    def slow(*_: Any) -> None:
        desk.rescue()
        states.append(snapshot(desk))

    states: list[dict[bytes, bytes]] = []
    monkeypatch.setattr(samples, "on_success", slow)
    monkeypatch.setattr(samples, "on_failure", slow)
    job = desk.claim_one(on_success=Callback("samples.on_success"), on_failure=Callback("samples.on_failure"))
    desk.finish(job, ending)
    assert len(states) == 1
    assert snapshot(desk) == states[0]
    assert desk.waiting() == [job.id]


def at_the_commit(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[int]:
    """Call something once, between the check of the token and EXEC; count the attempts to commit."""
    tried: list[int] = []
    clean_up = Fence.clean_up

    def watched(self: Fence, pipe: Any) -> None:
        if isinstance(pipe, FencedPipeline):
            tried.append(1)
            if len(tried) == 1:
                act()
        clean_up(self, pipe)

    monkeypatch.setattr(Fence, "clean_up", watched)
    return tried


@pytest.mark.parametrize("ending", [value(5), error()], ids=["returned", "raised"])
def test_a_token_lost_between_the_check_and_exec(desk: Desk, ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[bytes, bytes]] = []

    def rescue() -> None:
        desk.rescue()
        states.append(snapshot(desk))

    job = desk.claim_one(on_success=Callback("samples.on_success"))
    tried = at_the_commit(monkeypatch, rescue)
    desk.finish(job, ending)
    assert len(tried) == 1
    assert snapshot(desk) == states[0]
    assert desk.waiting() == [job.id]


def test_without_the_token_dependents_are_not_enqueued(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = desk.queue.enqueue("samples.ok", 5)
    after = desk.queue.enqueue("samples.ok", 6, depends_on=first)
    job = desk.claim()
    at_the_commit(monkeypatch, desk.rescue)
    desk.finish(job, value(5))
    assert desk.waiting() == [first.id]
    assert desk.status(after.id) == "deferred"


def cut_once(monkeypatch: pytest.MonkeyPatch, n: int, executed: bool) -> list[int]:
    """Cut the connection in the ``n``-th transaction that records, before or after its execution; return those that
    were started."""
    transaction = FencedPipeline._execute_transaction
    begun: list[int] = []

    def cut(self: Any, *args: Any) -> Any:
        if not self.records:
            return transaction(self, *args)
        begun.append(1)
        if len(begun) != n:
            return transaction(self, *args)
        if executed:
            transaction(self, *args)
        raise redis.ConnectionError("cut")

    monkeypatch.setattr(FencedPipeline, "_execute_transaction", cut)
    return begun


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("ending", ["success", "failure", "stop"])
def test_a_lost_connection_while_an_outcome_is_recorded(
    desk: Desk, ending: str, executed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The outcome is recorded once, and logged so; the dependents are enqueued, and callbacks run once where it is
    recorded."""
    callbacks = {"on_success": Callback("samples.on_success"), "on_failure": Callback("samples.on_failure")}
    job = desk.claim_one(**callbacks)
    after = desk.queue.enqueue("samples.ok", 6, depends_on=Dependency([job.id], allow_failure=True))
    begun = cut_once(monkeypatch, 1, executed)
    if ending == "stop":
        desk.finisher.finish_stopped(job.id, job.claim, job.queue, error(), 1_795_000_000.0)
    else:
        desk.finish(job, value(5) if ending == "success" else error())
    assert begun
    assert desk.store.xlen(keys.results(job.id)) == 1
    assert desk.waiting() == ([] if ending == "stop" else [after.id])
    assert "taken from this worker" not in caplog.text
    if executed and ending == "success":
        assert desk.store.hget(words_of(job.id), "calls") == b"1"
    desk.nothing_is_held()


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("ending", ["success", "failure"])
def test_a_lost_connection_while_dependents_are_enqueued(
    desk: Desk, ending: str, executed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.claim_one()
    waiting = Dependency([job.id], allow_failure=True)
    after = {desk.queue.enqueue("samples.ok", n, depends_on=waiting).id for n in range(300)}
    run, asked = Protocol.run, []

    def cut(self: Protocol, name: str, *args: Any) -> Any:
        if name != "dependents" or asked.append(name) or len(asked) > 1:
            return run(self, name, *args)
        if executed:
            run(self, name, *args)
        raise redis.ConnectionError("cut")

    monkeypatch.setattr(Protocol, "run", cut)
    desk.finish(job, value(5) if ending == "success" else error())
    assert set(desk.waiting()) == after
    assert len(desk.waiting()) == len(after)
    desk.nothing_is_held()


@pytest.mark.parametrize("ending", ["success", "failure", "no result kept"])
def test_the_next_process_enqueues_the_dependents_that_are_left(
    desk: Desk, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome is recorded, and some dependents are enqueued: the next process enqueues the others, without a
    callback."""
    on_success = Callback("samples.on_success")
    job = desk.claim_one(result_ttl=0 if ending == "no result kept" else 500, on_success=on_success)
    waiting = Dependency([job.id], allow_failure=True)
    after = {desk.queue.enqueue("samples.ok", n, depends_on=waiting).id for n in range(500)}
    bring_on = Protocol.enqueue_dependents

    def die(self: Protocol, job_id: str) -> Any:
        bring_on(self, job_id)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Protocol, "enqueue_dependents", die)
        with pytest.raises(KeyboardInterrupt):
            desk.finish(job, error() if ending == "failure" else value(5))
    assert 0 < len(desk.waiting()) < 500
    Rescuer(Settings(Address(url=""), "another", ("default",), 1, 1), desk.store, lambda left: None).step(1.0)
    assert set(desk.waiting()) == after
    assert len(desk.waiting()) == len(after)
    assert not list(desk.store.scan_iter("rq:jobq:[ew]*"))
    assert desk.store.hget(words_of(job.id), "calls") == (None if ending == "failure" else b"1")
    desk.nothing_is_held()


def test_keys_of_waiting_dependents_expire_with_the_job(desk: Desk) -> None:
    """As in RQ the dependents stay, in case the job is requeued; but no longer than the job itself."""
    job = desk.claim_one(failure_ttl=100)
    desk.queue.enqueue("samples.ok", 6, job_id="after", depends_on=job.id)
    desk.finish(job, error())
    assert desk.store.smembers(keys.dependents(job.id)) == {b"after"}
    assert 0 < desk.store.ttl(keys.dependents(job.id)) <= 100
    requeue(desk.store, job.id)
    assert desk.store.ttl(keys.dependents(job.id)) == -1
    desk.finish(desk.claim(), value(5))
    assert desk.waiting() == ["after"]


def test_dependents_after_a_failure_that_was_requeued_and_succeeded(desk: Desk) -> None:
    """The job failed, and the process that recorded this died at once; it was requeued and finished before its
    dependents were enqueued."""
    job = desk.claim_one()
    desk.queue.enqueue("samples.ok", 6, job_id="after", depends_on=job.id)
    desk.store.sunionstore(keys.waiting_for(job.id), keys.dependents(job.id))
    desk.store.delete(keys.dependents(job.id))
    desk.store.hset(keys.ENDED, job.id, "failed")
    desk.finish(job, value(5))
    desk.protocol.enqueue_dependents(job.id)
    assert desk.waiting() == ["after"]


@pytest.mark.parametrize("ending", ["success", "failure", "retry", "stop"])
@pytest.mark.parametrize("by", ["RQ", "jobq"])
@pytest.mark.parametrize("marked", [False, True])
def test_a_job_canceled_while_it_ran(desk: Desk, by: str, ending: str, marked: bool) -> None:
    """The cancel came first: the job is in one registry, has no result, and does not run again."""
    job = desk.claim_one(retry=rq.Retry(max=3) if ending == "retry" else None)
    if marked:
        desk.protocol.start_mark(ONE, W, [StartMark(job, "2026-11-22T12:00:00.000000Z", 90)])
    (Job if by == "RQ" else jobqueue.job.Job).fetch(job.id, desk.store, Auto).cancel()
    if ending == "stop":
        desk.finisher.finish_stopped(job.id, job.claim, job.queue, error(), 1_795_000_000.0)
    else:
        desk.finish(job, value(5) if ending == "success" else error())
    assert desk.status(job.id) == "canceled"
    assert registries_of(desk.store, job.id) == ["canceled"]
    assert not desk.store.exists(keys.results(job.id))
    desk.nothing_is_held()


def test_a_cancel_between_the_check_and_exec(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel between the check of the token and the EXEC counts."""
    job = desk.claim_one()
    look = FencedPipeline._look

    def cancel(self: FencedPipeline, *commands: Any) -> Any:
        found = look(self, *commands)
        if desk.status(job.id) != "canceled":
            jobqueue.job.Job.fetch(job.id, desk.store).cancel()
        return found

    monkeypatch.setattr(FencedPipeline, "_look", cancel)
    desk.finish(job, error())
    assert registries_of(desk.store, job.id) == ["canceled"]
    desk.nothing_is_held()


def test_a_rate_limits_place_is_freed_even_if_the_process_dies(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(2):
        desk.queue.enqueue("samples.ok", n, job_id=str(n), rate_limit=RateLimit("api", 1))
    job = desk.claim()

    def die(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Protocol, "enqueue_dependents", die)
        with pytest.raises(KeyboardInterrupt):
            desk.finish(job, value(5))
    assert desk.waiting() == []
    Rescuer(Settings(Address(url=""), "another", ("default",), 1, 1), desk.store, lambda left: None).step(1.0)
    assert desk.waiting() == ["1"]


def registries_of(store: redis.Redis, job_id: str) -> list[str]:
    kinds = ("wip", "finished", "failed", "canceled", "deferred", "scheduled", "ready")
    return [kind for kind in kinds if job_id in str(store.zrange(keys.registry(kind, "default"), 0, -1))]


@pytest.mark.parametrize("executed", [False, True])
def test_a_lost_connection_while_a_retry_is_recorded(
    desk: Desk, executed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.claim_one(retry=rq.Retry(max=3))
    begun = cut_once(monkeypatch, 1, executed)
    desk.finish(job, error())
    assert begun
    assert (desk.waiting(), desk.job(job.id).retries_left) == ([job.id], 2)
    desk.nothing_is_held()


def test_the_token_stays_until_the_outcome_is_recorded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies during RQ's finish holds the job until the one transaction that records it: the job is never
    in limbo."""
    states: list[tuple[str, bool]] = []
    transaction = FencedPipeline._execute_transaction

    def watched(self: Any, *args: Any) -> Any:
        replies = transaction(self, *args)
        states.append((desk.status(job.id), desk.store.zscore(keys.own(ONE), job.id) is not None))
        return replies

    first = desk.queue.enqueue("samples.ok", 5, on_success=Callback("samples.on_success"))
    desk.queue.enqueue("samples.ok", 6, depends_on=first)
    job = desk.claim()
    monkeypatch.setattr(FencedPipeline, "_execute_transaction", watched)
    desk.finish(job, value(5))
    assert set(states) == {("queued", True), ("finished", False)}


def test_a_job_deleted_meanwhile(desk: Desk) -> None:
    job = desk.claim_one(on_success=Callback("samples.on_success"))
    desk.protocol.start_mark(ONE, W, [StartMark(job, "2026-11-22T12:00:00.000000Z", 90)])
    desk.store.delete(keys.job(job.id))
    desk.finish(job, value(5))
    assert not desk.store.exists(keys.job(job.id), keys.results(job.id))
    desk.nothing_is_held()


def test_one_finisher_ends_many_jobs(desk: Desk) -> None:
    """A fence is for one job: what the last one left open does not affect the next."""
    lost = desk.claim_one(on_success=Callback("samples.on_success"))
    desk.store.zrem(keys.own(ONE), lost.id)
    desk.finish(lost, value(5))
    for _ in range(3):
        job = desk.claim_one(on_success=Callback("samples.on_success"))
        desk.finish(job, value(5))
        assert desk.status(job.id) == "finished"
    assert desk.status(lost.id) == "queued"


# -- what a job may name, and what it may bring along ----------------------------------------------------------------


def test_a_success_callback_that_is_not_served(desk: Desk) -> None:
    job = desk.claim_one(on_success=Callback("os.getpid"))
    desk.finish(job, value(5))
    result = desk.job(job.id).latest_result()
    assert result is not None
    assert "does not serve os.getpid" in str(result.exc_string)


@pytest.mark.parametrize("ending", [error("the cause"), raised(ValueError("the cause"))._replace(error=None)])
def test_a_failure_callback_that_is_not_served(desk: Desk, ending: Ending) -> None:
    """Such a callback is not called; the failure is recorded, and the job keeps its callback for a requeue."""
    job = desk.claim_one(on_failure=Callback("os.getpid"))
    desk.finish(job, ending)
    result = desk.job(job.id).latest_result()
    assert result is not None
    assert "the cause" in str(result.exc_string)
    assert "callback was not called: This worker does not serve os.getpid" in str(result.exc_string)
    assert desk.store.hget(keys.job(job.id), "failure_callback_name") == b"os.getpid"


class Bomb:
    exploded = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "exploded", True)


def test_pickled_meta_is_not_read_where_pickle_is_not_accepted(desk: Desk) -> None:
    """A pickled job with pickled meta in a queue of a worker that reads JSON only."""
    rq.Queue(connection=desk.store).enqueue("samples.ok", 5, retry=rq.Retry(max=1), meta={"a": Bomb()})
    job = desk.claim()
    before = desk.store.hget(keys.job(job.id), "meta")
    desk.finish(job, error())
    assert desk.waiting() == [job.id]
    assert desk.store.hget(keys.job(job.id), "meta") == before
    assert not Bomb.exploded


def test_changes_that_a_job_made_to_itself_are_recorded(desk: Desk) -> None:
    job = desk.claim_one()
    desk.finisher.finish(job.id, job.claim, job.queue, value(5), 1_795_000_000.0, {"result_ttl": 4000})
    assert 3900 < desk.store.ttl(keys.job(job.id)) <= 4000  # type: ignore[operator]
    assert desk.store.hget(keys.job(job.id), "result_ttl") == b"4000"
