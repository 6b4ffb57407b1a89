"""A callback or handler that gets stuck affects its own job only: its slot is replaced, and the job's end is recorded
once, as RQ records it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from conftest import Start
from helpers import Server, Tree, eventually, failed, jobq, submit
from rq import Callback, Retry
from rq.command import send_stop_job_command
from rq.webhook import Webhook

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

SERVED = ("samples", "samples_unfriendly")
LIMIT = 1
WITHIN = 60.0
MODES = ("thread", "process")


def on(which: str) -> dict[str, Any]:
    """Return callbacks of this kind, with a limit."""
    return {f"on_{which}": Callback(f"samples_unfriendly.on_{which}", timeout=LIMIT)}


def called(store: redis.Redis, job_id: str) -> list[str]:
    return [name.decode() for name in store.lrange(f"called:{job_id}", 0, -1)]


def ended(store: redis.Redis, job_id: str) -> str:
    status = (store.hget(keys.job(job_id), "status") or b"").decode()
    return status if status in ("finished", "failed", "stopped") else ""


def all_slots_work(queue: Queue) -> None:
    assert [job.result(60) for job in submit(queue, "samples.ok", [(n,) for n in range(8)])] == list(range(8))


@pytest.fixture(params=["doze", "sleep"])
def how(request: pytest.FixtureRequest) -> str:
    """Return how the callback is stuck: between two steps of Python, or in C, where no exception reaches a thread."""
    return str(request.param)


def test_success_callbacks_that_get_stuck(start: Start, mode: str, queue: Queue, store: redis.Redis, how: str) -> None:
    """Two callbacks, one for each slot: each fails its job, and the job's failure callback is called."""
    start("-n", "2", mode=mode, serve=SERVED)
    called_back = {**on("success"), **on("failure"), "meta": {"success": how}}
    jobs = [queue.enqueue("samples.ok", n, **called_back) for n in range(2)]
    for job in jobs:
        assert eventually(lambda job=job: ended(store, job.id), WITHIN) == "failed"  # type: ignore[misc]
        assert f"time limit of {LIMIT} s" in failed(store, job.id)
        assert "success callback" in failed(store, job.id)
        assert called(store, job.id) == ["success", "failure"]
        assert store.xlen(keys.results(job.id)) == 1
    all_slots_work(queue)


def test_failure_callbacks_that_get_stuck(start: Start, mode: str, queue: Queue, store: redis.Redis, how: str) -> None:
    """The job's failure is recorded as it was, with a note on the callback."""
    start("-n", "2", mode=mode, serve=SERVED)
    jobs = [queue.enqueue("samples.fail", "no", **on("failure"), meta={"failure": how}) for _ in range(2)]
    for job in jobs:
        assert eventually(lambda job=job: ended(store, job.id), WITHIN) == "failed"  # type: ignore[misc]
        assert "ValueError: no" in failed(store, job.id)
        assert f"The failure callback ran longer than its time limit of {LIMIT} s" in failed(store, job.id)
        assert called(store, job.id) == ["failure"]
        assert store.xlen(keys.results(job.id)) == 1
    all_slots_work(queue)


def test_success_and_failure_callbacks_that_get_stuck(
    start: Start, mode: str, queue: Queue, store: redis.Redis
) -> None:
    start("-n", "2", mode=mode, serve=SERVED)
    stuck = {"success": "sleep", "failure": "sleep"}
    job = queue.enqueue("samples.ok", 1, **on("success"), **on("failure"), meta=stuck)
    assert eventually(lambda: ended(store, job.id), WITHIN) == "failed"
    assert "success callback" in failed(store, job.id)
    assert called(store, job.id) == ["success", "failure"]
    all_slots_work(queue)


def test_a_failure_callback_that_gets_stuck_after_a_time_limit(
    start: Start, mode: str, queue: Queue, store: redis.Redis
) -> None:
    """The job's thread was written off before, or its process was killed; then the callback gets stuck too."""
    start("-n", "2", mode=mode, serve=SERVED)
    job = queue.enqueue("samples.sleep_in_c", 3600, job_timeout=1, **on("failure"), meta={"failure": "sleep"})
    assert eventually(lambda: ended(store, job.id), WITHIN) == "failed"
    assert "The job ran longer than its time limit of 1 s" in failed(store, job.id)
    assert called(store, job.id) == ["failure"]
    all_slots_work(queue)


@pytest.mark.parametrize(
    ("mode", "how"), [("thread", "sleep")]
)  # what can be interrupted leaves a traceback in the log
def test_stopped_callbacks_that_get_stuck(start: Start, mode: str, queue: Queue, store: redis.Redis, how: str) -> None:
    start("-n", "2", mode=mode, serve=SERVED)
    job = queue.enqueue("samples.nap", 3600, **on("stopped"), meta={"stopped": how})
    eventually(lambda: store.hget(keys.job(job.id), "status") == b"started")
    send_stop_job_command(store, job.id)
    assert eventually(lambda: ended(store, job.id), WITHIN) == "stopped"
    assert called(store, job.id) == ["stopped"]
    all_slots_work(queue)


