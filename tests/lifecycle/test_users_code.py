"""All code of users runs within the job's time limit, and what it raises fails only that job: decoding arguments,
encoding a result, printing an exception, dropping objects of the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
import samples_unfriendly as unfriendly
from conftest import Start
from helpers import Tree, eventually, failed, lines, submit, uncounted
from rq.job import Job

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.serializers import Auto

PRINTED = ["says", "cause_says", "causes_say", "context_says", "note_says", "group_says"]
MADE = ["items", "dropped", "local", "local_and_fail", "on_itself", "in_its_context"]
WITHIN = 40.0  # seconds; on a machine that is busy with other tests too. The jobs themselves would take an hour


def ended(store: redis.Redis, job_id: str) -> str:
    status = (store.hget(keys.job(job_id), "status") or b"").decode()
    return status if status in ("finished", "failed") else ""


@pytest.mark.parametrize("how", ["doze", "sleep"])
def test_user_code_outside_of_the_call_ends_by_the_jobs_limit(
    start: Start, mode: str, queue: Queue, store: redis.Redis, how: str
) -> None:
    """If the code sleeps in C, thread mode gives the thread up, and process mode ends the process in the end."""
    tree = start("-n", "4", mode=mode, serve=("samples", "samples_unfriendly"))
    functions = [*PRINTED, *MADE]
    jobs = [queue.enqueue(f"samples_unfriendly.{name}", how, job_timeout=1) for name in functions]
    ends = [eventually(lambda job=job: ended(store, job.id), WITHIN) for job in jobs]  # type: ignore[misc]
    told = dict(zip(functions, ends, strict=True))
    assert {name: told[name] for name in [*PRINTED, "items"]} == dict.fromkeys([*PRINTED, "items"], "failed")
    assert "time limit of 1 s" in failed(store, jobs[functions.index("items")].id)
    assert [job.result(60) for job in submit(queue, "samples.ok", [(n,) for n in range(8)])] == list(range(8))
    assert "a slot failed" not in tree.log


@pytest.mark.parametrize("how", ["interrupt", "exit"])
def test_user_code_outside_of_the_call_cannot_end_the_process(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path, how: str
) -> None:
    """Another job in the same process continues, and runs once."""
    tree = start("-n", "2", mode=mode, serve=("samples", "samples_unfriendly"))
    record, gate = tmp_path / "record", tmp_path / "gate"
    neighbour = queue.enqueue("samples.wait_for", str(record), "n", str(gate))
    eventually(lambda: lines(record))
    jobs = [queue.enqueue(f"samples_unfriendly.{name}", how) for name in [*PRINTED, "items"]]
    for job in jobs:
        assert failed(store, job.id) if eventually(lambda job=job: ended(store, job.id)) else None  # type: ignore[misc]
    gate.touch()
    assert neighbour.result(30) == "n"
    assert lines(record) == ["start n", "end n"]
    assert "failed" not in [line.partition(" WARNING ")[2] for line in tree.log.splitlines() if "child" in line]


def test_arguments_and_results_in_pickle(start: Start, mode: str, store: redis.Redis) -> None:
    tree = start("-n", "3", "--accept", "json,pickle", mode=mode, serve=("samples", "samples_unfriendly"))
    queue = rq.Queue(connection=store)
    jobs = [
        queue.enqueue(unfriendly.loaded, unfriendly.Reduced("doze", "loads"), job_timeout=1),
        queue.enqueue(unfriendly.loaded, unfriendly.Reduced("sleep", "loads"), job_timeout=1),
        queue.enqueue(unfriendly.reduced, "doze", job_timeout=1),
        queue.enqueue(unfriendly.reduced, "sleep", job_timeout=1),
    ]
    for job in jobs:
        assert eventually(lambda job=job: ended(store, job.id), WITHIN) == "failed"  # type: ignore[misc]
        assert "time limit of 1 s" in failed(store, job.id)
    after = queue.enqueue(unfriendly.loaded, 1)
    assert eventually(lambda: ended(store, after.id)) == "finished"
    assert "a slot failed" not in tree.log


@pytest.fixture
def rq_tree(place: str, server: object, tmp_path: Path) -> Iterator[Tree]:
    url = server.url  # type: ignore[attr-defined]
    more = ("--url", url, "--worker-class", f"jobqueue.rq.{place}")
    tree = Tree(url, tmp_path, more, {"JOBQ_LEASE": "1"}, command=("rq.cli", "worker"))
    yield tree
    tree.destroy()


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_user_code_outside_of_the_call_with_rqs_worker_classes(rq_tree: Tree, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    calls = [(getattr(unfriendly, name), how) for how in ("sleep", "interrupt") for name in PRINTED]
    calls += [(unfriendly.loaded, unfriendly.Reduced(how, "repr")) for how in ("doze", "interrupt")]
    calls += [(unfriendly.in_its_context, "doze"), (unfriendly.in_its_context, "sleep")]
    calls += [(unfriendly.reduced, "sleep"), (unfriendly.loaded, unfriendly.Reduced("doze", "loads"))]
    jobs: list[Job] = [queue.enqueue(function, how, job_timeout=1, description="-") for function, how in calls]
    last = queue.enqueue(unfriendly.loaded, 1)
    assert eventually(lambda: ended(store, last.id), 120) == "finished"
    ends = {f"{job.func_name} {n}": ended(store, job.id) for n, job in enumerate(jobs[: 2 * len(PRINTED) + 1])}
    assert {*ends.values()} == {"failed"}, ends
    assert ended(store, jobs[2 * len(PRINTED) + 1].id) == "finished"  # only its arguments are not printed
    assert [ended(store, job.id) for job in jobs[-2:]] == ["failed"] * 2


SPOILS = [("spoil_the_log", ("factory",)), ("spoil_the_log", ("handler",)), ("spoil_the_clock", ())]
SAID = ["ValueError: no"] * 3 + ["Closed", "WithoutTraceback"]


def spoil(enqueue: Callable[..., Any], store: redis.Redis) -> None:
    """Run these jobs in one process: each fails for its own reason, and the process continues."""
    first = enqueue("samples.where")
    calls = [*SPOILS, ("raise_closed", ()), ("raise_without_traceback", ())]
    jobs = [enqueue(f"samples_unfriendly.{name}", *args) for name, args in calls]
    last = [enqueue("samples.where") for _ in range(4)]
    assert [eventually(lambda job=job: ended(store, job.id), WITHIN) for job in jobs] == ["failed"] * 5  # type: ignore[misc]
    assert [said for said, job in zip(SAID, jobs, strict=True) if said not in failed(store, job.id)] == []
    assert [eventually(lambda job=job: ended(store, job.id), WITHIN) for job in last] == ["finished"] * 4  # type: ignore[misc]
    found = [Job.fetch(job.id, store, Auto).return_value() for job in (first, *last)]
    assert len({where["pid"] for where in found if where}) == 1
    assert all(uncounted(store, job.id) for job in jobs)


def test_a_job_that_breaks_logging_or_the_clock_affects_itself_only(
    start: Start, mode: str, queue: Queue, store: redis.Redis
) -> None:
    """The job breaks a record factory, a handler of the log, an exception's attributes, or the clock."""
    start("-n", "1" if mode == "process" else "2", mode=mode, serve=("samples", "samples_unfriendly"))
    spoil(queue.enqueue, store)


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_a_job_that_breaks_logging_or_the_clock_with_rqs_worker_classes(rq_tree: Tree, store: redis.Redis) -> None:
    spoil(rq.Queue(connection=store).enqueue, store)


