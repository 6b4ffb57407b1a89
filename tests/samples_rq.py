"""Jobs that use what RQ offers to a running job: its own RQ job, its connection, classes, callable objects."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import redis
import rq
import samples
from rq.job import Job


def me() -> Job:
    job = rq.get_current_job()
    assert job is not None
    return job


def runs(job_id: str) -> str:
    return f"runs:{job_id}"


def fail_first(times: int) -> int:
    """Fail so many times, then return how often this ran; counted in the store, so that both sides start at none."""
    ran = _count()
    if ran <= times:
        raise ValueError(f"failure {ran}")
    return ran


def retry_first(times: int, most: int, interval: int = 0) -> Any:
    """Return a Retry so many times, then how often this ran."""
    ran = _count()
    return rq.Retry(max=most, interval=interval) if ran <= times else ran


def _count() -> int:
    job = me()
    return int(job.connection.incr(runs(job.id)))  # type: ignore[arg-type]


def report_progress() -> str:
    job = me()
    for percent in (0, 50, 100):
        job.meta["progress"] = percent
        job.save_meta()
    return "done"


ODD: dict[str, Callable[[], Any]] = {
    "timedelta": lambda: timedelta(days=1),
    "Decimal": lambda: Decimal(60),
    "fraction": lambda: 1.5,
    "text": lambda: "3",
}


def set_odd(name: str, kind: str, fails: bool = False) -> None:
    """Set on the job itself what cannot be recorded of it."""
    setattr(me(), name, ODD[kind]())
    if fails:
        raise ValueError("no")


def fail_with_a_date_in_meta() -> None:
    me().meta["at"] = datetime.now(UTC)
    raise ValueError("no")


def note_success(job: Job, connection: redis.Redis, _result: Any) -> None:
    connection.rpush(told(job.id), "success")


def note_failure(job: Job, connection: redis.Redis, *_error: Any) -> None:
    connection.rpush(told(job.id), "failure")


def leave_meta_unsaved() -> None:
    me().meta["forgotten"] = True


def keep_result_for(seconds: int) -> str:
    """Change the running job's own record, as RQ lets a job do."""
    me().result_ttl = seconds
    return "kept as long as I said"


def repeat_myself() -> None:
    """Decide while the job runs that it is to run once more."""
    job = me()
    if _count() == 1:
        job.repeats_left, job.repeat_intervals = 1, [0]


def retries_left() -> int | None:
    return me().retries_left


def enqueue_another(job_id: str) -> str:
    job = me()
    rq.Queue(job.origin, connection=job.connection).enqueue("samples.ok", 1, job_id=job_id)
    return job_id


def result_of_parent() -> Any:
    parent = me().dependency
    assert parent is not None
    return parent.return_value()


def note_soon(path: str, number: int) -> int:
    """Take a few milliseconds, so that all workers get a share; then note this run."""
    time.sleep(0.003)
    samples.note(path, number)
    return number


def environment() -> list[str | None]:
    return [os.environ.get("RQ_WORKER_ID"), os.environ.get("RQ_JOB_ID")]


def delete_myself() -> None:
    me().delete()


def cancel_myself() -> str:
    me().cancel()
    return "canceled, and done"


def seen_by_itself() -> list[Any]:
    """Return its worker, its status, and for how many seconds it has run."""
    job = me()
    assert job.started_at is not None
    return [job.worker_name, job.get_status(refresh=False).value, (datetime.now(UTC) - job.started_at).total_seconds()]


def take_the_alarm() -> str:
    """Take SIGALRM over, as libraries do that limit a call, and keep it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return "taken"


def take_the_alarm_and_spin() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    samples.spin(60)


def end_a_process_of_ones_own() -> int | None:
    """End a process that this job has started, as ``Pool.__exit__`` does; return the exit code, None while it lives."""
    context = multiprocessing.get_context("fork")
    runs = context.Event()
    process = context.Process(target=_run_for_long, args=(runs,))
    process.start()
    runs.wait(30)
    process.terminate()
    process.join(10)
    code = process.exitcode
    process.kill()
    return code


def _run_for_long(runs: Any) -> None:
    runs.set()
    time.sleep(60)


class Basket:
    """A class with methods, for jobs that are methods."""

    kind: ClassVar[str] = "basket"

    def __init__(self, items: int) -> None:
        self.items = items

    def add(self, more: int) -> int:
        return self.items + more

    @classmethod
    def what(cls) -> str:
        return cls.kind

    @staticmethod
    def double(number: int) -> int:
        return 2 * number


class Greeter:
    """A callable object."""

    def __init__(self, word: str) -> None:
        self.word = word

    def __call__(self, name: str) -> str:
        return f"{self.word} {name}"


# -- exception handlers: (job, type, error, traceback) ---------------------------------------------------------------


def handled(job_id: str) -> str:
    return f"handled:{job_id}"


def handle(job: Job, kind: Any, error: Any, traceback: Any) -> None:
    """Leave a word, and pass the failure to the next handler."""
    job.connection.rpush(handled(job.id), f"first {kind.__name__}: {error}")


def handle_for_good(job: Job, kind: Any, error: Any, traceback: Any) -> bool:
    """Leave a word, and end the chain of handlers."""
    job.connection.rpush(handled(job.id), "second")
    return False


def handle_never(job: Job, kind: Any, error: Any, traceback: Any) -> None:
    job.connection.rpush(handled(job.id), "third")


def handle_badly(job: Job, kind: Any, error: Any, traceback: Any) -> None:
    raise RuntimeError("the handler failed")


# -- classes of an application's own ---------------------------------------------------------------------------------


class OwnJob(Job):
    """A job with methods of its own, and an attribute from the start."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.looks = 0

    def user(self) -> str:
        return str(self.meta.get("user", "nobody"))