@pytest.mark.parametrize(("mode", "how"), [("thread", "sleep")])
def test_exception_handlers_that_get_stuck(start: Start, mode: str, queue: Queue, store: redis.Redis, how: str) -> None:
    """Handlers have the time limit of failure callbacks."""
    start("-n", "2", "--exception-handler", "samples_unfriendly.handle", mode=mode, serve=SERVED)
    told = {"on_failure": Callback("samples_unfriendly.on_failure", timeout=LIMIT)}
    jobs = [queue.enqueue("samples.fail", "no", **told, meta={"handler": how}) for _ in range(2)]
    for job in jobs:
        assert eventually(lambda job=job: ended(store, job.id), WITHIN) == "failed"  # type: ignore[misc]
        assert "ValueError: no" in failed(store, job.id)
        assert called(store, job.id) == ["failure", "handler"]
    all_slots_work(queue)


@pytest.mark.parametrize(("mode", "how"), [("thread", "sleep")])
def test_an_exception_handler_that_gets_stuck_without_callbacks(
    start: Start, mode: str, queue: Queue, store: redis.Redis, how: str
) -> None:
    """The handler's limit follows the job's limit, not the 60 s of a callback that was not given. Other jobs
    continue."""
    start("-n", "2", "--exception-handler", "samples_unfriendly.handle", mode=mode, serve=SERVED)
    job = queue.enqueue("samples.fail", "no", job_timeout=1, meta={"handler": how})
    eventually(lambda: called(store, job.id))
    began = time.monotonic()
    assert [job.result(30) for job in submit(queue, "samples.ok", [(n,) for n in range(8)])] == list(range(8))
    assert not ended(store, job.id)
    assert eventually(lambda: ended(store, job.id), WITHIN) == "failed"
    assert time.monotonic() - began < 30  # 10 s, and 2 s to react
    assert "ValueError: no" in failed(store, job.id)
    assert called(store, job.id) == ["handler"]
    all_slots_work(queue)


@pytest.mark.parametrize(
    ("which", "place", "how"),
    [
        *((which, place, how) for which in ("success", "failure") for place in MODES for how in ("sleep", "doze")),
        ("handler", "thread", "sleep"),  # what can be interrupted leaves a traceback in the log
    ],
)
def test_a_stop_ends_a_callback_after_the_job(
    start: Start, server: Server, place: str, queue: Queue, store: redis.Redis, how: str, which: str
) -> None:
    """The job's own ending is recorded as it was."""
    more = ("--exception-handler", "samples_unfriendly.handle") if which == "handler" else ()
    start("-n", "2", *more, mode=place, serve=SERVED)
    calls = {} if which == "handler" else {f"on_{which}": Callback(f"samples_unfriendly.on_{which}", timeout=600)}
    args = (0.5, which != "success")
    job = queue.enqueue("samples_unfriendly.nap_and_end", *args, job_timeout=600, meta={which: how}, **calls)
    eventually(lambda: called(store, job.id))
    eventually(lambda: store.hget(keys.job(job.id), "status") == b"started")
    stopped = jobq(server, "stop", job.id)
    assert (stopped.stdout, stopped.returncode) == (f"stopped {job.id}\n", 0), stopped.stderr
    assert ended(store, job.id) == "failed"
    assert "written off" not in failed(store, job.id) or (place, how) == ("thread", "sleep")
    if which != "success":
        assert "ValueError: no" in failed(store, job.id)
    if which != "handler":  # what a handler raises is only logged
        assert "somebody asked to stop the job" in failed(store, job.id)
    assert called(store, job.id) == [which]
    all_slots_work(queue)


@pytest.mark.parametrize("record", ["success", "failure"])
def test_jobs_behind_a_long_callback_are_given_back(
    start: Start, mode: str, queue: Queue, store: redis.Redis, record: str
) -> None:
    """The waiting job is given back as behind a long job: it was claimed with the long one, and another worker is
    idle."""
    calls = {f"on_{record}": Callback(f"samples_unfriendly.on_{record}", timeout=120), "meta": {record: "wait"}}
    submit(queue, "samples.ok", [(n,) for n in range(150)])  # so many that more and more are claimed ahead
    function = "samples.ok" if record == "success" else "samples.fail"
    long = queue.enqueue(function, "x", **calls)
    behind = submit(queue, "samples.ok", [(n,) for n in range(20)])
    start("-n", "1", mode=mode, serve=SERVED)
    eventually(lambda: called(store, long.id))
    start("-n", "1", mode=mode, serve=SERVED)
    assert [job.result(30) for job in behind] == list(range(20))
    assert not ended(store, long.id)
    store.set(f"end:{long.id}", 1)
    assert eventually(lambda: ended(store, long.id)) == ("finished" if record == "success" else "failed")