def a_limit_holds_by_frozen_clocks(enqueue: Callable[..., Any], store: redis.Redis, slots: int) -> None:
    froze = enqueue("samples_unfriendly.freeze_the_clocks")
    assert eventually(lambda: ended(store, froze.id), WITHIN) == "finished"
    jobs = [enqueue("samples.spin", 3600.0, job_timeout=1) for _ in range(slots)]
    last = enqueue("samples.ok", 1)
    assert [eventually(lambda job=job: ended(store, job.id), WITHIN) for job in jobs] == ["failed"] * slots  # type: ignore[misc]
    assert eventually(lambda: ended(store, last.id), WITHIN) == "finished"
    for job in jobs:
        assert "time limit of 1 s" in failed(store, job.id) or "maximum timeout value" in failed(store, job.id)
        stamps = store.hmget(keys.job(job.id), "started_at", "ended_at")
        began, end = (datetime.fromisoformat(stamp.decode()) for stamp in stamps if stamp)
        assert 0 < (end - began).total_seconds() < WITHIN


def test_a_job_that_freezes_the_clocks(start: Start, mode: str, queue: Queue, store: redis.Redis) -> None:
    tree = start("-n", "1" if mode == "process" else "2", mode=mode, serve=("samples", "samples_unfriendly"))
    a_limit_holds_by_frozen_clocks(queue.enqueue, store, 1 if mode == "process" else 2)
    assert tree.stop() == 0


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_a_job_that_freezes_the_clocks_with_rqs_classes(rq_tree: Tree, store: redis.Redis) -> None:
    a_limit_holds_by_frozen_clocks(rq.Queue(connection=store).enqueue, store, 1)


