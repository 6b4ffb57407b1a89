"""Jobs with a chosen ending, served by the test workers with ``-I samples``."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from os import getpid as borrowed  # a foreign function under our name: a worker must not serve it
from pathlib import Path
from typing import Any

import redis
import rq
from rq.job import Job

__all__ = ["borrowed"]


# -- ends well -------------------------------------------------------------------------------------------------------


def ok(value: Any = None) -> Any:
    return value


def note(path: str, text: Any) -> Any:
    """Append a line to a file in one write: the record that this ran, also when the process dies at the next step."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)
    return text


def note_after(path: str, text: Any, seconds: float) -> Any:
    """Nap, then note a line: one per run."""
    time.sleep(seconds)
    return note(path, text)


def note_where(path: str, text: Any, seconds: float) -> Any:
    """Note the start with the process, then nap."""
    note(path, f"{os.getpid()} {text}")
    time.sleep(seconds)
    return text


def note_and_nap(path: str, text: Any, seconds: float) -> Any:
    """Note the start and the end of a nap in slices."""
    note(path, f"start {text}")
    nap(seconds)
    note(path, f"end {text}")
    return text


def wait_for(record: str, text: Any, gate: str, seconds: float = 60.0) -> Any:
    """Note the start, wait until the file ``gate`` is there, note the end."""
    note(record, f"start {text}")
    deadline = time.monotonic() + seconds
    while not os.path.exists(gate):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened {gate}")
        time.sleep(0.01)
    note(record, f"end {text}")
    return text


def nap_behind(barrier: str, record: str, text: Any, seconds: float) -> Any:
    """Note the start, wait until the file ``barrier`` is gone, nap, note the end."""
    note(record, f"start {text}")
    while os.path.exists(barrier):
        time.sleep(0.01)
    nap(seconds)
    note(record, f"end {text}")
    return text


def ask_twice(record: str, gate: str) -> None:
    """Ask the store over the job's own connection, and again when the gate is there; note what came of it."""
    job = rq.get_current_job()
    assert job is not None
    job.connection.ping()
    note(record, "asked")
    while not os.path.exists(gate):
        time.sleep(0.01)
    try:
        job.connection.ping()
        note(record, "answered")
    except redis.TimeoutError as e:
        note(record, type(e).__name__)


def nap(seconds: float) -> float:
    """Sleep in slices, so that an exception thrown into a thread arrives."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(0.02, left))
    return seconds


def big(size: int) -> str:
    return "x" * size


async def coroutine(value: Any) -> Any:
    await asyncio.sleep(0.001)
    return value


def where() -> dict[str, int]:
    return {"pid": os.getpid(), "thread": threading.get_ident()}


_kept: list[bytes] = []


def grow(megabytes: int) -> int:
    """Use more memory with each run, and return the process."""
    _kept.append(b"x" * (megabytes * 2**20))
    return os.getpid()


def in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def current() -> dict[str, Any]:
    """Return what ``rq.get_current_job()`` tells a job about itself; leave a word in its meta."""
    job = rq.get_current_job()
    assert job is not None
    job.meta["said"] = "hello"
    job.save_meta()
    return {"id": job.id, "origin": job.origin, "status": job.get_status().value, "func_name": job.func_name}


# -- ends badly ------------------------------------------------------------------------------------------------------


def fail(text: str = "as you wished") -> None:
    raise ValueError(text)


def in_turn(divisor: int) -> float:
    """Fail where the divisor is 0, by an exception of Python's own."""
    return 1 // divisor if divisor == 0 else divisor


def fail_times(path: str, times: int) -> int:
    """Fail so many times, then return how often this ran."""
    note(path, "ran")
    ran = len(Path(path).read_text().splitlines())
    if ran <= times:
        raise ValueError(f"failure {ran}")
    return ran


def ask_for_retry(path: str, times: int) -> Any:
    """Return an ``rq.Retry`` so many times, then how often this ran."""
    note(path, "ran")
    ran = len(Path(path).read_text().splitlines())
    return rq.Retry(max=times) if ran <= times else ran


def leave(code: int = 3) -> None:
    """Exit, as a script does."""
    sys.exit(code)


