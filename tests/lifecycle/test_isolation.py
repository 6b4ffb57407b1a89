"""Context variables that one job sets are not seen by the next, by callbacks, handlers and serializers; those that a
module sets at its import are seen by all: in both modes, in RQ's worker classes, in an executor's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import rq
from helpers import Server, Tree

from jobqueue import JobExecutor
from jobqueue.protocol import keys

TENANTS = """
import asyncio, contextvars, decimal, json, os, subprocess, threading
import rq

tenant = contextvars.ContextVar("tenant", default="nobody")
app = contextvars.ContextVar("app", default="missing")
app.set("pushed")  # at import, as Flask's app.app_context().push() does
decimal.getcontext().prec = 6

def seen():
    return f"{tenant.get()} {app.get()} {decimal.getcontext().prec}"

def act_as(who):
    before = seen()
    tenant.set(who)
    app.set("popped")
    decimal.getcontext().prec = 50
    return before

async def act_later_as(who):
    await asyncio.sleep(0)
    return act_as(who)

def fail_as(who):
    raise ValueError(act_as(who))

def note(job, connection, *_):
    connection.rpush("seen", act_as("callback"))

def handle(job, *_):
    job.connection.rpush("seen", act_as("handler"))

def push_late(who):
    import late.pushing
    return late.pushing.push(who)

def whoever(who):
    assert who.encode() in tenant.get(), "a job sees what the serializer set for another"

def who_am_i():
    found = [rq.get_current_job().id]
    def look():
        found.append(rq.get_current_job().id)
    thread = threading.Thread(target=contextvars.copy_context().run, args=[look])
    thread.start()
    thread.join()
    return found

def environment():
    shown = subprocess.run(["sh", "-c", "printf %s $RQ_JOB_ID"], stdout=subprocess.PIPE, text=True).stdout
    return [os.environ.get("RQ_JOB_ID", ""), os.getenv("RQ_JOB_ID", ""), shown]

async def who_is_it():
    return rq.get_current_job().id

class Format:
    def dumps(value):
        return json.dumps(value).encode()

    def loads(data):
        assert tenant.get() in ("nobody", data), "the serializer sees what it set for another job"
        tenant.set(data)
        return json.loads(data)
"""
PUSHING_LATE = """
import contextvars, time
late = contextvars.ContextVar("late", default="missing")
time.sleep(0.3)
late.set("pushed late")

def push(who):
    before = late.get()
    late.set(who)
    return before
"""
CLEAN = "nobody pushed 6"
Run = Callable[..., Tree]


@pytest.fixture(params=["thread", "process", "process with threads", "SimpleWorker", "Worker"])
def run(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Run]:
    """``run(*argv)`` runs a burst of this kind of worker, which serves the module ``tenants``; RQ's worker imports it
    late."""
    (tmp_path / "tenants.py").write_text(TENANTS)
    (tmp_path / "late").mkdir()
    (tmp_path / "late/__init__.py").touch()
    (tmp_path / "late/pushing.py").write_text(PUSHING_LATE)
    trees: list[Tree] = []
    kind = {
        "thread": ["--mode", "thread", "-n", "3"],
        "process": ["--mode", "process", "-n", "1"],
        "process with threads": ["--mode", "process", "-n", "1", "--threads", "3"],
    }
    ours = request.param in kind
    rqs = ["--url", server.url, "--worker-class", f"jobqueue.rq.{request.param}"]

    def start(*argv: str) -> Tree:
        more = [*kind[request.param], "-I", "tenants", "-I", "late"] if ours else rqs
        more += ["--accept", "json,pickle"] if ours and "--serializer" not in argv else []
        command = ("jobqueue.cli", "worker") if ours else ("rq.cli", "worker")
        tree = Tree(server.url, tmp_path, ["--burst", *more, *argv], {}, command=command)
        trees.append(tree)
        assert tree.wait() == 0, tree.log
        return tree

    yield start
    for tree in trees:
        tree.destroy()


def results(jobs: list[rq.job.Job]) -> list[object]:
    return [job.return_value(refresh=True) for job in jobs]


@pytest.mark.parametrize("function", ["act_as", "act_later_as"])
def test_a_job_sees_no_other_jobs_context(run: Run, store: redis.Redis, function: str) -> None:
    queue = rq.Queue(connection=store)
    jobs = [queue.enqueue(f"tenants.{function}", f"user {n}") for n in range(12)]
    run()
    assert results(jobs) == [CLEAN] * 12


def test_callbacks_and_handlers_see_no_jobs_context(run: Run, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    note = rq.Callback("tenants.note")
    for n in range(4):
        queue.enqueue("tenants.act_as", f"user {n}", on_success=note)
        queue.enqueue("tenants.fail_as", f"user {n}", on_failure=note)
    after = queue.enqueue("tenants.act_as", "last")
    run("--exception-handler", "tenants.handle")
    assert store.lrange("seen", 0, -1) == [CLEAN.encode()] * 12  # a success, a failure and a handler for each n
    assert results([after]) == [CLEAN]


def test_a_serializer_sees_no_other_jobs_context(run: Run, store: redis.Redis) -> None:
    """The data of each job is read in that job's context, also where a rescue or a callback reads it again."""
    queue = rq.Queue(connection=store)
    jobs = [queue.enqueue("tenants.act_as", f"user {n}") for n in range(6)]
    for job in jobs:  # as a producer with this serializer writes the job
        store.hset(keys.job(job.id), "data", f'["tenants.whoever", null, ["{job.id}"], {{}}]')
    run("--serializer", "tenants.Format")
    assert [store.hget(keys.job(job.id), "status") for job in jobs] == [b"finished"] * 6


@pytest.mark.parametrize("function", ["tenants.push_late", "late.pushing.push"])
def test_values_set_by_a_late_import_are_seen_by_all_jobs(run: Run, store: redis.Redis, function: str) -> None:
    """The first job that needs the module imports it; with a process for each job, every job does. Threads that wait
    for the import of their own function's module see the values too."""
    queue = rq.Queue(connection=store)
    first = [queue.enqueue(function, f"user {n}") for n in range(1 if function.startswith("tenants") else 8)]
    after = [queue.enqueue(function, f"user {n}", depends_on=first) for n in range(8)]
    run()
    assert results(first + after) == ["pushed late"] * len(first + after)


def test_a_job_finds_its_current_job(run: Run, store: redis.Redis) -> None:
    """The job finds itself also in a thread that runs in its context, and in a coroutine."""
    queue = rq.Queue(connection=store)
    jobs = [queue.enqueue("tenants.who_am_i") for _ in range(3)]
    later = queue.enqueue("tenants.who_is_it")
    run()
    assert results(jobs) == [[job.id, job.id] for job in jobs]
    assert results([later]) == [later.id]


def test_the_environment_has_the_jobs_id(run: Run, store: redis.Redis, request: pytest.FixtureRequest) -> None:
    """As in RQ, the job and its programs see the variable where a process runs one job at a time."""
    queue = rq.Queue(connection=store)
    jobs = [queue.enqueue("tenants.environment", job_id=f"job-{n}-{'x' * n}") for n in (1, 200, 3, 400, 5)]
    run()
    alone = "[process]" in request.node.name or "[Worker]" in request.node.name
    assert results(jobs) == [[job.id if alone else ""] * 3 for job in jobs]


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_isolation_in_an_executors_workers(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    (tmp_path / "tenants.py").write_text(TENANTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with JobExecutor(mode, workers=2, url=server.url, modules=["tenants"]) as executor:
        assert list(executor.map("tenants:act_as", ["ann", "bob", "cay", "dan"])) == [CLEAN] * 4