LEFT = [
    "leave_timers",
    "leave_a_cpu_limit",
    "leave_a_hard_cpu_limit",
    "leave_a_limit_for_good",
    "leave_little_memory",
    "leave_an_alarm",
]


@pytest.mark.spread("mode")
@pytest.mark.parametrize("what", LEFT)
def test_timers_and_limits_that_a_job_leaves(
    start: Start, mode: str, queue: Queue, store: redis.Redis, what: str
) -> None:
    """The next job uses more of the core than that, and its process lives on, or is replaced behind it."""
    tree: Tree = start("-n", "1", mode=mode, serve=("samples_unfriendly",))
    queue.enqueue(f"samples_unfriendly.{what}").result(30)
    jobs = [queue.enqueue("samples_unfriendly.compute_with_memory", 1.2) for _ in range(2)]
    assert [job.result(60) for job in jobs] == [1.2, 1.2]
    assert all(uncounted(store, job.id) for job in jobs)
    assert tree.stop() == 0


@pytest.mark.spread("place")
@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
@pytest.mark.parametrize("what", LEFT)
def test_timers_and_limits_that_a_job_leaves_with_rqs_classes(
    rq_tree: Tree, store: redis.Redis, what: str, place: str
) -> None:
    if place == "SimpleWorker" and what != "leave_an_alarm":
        pytest.skip("the process is the user's own: RQ's SimpleWorker dies too")
    queue = rq.Queue(connection=store)
    queue.enqueue(f"samples_unfriendly.{what}")
    jobs = [queue.enqueue("samples_unfriendly.compute_with_memory", 1.2) for _ in range(2)]
    eventually(lambda: {ended(store, job.id) for job in jobs} == {"finished"}, 60)
    assert rq_tree.stop() == 0


TIMERS = [("ITIMER_REAL", "SIGALRM"), ("ITIMER_VIRTUAL", "SIGVTALRM"), ("ITIMER_PROF", "SIGPROF")]


@pytest.mark.parametrize("timer", TIMERS)
def test_a_jobs_own_limit_by_a_timer_does_not_end_the_next(
    start: Start, queue: Queue, store: redis.Redis, timer: tuple[str, str]
) -> None:
    tree: Tree = start("-n", "1", mode="process", serve=("samples_unfriendly",))
    queue.enqueue("samples_unfriendly.leave_a_limit_of_its_own", *timer).result(30)
    time.sleep(1)  # it is out of work when the alarm comes
    jobs = [queue.enqueue("samples_unfriendly.compute", 1.2) for _ in range(2)]
    assert [job.result(60) for job in jobs] == [1.2, 1.2]
    assert all(uncounted(store, job.id) for job in jobs)
    assert "child failed" not in tree.log
    assert tree.stop() == 0


