"""Plugins and jobs for the tests of plugins. What plugins see goes into the file that SEEN names, a line each."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from jobqueue.plugins import JobEnd, NewJob, Plugin, RunningJob

METHODS = ("process_start", "process_stop", "thread_start", "thread_stop", "job_ended", "worker_start", "worker_stop")


def see(*words: object) -> None:
    """Write a line in one piece."""
    with open(os.environ["SEEN"], "a") as file:
        file.write(" ".join(map(str, words)) + "\n")


class Recorder(Plugin):
    """Writes down each call."""

    def worker_start(self) -> None:
        see("worker_start", os.getpid())

    def worker_stop(self) -> None:
        see("worker_stop", os.getpid())

    def process_start(self) -> None:
        see("process_start", os.getpid())

    def process_stop(self) -> None:
        see("process_stop", os.getpid())

    def thread_start(self) -> None:
        see("thread_start", threading.get_native_id())

    def thread_stop(self) -> None:
        see("thread_stop", threading.get_native_id())

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        see("before", job.id, job.task, list(job.args), dict(job.kwargs), job.queue)
        try:
            return call_next()
        finally:
            see("after", job.id)

    def job_ended(self, job: RunningJob, end: JobEnd) -> None:
        error = type(end.error).__name__ if end.error is not None else "-"
        see("ended", job.id, end.kind, error, end.was_killed, job.task, (end.text.strip().splitlines() or ["-"])[-1])


class Doubler(Plugin):
    """Changes what jobs return."""

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        return 2 * call_next()


class Refuser(Plugin):
    """Fails each job."""

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        raise PermissionError("not today")


class Raiser(Plugin):
    """Raises in each method, but for around_job."""

    def _raise(self, *_: object) -> None:
        raise ValueError("I raise")

    worker_start = worker_stop = process_start = process_stop = thread_start = thread_stop = _raise
    job_ended = before_enqueue = _raise


class Leaver(Plugin):
    """Calls sys.exit in each method, but for around_job."""

    def _leave(self, *_: object) -> None:
        raise SystemExit(3)

    worker_start = worker_stop = process_start = process_stop = thread_start = thread_stop = job_ended = _leave


class Breaker(Plugin):
    """Raises in each method, but for around_job, what is no Exception: first one, then the other."""

    def _break(self, *_: object) -> None:
        self.times = getattr(self, "times", 0) + 1
        raise KeyboardInterrupt if self.times % 2 else GeneratorExit

    worker_start = worker_stop = process_start = process_stop = thread_start = thread_stop = job_ended = _break


class Forker(Plugin):
    """Forks in each method, and returns in the copy too; half of the copies raise SystemExit."""

    def _fork(self, *_: object) -> None:
        self.times = getattr(self, "times", 0) + 1
        if os.fork() == 0 and self.times % 2:
            raise SystemExit(7)

    worker_start = worker_stop = process_start = process_stop = thread_start = thread_stop = job_ended = _fork

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        result = call_next()
        self._fork()
        return result


class Killer(Plugin):
    """Kills its process in the method that the environment names; with ONCE, a file, only the first time."""

    def _kill(self, name: str) -> None:
        if os.environ.get("KILL_IN") != name:
            return
        if once := os.environ.get("ONCE"):
            try:
                os.close(os.open(once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        os.kill(os.getpid(), int(os.environ.get("KILL_BY", signal.SIGKILL)))

    def process_start(self) -> None:
        self._kill("process_start")

    def process_stop(self) -> None:
        self._kill("process_stop")

    def thread_start(self) -> None:
        self._kill("thread_start")

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        self._kill("around_job")
        return call_next()

    def job_ended(self, job: RunningJob, end: JobEnd) -> None:
        self._kill("job_ended")


class Hanger(Plugin):
    """Sleeps in the method that the environment names, as long as the environment says."""

    def _hang(self, name: str) -> None:
        if os.environ.get("HANG_IN") == name:
            time.sleep(float(os.environ.get("HANG_FOR", "60")))

    def process_start(self) -> None:
        self._hang("process_start")

    def process_stop(self) -> None:
        self._hang("process_stop")

    def worker_start(self) -> None:
        self._hang("worker_start")

    def thread_start(self) -> None:
        self._hang("thread_start")

    def job_ended(self, job: RunningJob, end: JobEnd) -> None:
        self._hang("job_ended")


class Tagger(Plugin):
    """Puts a field into each job's hash, and reads it where the job runs."""

    def before_enqueue(self, job: NewJob) -> None:
        job.fields["tag"] = os.environ.get("TAG", "a tag").encode()

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        (tag,) = job.fields("tag")
        see("tag", (tag or b"-").decode())
        return call_next()


class Idle(Plugin):
    """Says that it has nothing to do."""

    def why_inactive(self) -> str:
        return "SOMETHING is not set"


class Quiet(Plugin):
    """Is an object that is named, not a class."""


quiet = Quiet()
no_plugin = "a text"
