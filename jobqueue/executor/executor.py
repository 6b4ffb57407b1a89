"""``JobExecutor``: the standard library's Executor over the queue.

With a mode it starts workers of its own, on a queue of its own, for as long as it lives. Without one its jobs go to
running workers and outlive it. Everything is started at the first submit.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jobqueue.errors import UsageError
from jobqueue.executor.dispatcher import Dispatcher, Plan
from jobqueue.executor.futures import JobFuture
from jobqueue.executor.pickling import Pickle
from jobqueue.executor.worker_group import Shape
from jobqueue.producing.catalog import Task
from jobqueue.producing.queue import A_DAY
from jobqueue.protocol import bounds, names
from jobqueue.serializers import JSON

_SERIALIZERS: dict[str, Any] = {"json": JSON, "pickle": Pickle}
_FOR_EVER = -1


class JobExecutor(concurrent.futures.Executor):
    """Runs functions as jobs. Arguments and results are JSON unless ``serializer="pickle"``.

    mode "thread" or "process" starts ``workers`` of its own; None uses running workers that serve ``queue``. Functions
    are those of modules, tasks by name ("square", "shop.tasks:resize"), or those of the script itself.
    """

    def __init__(
        self,
        mode: str | None = None,
        workers: int | None = None,
        *,
        queue: str | None = None,
        url: str | None = None,
        serializer: str = "json",
        modules: Sequence[str] = (),
        job_timeout: float | None = None,
        result_ttl: int = A_DAY,
        worker_flags: Sequence[str] = (),
        plugins: Sequence[str] | None = None,
        log: str | Path | None = None,
    ) -> None:
        """url: of the store; by default as everywhere (environment, local store). job_timeout: seconds that a job may
        run, None for no limit. result_ttl: seconds that results are kept. plugins: as of a Queue, each as module:Class,
        because own workers use them too. For own workers only: modules that they serve from the start; worker_flags:
        more flags of `jobq worker`; log: a file for their stderr.

        Raises ValueError, UsageError. Starts nothing: the first submit does.
        """
        own = [*modules, *worker_flags, *([log] if log else [])]
        _check(mode, workers, queue, own, modules=modules, worker_flags=worker_flags, plugins=plugins or ())
        if serializer not in _SERIALIZERS:
            raise ValueError(f"serializer is 'json' or 'pickle', not {serializer!r}")
        flags = [
            *worker_flags,
            *(flag for name in plugins or () for flag in ("--plugin", name)),
            *(["--accept", "json,pickle"] if serializer == "pickle" else []),
        ]
        self._plan = Plan(
            queue=queue or "default",
            url=url,
            shape=None if mode is None else Shape(mode, workers, tuple(flags), Path(log).absolute() if log else None),
            modules=tuple(modules),
            serializer=_SERIALIZERS[serializer],
            plugins=plugins,
            options={
                "job_timeout": _FOR_EVER if job_timeout is None else bounds.TIMEOUT.check("job_timeout", job_timeout),
                "result_ttl": bounds.RESULT_TTL.check("result_ttl", result_ttl),
            },
        )
        self._mutex = threading.Lock()
        self._shut = False
        self._dispatcher: Dispatcher | None = None

    # -- Executor --------------------------------------------------------------------------------------------------

    def submit(self, fn: Task, /, *args: Any, **kwargs: Any) -> JobFuture:
        """Enqueue ``fn(*args, **kwargs)`` and return its future; when it returns, the job is in the store.

        Raises UsageError (a function that no worker could import; arguments that the format cannot carry), StoreError,
        BrokenWorkers; RuntimeError after shutdown.
        """
        return self._engine().submit(fn, args, kwargs)

    def map(
        self,
        fn: Task,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Run ``fn`` over the iterables and iterate over the results, in order.

        timeout: in seconds from now, for all (TimeoutError). chunksize changes nothing: each call is a job, and up to
        500 jobs are sent in one round trip anyway. buffersize: at most so many jobs are under way, and the iterables
        are read as results are taken; None reads them all now. Raises what a call raised, at its place.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + (bounds.wait(timeout) or 0.0)
        calls = zip(*iterables, strict=False)
        engine = self._engine()
        first = calls if buffersize is None else itertools.islice(calls, buffersize)
        futures: deque[JobFuture] = deque()
        try:
            for some in engine.submit_all(fn, ((args, {}) for args in first)):
                futures.extend(some)
        except BaseException:  # no caller can get these results
            engine.cancel(futures)
            raise
        more = iter(()) if buffersize is None else calls
        return _results(engine, fn, futures, more, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more jobs, and wait for the submitted ones.

        Own workers stop when the last future is done, with wait=False in the background; a program does not end before
        that. Without own workers, wait=False leaves the jobs to running workers, also after the program's end.
        cancel_futures cancels the jobs that no worker has claimed yet. Safe to repeat.
        """
        try:
            with self._mutex:
                self._shut = True
            if self._dispatcher is None:
                return
            self._dispatcher.close(cancel_futures)
            if wait:
                self._dispatcher.join()
        except (KeyboardInterrupt, SystemExit):
            self._abort()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all futures, as Executor does. After Ctrl-C or SystemExit do not: waiting jobs of own workers are
        canceled, running ones interrupted; jobs for running workers go on."""
        if kind is None or issubclass(kind, Exception):
            self.shutdown(wait=True)
        else:
            self._abort()

    def _abort(self) -> None:
        with self._mutex:
            self._shut = True
            engine = self._dispatcher
        if engine is not None:
            engine.abort()

    # -- the engine ------------------------------------------------------------------------------------------------

    def _engine(self) -> Dispatcher:
        """Return the Dispatcher, made at the first use. It goes on without this executor until its futures are done."""
        with self._mutex:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._dispatcher is None or not self._dispatcher.of_this_process:
                _refuse_in_an_import()
                self._dispatcher = Dispatcher(self._plan)
                weakref.finalize(self, self._dispatcher.close).atexit = False
            return self._dispatcher


def _results(
    engine: Dispatcher, fn: Task, futures: deque[JobFuture], more: Iterator[Any], deadline: float | None
) -> Iterator[Any]:
    try:
        while futures:
            left = None if deadline is None else deadline - time.monotonic()
            result = futures[0].result(left)
            futures.popleft()
            for args in itertools.islice(more, 1):
                futures.append(engine.submit(fn, args, {}))
            yield result
    finally:
        engine.cancel(futures)


def _check(
    mode: str | None, workers: int | None, queue: str | None, own: Sequence[Any], **several: Sequence[str]
) -> None:
    for option, given in several.items():
        if isinstance(given, str):  # the letters of a string would be taken for names
            raise TypeError(f"{option} is a list, such as [{given!r}]")
    if mode not in (None, "thread", "process"):
        raise ValueError(f"mode is 'thread', 'process' or None, not {mode!r}")
    if workers is not None:
        bounds.COUNT.check("workers", workers)
    if queue is not None:
        names.queue_name(queue)
    if mode is None and (workers is not None or own):
        raise UsageError("workers, modules, worker_flags and log are about own workers: give a mode as well.")
    if mode is not None and queue is not None:
        raise UsageError("Own workers have a queue of their own: give either a mode or a queue.")


def _refuse_in_an_import() -> None:
    """Raise if a worker imports this script: it must not run what the script runs, or it would start workers that
    import it, too."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "preload" and frame.f_globals.get("__name__") == "jobqueue.workers.forking.preload":
            raise RuntimeError(
                "a worker imports this module and must not submit jobs by that: put what the script does under "
                'if __name__ == "__main__":'
            )
        frame = frame.f_back  # type: ignore[assignment]