@pytest.mark.spread("place")
@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
@pytest.mark.parametrize("timer", TIMERS)
def test_a_jobs_own_limit_by_a_timer_does_not_end_the_next_with_rqs_classes(
    rq_tree: Tree, store: redis.Redis, timer: tuple[str, str], place: str
) -> None:
    if place == "SimpleWorker" and timer != TIMERS[0]:
        pytest.skip("the process is the user's own: RQ's SimpleWorker has the same")
    queue = rq.Queue(connection=store)
    left = queue.enqueue("samples_unfriendly.leave_a_limit_of_its_own", *timer)
    assert eventually(lambda: ended(store, left.id), WITHIN) == "finished"
    time.sleep(1)
    jobs = [queue.enqueue("samples_unfriendly.compute", 1.2) for _ in range(2)]
    eventually(lambda: {ended(store, job.id) for job in jobs} == {"finished"}, WITHIN)
    assert rq_tree.stop() == 0


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_rqs_classes_run_the_next_jobs_where_no_thread_can_be_started(rq_tree: Tree, store: redis.Redis) -> None:
    """RQ's classes start the thread that waits for pushes when they are first out of work."""
    queue = rq.Queue(connection=store)
    for _ in range(2):
        left = queue.enqueue("samples_unfriendly.leave_no_room_for_threads")
        assert eventually(lambda job=left: ended(store, job.id), WITHIN) == "finished"
        time.sleep(1.5)  # it is out of work meanwhile
        after = queue.enqueue("samples.ok", 1)
        assert eventually(lambda job=after: ended(store, job.id), WITHIN) == "finished"
    assert rq_tree.stop() == 0
    assert "Traceback" not in rq_tree.log


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_rqs_classes_do_not_end_well_where_a_job_has_left_no_memory(
    rq_tree: Tree, store: redis.Redis, place: str
) -> None:
    """The process ends with an error, or goes on: nobody takes it for a worker that has done its work."""
    queue = rq.Queue(connection=store)
    queue.enqueue("samples_unfriendly.leave_no_memory")
    after = [queue.enqueue("samples.ok", n) for n in range(3)]
    if place == "Worker":
        eventually(lambda: {ended(store, job.id) for job in after} == {"finished"}, WITHIN)
        return
    eventually(
        lambda: rq_tree.process.poll() is not None or {ended(store, job.id) for job in after} == {"finished"}, WITHIN
    )
    time.sleep(1.5)  # it is out of work
    assert rq_tree.process.poll() != 0


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_a_job_that_breaks_new_threads(rq_tree: Tree, store: redis.Redis) -> None:
    """RQ's classes start some of their threads only when needed, after the first job."""
    queue = rq.Queue(connection=store)
    first = queue.enqueue("samples_unfriendly.spoil_new_threads")
    assert eventually(lambda: ended(store, first.id), WITHIN) == "finished"
    eventually(lambda: [worker for worker in rq.Worker.all(connection=store) if worker.get_state() == "idle"])
    for n in range(3):  # pushed to a worker that waits, which it does in a thread of its own
        job = queue.enqueue("samples.ok", n)
        assert eventually(lambda: ended(store, job.id), WITHIN) == "finished"  # noqa: B023
    assert "RuntimeError: a hook" not in rq_tree.log
    assert rq_tree.stop() == 0


def test_a_slot_that_fails_ends_its_process(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """The process ends even if its log line fails; otherwise the threads would end one by one, unnoticed."""
    tree = start("-n", "2" if mode == "thread" else "1", mode=mode, serve=("samples", "samples_unfriendly"))
    [before] = eventually(tree.children)
    queue.enqueue("samples_unfriendly.fail_the_next_slot")
    eventually(lambda: not before.is_running())
    jobs = submit(queue, "samples.ok", [(n,) for n in range(4)])
    assert [job.result(60) for job in jobs] == list(range(4))


def test_an_exception_with_a_text_of_10_mb(start: Start, mode: str, queue: Queue, store: redis.Redis) -> None:
    """The store keeps the beginning and the end; the log gets a line."""
    tree = start(mode=mode, serve=("samples", "samples_unfriendly"))
    job = queue.enqueue("samples_unfriendly.talks", 10_000_000)
    text = eventually(lambda: ended(store, job.id) and failed(store, job.id))
    assert len(text) < 41_000
    assert text.startswith("Traceback")
    assert text.rstrip().endswith("x end")
    assert [part for part in ("ValueError: begin xxx", "characters are left out here") if part not in text] == []
    assert max(map(len, tree.log.splitlines())) < 1000
