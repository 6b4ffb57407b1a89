"""Keep the last kilobytes of what each job logs and prints: ``jobq worker --capture 64k``, ``jobq logs ID``.

What a job, its coroutines and its threads write to ``sys.stdout`` and ``sys.stderr`` and log is kept, by a context
variable, so that jobs in other threads do not get into it; and what programs print that it starts (job_output.py,
program_output.py). Of a failure also the traceback. It is written to the store once a second while a job runs, and at
its end; the key expires with the job.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rq.timeouts import JobTimeoutException

from jobqueue.plugins.job_output import JobOutput, current, threads_followed
from jobqueue.plugins.plugin import JobEnd, Plugin, RunningJob
from jobqueue.plugins.program_output import ProgramOutput
from jobqueue.protocol import keys

EVERY = 1.0  # seconds between two writes to the store while a job runs
RUNNING_TTL = 86_400  # seconds for which the output of a job that has not ended is kept without a new write
_FORMAT = logging.Formatter("%(levelname)s %(name)s: %(message)s")


_logging = threading.local()  # on: what is written now was kept as a log record


class Tee:
    """A stream that also keeps what a job writes. In all else it is the stream below."""

    def __init__(self, below: Any) -> None:
        self.below = below

    def write(self, text: str) -> int:
        """Write to the stream, and keep it if a job writes."""
        written: int = self.below.write(text)
        if (output := current.get()) is not None and not getattr(_logging, "on", False):
            output.add(text)
        return written

    def writelines(self, texts: Any) -> None:
        """Write each of the texts."""
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


def _keep_records(call_handlers: Callable[[logging.Logger, logging.LogRecord], None]) -> Callable[..., None]:
    """Return ``Logger.callHandlers`` so wrapped that each record of a job is kept once, whatever handlers there are."""

    def call(self: logging.Logger, record: logging.LogRecord) -> None:
        output = current.get()
        if output is None or getattr(_logging, "on", False):
            call_handlers(self, record)
            return
        output.add(f"{_text(record)}\n")
        _logging.on = True
        try:
            call_handlers(self, record)
        finally:
            _logging.on = False

    return call


def _text(record: logging.LogRecord) -> str:
    """Return the line of a record. A wrong call fails no job, as with logging's own handlers, which complain of it."""
    try:
        return _FORMAT.format(record)
    except JobTimeoutException:
        raise
    except Exception as e:
        place = f"{record.filename}:{record.lineno}"
        return f"{record.levelname} {record.name}: (the record of {place} cannot be printed: {type(e).__name__})"


class CapturePlugin(Plugin):
    """See above."""

    name = "capture"

    def __init__(self) -> None:
        self._running: dict[str, tuple[RunningJob, JobOutput]] = {}  # by job id
        self._over = threading.Event()
        self._before: tuple[Any, Any, Any] = (sys.stdout, sys.stderr, logging.Logger.callHandlers)
        self._followed = ExitStack()
        self._storing = threading.Lock()  # held for a write, so that none of a running job follows that of its end

    def why_inactive(self) -> str:
        """Return why no output is kept."""
        return "" if self._limit else "--capture is not given"

    @property
    def _limit(self) -> int:
        return self.worker.capture if self.worker is not None else 0

    def process_start(self) -> None:
        """Begin to keep what is written, and to store it once a second."""
        self._before = sys.stdout, sys.stderr, logging.Logger.callHandlers
        sys.stdout, sys.stderr = Tee(sys.stdout), Tee(sys.stderr)
        logging.Logger.callHandlers = _keep_records(logging.Logger.callHandlers)  # type: ignore[method-assign]
        self._followed.enter_context(threads_followed())
        self._followed.enter_context(ProgramOutput().followed())
        threading.Thread(target=self._store_while_they_run, name="jobq-capture", daemon=True).start()

    def process_stop(self) -> None:
        """End the thread, and put things back: RQ's SimpleWorker runs in a process of the user's."""
        self._over.set()
        self._followed.close()
        sys.stdout, sys.stderr, logging.Logger.callHandlers = self._before  # type: ignore[method-assign]

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        """Run the job so that its output is kept."""
        output = job.state[self] = JobOutput(self._limit)
        self._running[job.id] = (job, output)
        token = current.set(output)
        try:
            return call_next()
        finally:
            current.reset(token)

    def job_ended(self, job: RunningJob, end: JobEnd) -> None:
        """Store the output of this run; without any, there is nothing to store."""
        self._running.pop(job.id, None)
        output = job.state.pop(self, None)
        if end.was_killed:
            self._add_cause(job, end)
            return
        if output is None:
            output = JobOutput(self._limit)
        if output.catch_up is not None:
            output.catch_up(output)
        if end.kind in ("failed", "retried") and end.text:
            output.add(f"{end.text.rstrip()}\n")
        output.end()
        if output.total:
            with self._storing:
                _store(job, output, self._ttl(job, end))

    # -- the store -----------------------------------------------------------------------------------------------------

    def _store_while_they_run(self) -> None:
        while not self._over.wait(EVERY):
            for job, output in list(self._running.values()):
                if output.total and output.stored != output.total:
                    try:
                        with self._storing:
                            if job.id in self._running:
                                _store(job, output, RUNNING_TTL)
                    except Exception:  # the store is away: the next turn, or the end of the job, tries again
                        break

    def _add_cause(self, job: RunningJob, end: JobEnd) -> None:
        """Add why the process died to what it had stored before."""
        key = keys.output(job.id)
        output = JobOutput(self._limit)
        before: bytes | None = job.connection.hget(key, "text")
        output.add((before or b"").decode("utf-8", "replace"))
        output.add(f"{end.text.rstrip()}\n")
        _store(job, output, self._ttl(job, end))

    def _ttl(self, job: RunningJob, end: JobEnd) -> int:
        """Return for how many seconds the job's own key is kept: 0 not at all, -1 for ever."""
        if end.kind in ("retried", "interrupted"):
            return RUNNING_TTL
        assert self.worker is not None
        failed = end.kind != "finished"
        status, own = job.fields("status", "failure_ttl" if failed else "result_ttl")
        if status is None:  # it is gone already: it was kept for 0 s, or deleted
            return 0
        default = self.worker.failure_ttl if failed else self.worker.result_ttl
        try:
            return int(own) if own else default
        except ValueError:
            return default


def _store(job: RunningJob, output: JobOutput, ttl: int) -> None:
    key = keys.output(job.id)
    with job.connection.pipeline(transaction=True) as pipe:
        pipe.delete(key)  # of an earlier run
        if ttl:
            pipe.hset(key, mapping=output.fields())
        if ttl > 0:
            pipe.expire(key, ttl)
        pipe.execute()


def stored_output(client: Any, job_id: str) -> tuple[str, int] | None:
    """Return the end of a job's output and how many bytes there were in all; None if nothing is kept."""
    text, total = client.hmget(keys.output(job_id), "text", "total")
    if text is None:
        return None
    return text.decode("utf-8", "replace"), int(total or 0)


def wait_a_turn() -> None:
    """Wait until new output may be stored."""
    time.sleep(EVERY / 2)