def return_a_set() -> set[int]:
    return {1, 2}


def sleep_in_c(seconds: float) -> None:
    """Make one long call that releases the GIL: only a signal in the main thread wakes it."""
    time.sleep(seconds)


def spin(seconds: float) -> None:
    """Compute in Python."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


ONE_AT_A_TIME = threading.Lock()


def nap_with_a_lock(seconds: float) -> None:
    """Wait as for input or output, but under a lock: one job of a process at a time."""
    with ONE_AT_A_TIME:
        time.sleep(seconds)


def hold_the_gil(seconds: float) -> None:
    """Make one long call that keeps the GIL: no other thread of the process runs."""
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


_HANGS = {"sleep": sleep_in_c, "spin": spin, "hold": hold_the_gil}


def hang(record: str, text: Any, how: str, seconds: float) -> None:
    """Note the start, then be busy in one of the ways above, and note the end."""
    note(record, f"start {text}")
    _HANGS[how](seconds)
    note(record, f"end {text}")


def note_what_ends_it(record: str, seconds: float) -> None:
    """Nap, and leave a note of the exception that ends the nap."""
    try:
        note(record, "start")
        nap(seconds)
    except BaseException as e:
        note(record, type(e).__name__)
        raise


def close_everything() -> str:
    """Close all descriptors, as a job that becomes a daemon does."""
    os.closerange(3, 4096)
    return "closed"


def allow_no_files() -> str:
    """Set a limit with which this process can open nothing and wait for nothing any more."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    return "none"


def exit_process(record: str, code: int = 7) -> None:
    note(record, "start")
    os._exit(code)


def segfault(record: str) -> None:
    """Read an invalid address: the crash is in the thread that runs the job."""
    note(record, "start")
    ctypes.string_at(0)


def kill_itself(record: str, number: int = signal.SIGKILL) -> None:
    note(record, "start")
    os.kill(os.getpid(), number)
    time.sleep(60)


def shrug_off(record: str, seconds: float) -> None:
    """Ignore interrupts: continue after any exception that is raised in the job, with SIGTERM blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    deadline, said = time.monotonic() + seconds, "start"
    while time.monotonic() < deadline:
        try:
            note(record, said)  # the reader may act at once, so exceptions are caught from here on
            while time.monotonic() < deadline:
                time.sleep(0.02)
        except BaseException as e:
            said = type(e).__name__


# -- callbacks: (job, connection, ...), each leaves a word in a hash of its job --------------------------------------


def words_of(job_id: str) -> str:
    return f"words:{job_id}"


def on_success(job: Job, connection: redis.Redis, result: Any) -> None:
    """Use a pipeline of its own, as callbacks do: it must not count as RQ's finish."""
    with connection.pipeline() as pipe:
        pipe.hset(words_of(job.id), "success", str(result))
        pipe.hincrby(words_of(job.id), "calls", 1)
        pipe.execute()


def on_failure(job: Job, connection: redis.Redis, kind: Any, error: Any, traceback: Any) -> None:
    with connection.pipeline() as pipe:
        pipe.hset(words_of(job.id), "failure", f"{kind.__name__}: {error}")
        pipe.hincrby(words_of(job.id), "calls", 1)
        pipe.execute()


def slow_on_failure(job: Job, connection: redis.Redis, kind: Any, error: Any, traceback: Any) -> None:
    time.sleep(1)
    on_failure(job, connection, kind, error, traceback)


def on_stopped(job: Job, connection: redis.Redis) -> None:
    with connection.pipeline() as pipe:
        pipe.hset(words_of(job.id), "stopped", "yes")
        pipe.hincrby(words_of(job.id), "calls", 1)
        pipe.execute()


def fatal_callback(job: Job, connection: redis.Redis, kind: Any, error: Any, traceback: Any) -> None:
    """Kill the process, as a failure callback."""
    connection.hset(words_of(job.id), "failure", "called")
    os._exit(9)


def bad_callback(job: Job, connection: redis.Redis, result: Any) -> None:
    raise RuntimeError("the callback failed")


def slow_callback(job: Job, connection: redis.Redis, result: Any) -> None:
    nap(60)


def throw(error: BaseException) -> None:
    raise error
