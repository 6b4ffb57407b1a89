from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from fake_worker import fail, finish, invoke
from helpers import ROOT, Server
from rq.job import Dependency

from jobqueue.cli import main
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import redis
from jobqueue.tasks import square

TRACEBACK = "Traceback (most recent call last):\n  File [b]x[/b]\nValueError: \x1b[31mbad\n"


@pytest.fixture
def queue(store: redis.Redis) -> Queue:
    return Queue("q", store)


@pytest.fixture
def jobq(server: Server) -> Any:
    return functools.partial(invoke, server.url)


def test_status_of_a_failed_job(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    job = queue.enqueue(square, "[red]x[/red]", meta={"a": 1}, on_crash="fail", retry=2)
    fail(store, job.id, TRACEBACK)
    store.hset(keys.job(job.id), mapping={"jobq_crashes": 2, "worker_name": "w\x1b"})
    for command in (["status", job.id], ["failed", "show", job.id]):
        shown = jobq(*command).stdout
        assert "status:       failed" in shown
        assert "square('[red]x[/red]')" in shown
        assert "crashes:      2" in shown
        assert "worker:       w\\x1b" in shown
        assert 'meta:         {"a": 1}' in shown
        assert "  File [b]x[/b]\nValueError: \\x1b[31mbad\n" in shown
        assert "\x1b" not in shown


def test_status_of_a_job_with_dependencies(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    parent, other = queue.enqueue(square, 1), queue.enqueue(square, 2)
    child = queue.enqueue(square, 3, depends_on=[parent, other])
    hardy = queue.enqueue(square, 4, depends_on=Dependency([parent, other], allow_failure=True))
    assert f"waits for:    {parent.id} (queued), {other.id} (queued)\n" in jobq("status", child.id).stdout
    fail(store, parent.id, TRACEBACK)
    assert f"waits for:    {parent.id} (failed): it does not run by itself; " in jobq("status", child.id).stdout
    assert f"waits for:    {other.id} (queued)\n" in jobq("status", hardy.id).stdout
    finish(store, other.id, 4)
    assert "waits for:    nothing any more: jobq doctor --fix" in jobq("status", hardy.id).stdout
    seen = json.loads(jobq("status", child.id, "--json").stdout)
    assert seen["waits_for"] == {parent.id: "failed", other.id: "finished"}


def test_status_as_json(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    job = queue.enqueue(square, 5)
    finish(store, job.id, 25)
    shown = json.loads(jobq("status", job.id, "--json").stdout)
    assert (shown["id"], shown["status"], shown["result"], shown["args"]) == (job.id, "finished", 25, [5])


def test_result(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    job = queue.enqueue(square, 5)
    early = jobq("result", job.id)
    assert (early.exit_code, early.stdout) == (1, "")
    assert "queued and has no result yet; --wait waits for it" in early.stderr
    late = jobq("result", job.id, "--wait", "--timeout", "0.2")
    assert (late.exit_code, late.stdout) == (1, "")
    finish(store, job.id, {"a": "ü"})
    assert jobq("result", job.id).stdout == '{"a": "ü"}\n'
    assert json.loads(jobq("result", job.id, "--json").stdout) == {"id": job.id, "result": {"a": "ü"}}


def test_result_of_a_failed_job(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    job = queue.enqueue(square, 5)
    fail(store, job.id, TRACEBACK)
    shown = jobq("result", job.id)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.splitlines()[-1].endswith("failed: ValueError: \\x1b[31mbad")


def test_result_of_a_pickled_job(store: redis.Redis, jobq: Any) -> None:
    job = Queue("q", store, serializer="pickle").enqueue(square, 5)
    store.hset(keys.job(job.id), "status", "finished")
    store.xadd(keys.results(job.id), {"type": 1, "return_value": "gASVBgAAAAAAAACMAmhplC4="})
    shown = jobq("result", job.id)
    assert shown.exit_code == 1
    assert "pickled" in shown.stderr
    assert "(pickled; not opened here)" in jobq("status", job.id).stdout


def test_info(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    queue.enqueue_many(square, range(3))
    jobq("pause")
    shown = jobq("info").stdout
    assert shown.startswith("suspended")
    assert "q\t3\t0\t0" in shown
    store.hset(keys.job(store.lindex(keys.queue("q"), 0).decode()), "enqueued_at", "2020-01-01T00:00:00.000000Z")
    assert re.search(r"^q\t.*\t\d{4} d", jobq("info").stdout, re.MULTILINE)
    assert jobq("resume").stdout == "resumed all queues\n"
    as_json = json.loads(jobq("info", "--json").stdout)
    assert (as_json["queues"][0]["queued"], as_json["suspended"], as_json["workers"]) == (3, False, [])
    assert as_json["queues"][0]["latency"] > 86_400 * 365


def test_pause_of_a_queue(store: redis.Redis, jobq: Any) -> None:
    assert jobq("pause", "q").stdout == "paused q\n"
    assert store.smembers(keys.PAUSED) == {b"q"}
    assert jobq("pause", "q").stdout == "paused q (was already)\n"
    assert json.loads(jobq("resume", "q", "--json").stdout) == {"resumed": "q", "changed": True}
    assert store.smembers(keys.PAUSED) == set()


def test_cancel(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    job = queue.enqueue(square, 5)
    assert jobq("cancel", job.id).stdout == f"canceled {job.id}\n"
    again = jobq("cancel", job.id, "--json")
    assert (again.exit_code, json.loads(again.stdout)["canceled"]) == (1, False)
    assert store.llen(keys.queue("q")) == 0


def test_failed_list_requeue_delete(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    jobs = list(queue.enqueue_many(square, range(4)))
    for job in jobs:
        fail(store, job.id, TRACEBACK)
    listed = [json.loads(line) for line in jobq("failed", "list", "--json").stdout.splitlines()]
    assert {job["id"] for job in listed} == {job.id for job in jobs}
    assert listed[0]["error"] == "ValueError: \x1b[31mbad"
    assert "ValueError: \\x1b[31mbad" in jobq("failed", "list").stdout
    assert jobq("failed", "requeue", jobs[0].id).stdout == f"requeued {jobs[0].id}\n"
    assert jobq("failed", "delete", jobs[1].id).stdout == f"deleted {jobs[1].id}\n"
    assert jobq("failed", "requeue", "--all", "-q", "other").stdout == ""
    assert len(jobq("failed", "requeue", "--all", "--json", "--yes").stdout.splitlines()) == 2
    assert store.llen(keys.queue("q")) == 3
    assert jobq("failed", "list", "--json").stdout == ""


@pytest.mark.parametrize(
    "args",
    [
        ["status", "nobody"],
        ["result", "nobody"],
        ["result", "nobody", "--wait"],
        ["cancel", "nobody"],
        ["failed", "show", "nobody"],
        ["failed", "requeue", "nobody"],
        ["failed", "delete", "nobody"],
    ],
)
def test_unknown_ids(jobq: Any, args: list[str]) -> None:
    shown = jobq(*args)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.splitlines()[-1] == "jobq: There is no job nobody: never enqueued, deleted, or expired."


@pytest.mark.parametrize("args", [["requeue"], ["delete"], ["delete", "--all", "x"], ["requeue", "x", "-q", "q"]])
def test_ids_or_all(jobq: Any, args: list[str]) -> None:
    assert jobq("failed", *args).exit_code == 2


def test_a_store_that_is_down(tmp_path: Any) -> None:
    for command in (["info"], ["status", "x"], ["failed", "list"], ["pause"]):
        shown = CliRunner().invoke(main, [*command, "--url", f"unix://{tmp_path}/nothing"])
        assert shown.exit_code == 1
        assert len(shown.stderr.splitlines()) == 1


# -- waiting ---------------------------------------------------------------------------------------------------------


def test_waiting_jobs_with_their_ids(queue: Queue, store: redis.Redis, jobq: Any) -> None:
    ids = [queue.enqueue(square, n).id for n in range(5)]
    other = Queue("other", store).enqueue(square, "\x1b[31m").id
    shown = [line.split("\t") for line in jobq("waiting", "q").stdout.splitlines()]
    assert shown[0] == ["job", "queue", "before it", "enqueued", "call"]
    assert [row[0] for row in shown[1:]] == ids
    assert [row[2] for row in shown[1:]] == ["0", "1", "2", "3", "4"]
    assert shown[1][4] == "jobqueue.tasks.square(0)"
    bounded = jobq("waiting", "-n", "2", "--newest", "--json", "q")
    assert [json.loads(line)["id"] for line in bounded.stdout.splitlines()] == [ids[4], ids[3]]
    assert "3 more jobs wait; -n shows more" in bounded.stderr
    everything = jobq("waiting")
    assert other in everything.stdout.splitlines()[1]  # queue by queue, by name
    assert "\x1b" not in everything.stdout
    assert jobq("waiting", "empty").stdout.splitlines() == ["job\tqueue\tbefore it\tenqueued\tcall"]


def test_waiting_lists_ids_that_are_no_job(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    good = queue.enqueue(square, 1).id
    store.lpush(keys.queue("q"), "gone", "wrong", b"\xff")
    store.set(keys.job("wrong"), "x")
    store.hset(keys.job("gone"), mapping={"description": b"\xff", "enqueued_at": "yesterday"})
    shown = jobq("waiting").stdout.splitlines()
    assert len(shown) == 5
    assert good in shown[4]
    assert "no such job" in shown[2]


def test_a_job_hash_with_invalid_fields_is_shown(store: redis.Redis, jobq: Any) -> None:
    """A value that cannot be read is shown as not known."""
    fields = {
        "data": b"x\x9c",
        "status": b"\xff",
        "created_at": "now",
        "timeout": "nan",
        "exc_info": b"x\xff",
        "meta": "{",
    }
    store.hset(keys.job("odd"), mapping=fields)
    store.xadd(keys.results("odd"), {"type": 2, "exc_string": "AAAA"})
    assert jobq("status", "odd").exit_code == 0
    store.hset(keys.job("odd"), "status", "failed")
    assert "cannot be read" in jobq("status", "odd").stdout
    store.hset(keys.job("odd"), mapping={"status": "finished", "dependency_ids": "5"})
    store.xadd(keys.results("odd"), {"type": 1, "return_value": "A"})
    assert jobq("status", "odd").exit_code == 0
    assert jobq("status", "odd", "--json").exit_code == 0
    assert jobq("result", "odd").exit_code == 1


def test_deleting_a_job_names_the_jobs_that_still_wait_for_it(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    delayed, bad = queue.enqueue_in(timedelta(hours=1), square, 1), queue.enqueue(square, 2)
    fail(store, bad.id, TRACEBACK)
    for job, command in ((delayed, "schedule"), (bad, "failed")):
        first, second = sorted(queue.enqueue(square, i, depends_on=job).id for i in range(2))
        done = jobq(command, "delete", job.id)
        assert done.exit_code == 0
        assert f"{first} and 1 more wait for {job.id}, and nothing starts them any more: jobq doctor" in done.stderr
        assert second
    alone = queue.enqueue_in(timedelta(hours=1), square, 1)
    assert "wait" not in jobq("schedule", "delete", alone.id).stderr


@pytest.mark.parametrize("command", ["status", "result", "cancel", "stop"])
def test_commands_on_a_job_point_to_schedule_list_for_the_id_of_a_schedule(
    queue: Queue, jobq: Any, command: str
) -> None:
    queue.schedule(square, args=(1,), every=60, schedule_id="nightly")
    done = jobq(command, "nightly")
    assert done.exit_code == 1
    assert "nightly is a schedule, not a job: jobq schedule list shows it" in done.stderr
    assert "There is no job nobody" in jobq(command, "nobody").stderr


def test_each_label_is_followed_by_a_blank(queue: Queue, jobq: Any) -> None:
    job = queue.enqueue_in(timedelta(hours=1), square, 1)
    assert "scheduled for: 2" in jobq("status", job.id).stdout


def test_doctor_wraps_lines_at_whole_words(server: Server, queue: Queue) -> None:
    first = queue.enqueue_in(timedelta(hours=1), square, 1)
    waiting = queue.enqueue(square, 1, depends_on=first)
    jobq_ = [sys.executable, "-m", "jobqueue.cli"]
    ours, theirs = os.openpty()
    env = {**os.environ, "COLUMNS": "50"}
    argv = [*jobq_, "doctor", "--patience", "0", "--url", server.url]
    subprocess.run(argv, stdout=theirs, stderr=subprocess.DEVNULL, env=env, cwd=ROOT, timeout=60, check=False)
    os.close(theirs)
    lines = re.sub(r"\x1b\[\d+m", "", os.read(ours, 65536).decode()).splitlines()
    os.close(ours)
    assert len(lines) > 5
    assert [line for line in lines if len(line) > 50] == []
    assert waiting


def test_a_job_that_waits_for_a_canceled_one_shows_what_can_be_done(queue: Queue, jobq: Any) -> None:
    first = queue.enqueue(square, 1)
    second = queue.enqueue(square, 1, depends_on=first)
    assert jobq("cancel", first.id).exit_code == 0
    shown = jobq("status", second.id).stdout
    assert "requeue ID" not in shown
    assert f"jobq cancel {second.id}, and submit it anew" in shown


def test_an_error_is_wrapped_at_whole_words_on_a_terminal(server: Server) -> None:
    ours, theirs = os.openpty()
    argv = [sys.executable, "-m", "jobqueue.cli", "status", "nobody", "--url", server.url]
    subprocess.run(argv, stderr=theirs, env={**os.environ, "COLUMNS": "40"}, cwd=ROOT, timeout=60, check=False)
    os.close(theirs)
    lines = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    said = lines[next(i for i, line in enumerate(lines) if line.startswith("jobq:")) :]
    assert len(said) > 1
    assert max(map(len, said)) <= 40


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "a", "b"], "extra argument (b). See jobq status --help."),
        (["worker", "--health-file", "/nonexistent/x"], "that we may write to. See jobq worker --help."),
        (["worker", "--logging-level", "DEBUG"], "--logging-level is a flag of rq worker"),
    ],
)
def test_sentences_end_with_a_full_stop(jobq: Any, words: list[str], said: str) -> None:
    argv = [sys.executable, "-m", "jobqueue.cli", *words]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert said in done.stderr
    assert done.returncode == 2