class OwnQueue(rq.Queue):
    """A queue with a method of its own."""

    job_class = OwnJob

    def backlog(self) -> int:
        return len(self)


class LoudJob(Job):
    """A job class whose jobs RQ must run itself."""

    def perform(self) -> Any:
        return super().perform()


class Backwards:
    """A format that cannot be mistaken for another."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return json.dumps(value).encode()[::-1]

    @staticmethod
    def loads(data: bytes) -> Any:
        return json.loads(data[::-1])


def whose() -> list[Any]:
    """Return what a job sees of itself."""
    job = me()
    assert isinstance(job, OwnJob)
    job.looks += 1
    return [type(job).__name__, job.user(), job.looks]


def whose_and_fail() -> None:
    raise ValueError(str(whose()))


def told(job_id: str) -> str:
    return f"told:{job_id}"


def tell(job: OwnJob, connection: Any, *outcome: Any) -> None:
    """Note the call, as a callback for success or failure."""
    connection.rpush(told(job.id), f"called back {job.user()}")


def handle_own(job: OwnJob, kind: Any, error: Any, traceback: Any) -> None:
    job.connection.rpush(told(job.id), f"handled {job.user()}")


# -- endings that are no Exception -----------------------------------------------------------------------------------


async def cancel_a_part() -> None:
    part = asyncio.ensure_future(asyncio.sleep(60))
    await asyncio.sleep(0)
    part.cancel()
    await part


def exit_in_callback(job: Job, connection: Any, *outcome: Any) -> None:
    connection.incr(told(job.id))
    raise SystemExit(3)


def cannot_find_in_callback(job: Job, connection: Any, *outcome: Any) -> None:
    connection.incr(told(job.id))
    raise FileNotFoundError(2, "no such file", "f")


def lose_the_connection_in_callback(job: Job, connection: Any, *outcome: Any) -> None:
    """Connect to another store, which does not exist."""
    connection.incr(told(job.id))
    rq.Queue(connection=redis.Redis(port=1)).enqueue("samples.ok", 1)


def confuse_the_store_in_callback(job: Job, connection: Any, *outcome: Any) -> None:
    connection.incr(told(job.id))
    connection.lpush(told(job.id), "not a list")


def handle_and_exit(job: Job, kind: Any, error: Any, traceback: Any) -> None:
    raise SystemExit(3)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def say_nothing() -> None:
    raise Unspeakable


def leave_things(number: int) -> None:
    """Set attributes on the job itself, as applications do for their callbacks."""
    job = me()
    job.stash = {"a": number}  # type: ignore[attr-defined]


def find_things(job: Any, connection: Any, *outcome: Any) -> None:
    connection.rpush(told(job.id), repr((job.stash, job.get_status().value, job.is_started)))


def wait_long_for_nothing(seconds: float) -> Any:
    return me().connection.blpop("nothing", timeout=seconds)


def take_sigterm() -> None:
    """Take SIGTERM over, and keep it."""
    signal.signal(signal.SIGTERM, lambda *_: None)


# -- who runs when ---------------------------------------------------------------------------------------------------


def count_company(key: str, seconds: float, gate: str) -> int:
    """Nap until the key ``gate`` exists; return how many jobs ran at the same time at most, as far as this one saw."""
    connection = me().connection
    most = int(connection.incr(key))  # type: ignore[arg-type]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or not connection.exists(gate):
        most = max(most, int(connection.get(key) or 0))  # type: ignore[arg-type]
        time.sleep(0.01)
    connection.decr(key)
    return most


def leave_with_zero() -> None:
    """End the process with exit code 0."""
    os._exit(0)


def become_another_program() -> None:
    os.execvp("sleep", ["sleep", "0.2"])


def block_all_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def close_the_standard_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()