# -- webhooks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_server() -> Iterator[str]:
    """The URL of a server whose answers never end: it sends a byte now and then."""
    over = threading.Event()

    class Drip(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # nobody reads it any more
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                while not over.wait(0.3):
                    self.wfile.write(b"a")

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Drip) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        over.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("place", ["thread", "process", "Worker", "SimpleWorker"])
@pytest.mark.parametrize("which", ["finished", "failed"])
def test_a_webhook_whose_answer_never_ends(
    start: Start, start_rq: Start, place: str, queue: Queue, store: redis.Redis, slow_server: str, which: str
) -> None:
    """RQ's timeout limits each wait for the network only. The job's end is recorded before the webhook is sent."""
    is_ours = place in MODES
    tree: Tree = start("-n", "1", mode=place) if is_ours else start_rq(place, "-S", "json", lease="60")
    hooks: Any = [Webhook(slow_server, which, timeout=1), Webhook(slow_server, which, timeout=1)]  # type: ignore[arg-type]
    job = queue.enqueue("samples.ok" if which == "finished" else "samples.fail", "no", webhooks=hooks)
    began = time.monotonic()
    all_slots_work(queue)
    assert time.monotonic() - began < 20
    assert ended(store, job.id) == which
    assert store.xlen(keys.results(job.id)) == 1
    assert tree.stop() == 0


# -- the process is killed: C code that keeps the GIL ------------------------------------------------------------------


@pytest.mark.spread("mode")
@pytest.mark.parametrize("which", ["success", "failure", "handler", "stopped"])
def test_callbacks_in_c_code_that_keeps_the_gil(
    start: Start, mode: str, queue: Queue, store: redis.Redis, which: str
) -> None:
    """The job has no limit: the callback's limit applies."""
    more = ("--exception-handler", "samples_unfriendly.handle") if which == "handler" else ()
    start("-n", "2", *more, mode=mode, serve=SERVED)
    calls = {**on("failure"), **(on(which) if which != "handler" else {}), "meta": {which: "hold"}}
    function, args = {"success": ("samples.ok", (1,)), "stopped": ("samples.nap", (3600,))}.get(
        which, ("samples.fail", ("no",))
    )
    job = queue.enqueue(function, *args, job_timeout=-1, **calls)
    if which == "stopped":
        eventually(lambda: store.hget(keys.job(job.id), "status") == b"started")
        send_stop_job_command(store, job.id)
    assert eventually(lambda: ended(store, job.id), WITHIN) == ("stopped" if which == "stopped" else "failed")
    assert called(store, job.id).count(which) == 1
    if which == "success":
        assert "success callback" in failed(store, job.id)
        assert called(store, job.id) == ["success", "failure"]
    if which in ("failure", "handler"):
        assert "ValueError: no" in failed(store, job.id)
    all_slots_work(queue)


def test_a_failure_callback_of_a_killed_process_gets_stuck(
    start: Start, mode: str, queue: Queue, store: redis.Redis
) -> None:
    """The job's process is killed, and then the one that calls its failure callback; retries still apply."""
    start("-n", "2", mode=mode, serve=SERVED)
    stuck = {**on("failure"), "meta": {"failure": "hold"}, "retry": Retry(max=1)}
    job = queue.enqueue("samples.hold_the_gil", 3600, job_timeout=1, **stuck)
    assert eventually(lambda: ended(store, job.id), WITHIN) == "failed"
    assert "The job ran longer than its time limit of 1 s" in failed(store, job.id)
    assert store.hget(keys.job(job.id), "retries_left") == b"0"
    assert called(store, job.id) == ["failure"] * 2
    all_slots_work(queue)


@pytest.mark.parametrize("how", ["stop", "keep"])
def test_a_failure_callback_of_a_killed_process_holds_still(
    start: Start, mode: str, queue: Queue, store: redis.Redis, how: str, tmp_path: Path
) -> None:
    """The job has killed its process; the callback stops the process that calls it (SIGSTOP), or never returns. In a
    child the watchdog sees to that, here nobody inside of the process can."""
    tree: Tree = start("-n", "2", mode=mode, serve=SERVED)
    rude = {"on_failure": Callback("samples_unfriendly.be_rude_on_failure", timeout=LIMIT), "meta": {"how": how}}
    job = queue.enqueue("samples.kill_itself", str(tmp_path / "record"), on_crash="fail", **rude)
    assert eventually(lambda: ended(store, job.id), WITHIN) == "failed"
    assert "was killed by SIGKILL" in failed(store, job.id)
    (caller,) = called(store, job.id)
    assert eventually(lambda: not psutil.pid_exists(int(caller)))
    if how == "stop":
        assert "is killed: the failure callback did not react at its time limit" in tree.log
    all_slots_work(queue)


def test_a_callbacks_time_is_counted_apart_from_the_jobs(
    start: Start, mode: str, queue: Queue, store: redis.Redis
) -> None:
    """The job has used up its own time; its callback has its own."""
    start("-n", "1", mode=mode, serve=SERVED)
    calls = {"on_success": Callback("samples_unfriendly.on_success", timeout=60), "meta": {"success": "wait"}}
    job = queue.enqueue("samples.ok", 1, job_timeout=1, **calls)
    began = time.monotonic()
    eventually(lambda: called(store, job.id))
    eventually(lambda: time.monotonic() > began + 5)  # past the job's limit, and the time to react
    store.set(f"end:{job.id}", 1)
    assert eventually(lambda: ended(store, job.id)) == "finished"
    assert called(store, job.id) == ["success"]
