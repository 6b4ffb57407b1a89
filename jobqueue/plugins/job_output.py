"""The end of what one run has written, and which run writes now: a context variable, which threads and programs follow.

the job's own thread, its coroutines     by the context
threads, work for a ThreadPoolExecutor   the variable is set in them, see ``threads_followed``
programs (subprocess, asyncio)           their stdout and stderr go through a pipe, see program_output.py
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from jobqueue.clock import monotonic

LARGE, MOST_PIECES = 4096, 500  # bytes of a piece, and pieces, that are not left apart
CATCH_UP_EVERY = 0.005  # seconds; a job that prints much beside a program need not be slow


class JobOutput:
    """The end of what one run has written. Any thread may call it. No lock is held while a text is added: a job may be
    interrupted there, and all would wait for ever behind a lock that it left."""

    def __init__(self, limit: int) -> None:
        """limit: bytes."""
        self._limit = limit
        self._pieces: deque[bytes] = deque()  # what was written last, piece by piece
        self._chunks: deque[bytes] = deque()  # what was written before, joined
        self._joined = 0  # bytes in the chunks
        self._joining = threading.Lock()  # taken only if it is free
        self._is_over = False
        self._caught_up_at = 0.0  # monotonic seconds
        self.catch_up: Callable[[JobOutput], object] | None = None  # reads what programs of the job have printed so far
        self.total = 0  # bytes that were written
        self.stored = -1  # of these, when it was last stored

    def add(self, text: str) -> None:
        """Add a text that the job itself writes, behind what its programs have printed before."""
        if self.catch_up is not None and (now := monotonic()) - self._caught_up_at > CATCH_UP_EVERY:
            self._caught_up_at = now
            self.catch_up(self)
        self.add_bytes(text.encode("utf-8", "backslashreplace"))

    def add_bytes(self, data: bytes) -> None:
        """Add what is encoded already. What comes after the end of the run is not kept."""
        if self._is_over:
            return
        self.total += len(data)
        self._pieces.append(data[-self._limit :])
        if len(data) >= LARGE or len(self._pieces) >= MOST_PIECES:
            self._join()

    def end(self) -> None:
        """Keep nothing any more: a thread that the run has left behind may write on."""
        self._is_over = True

    def fields(self) -> dict[str, bytes | int]:
        """Return what is stored: the end of the text, and how many bytes there were in all."""
        self.stored = self.total
        self._join()
        kept = b"".join((*self._chunks.copy(), *self._pieces.copy()))
        return {"text": kept[-self._limit :], "total": self.total}

    def _join(self) -> None:
        """Join the pieces, and forget what is too much at the beginning."""
        if not self._joining.acquire(blocking=False):  # another thread is at it
            return
        try:
            chunk = b"".join(self._pieces.popleft() for _ in range(len(self._pieces)))
            self._chunks.append(chunk)
            self._joined += len(chunk)
            while self._joined - len(self._chunks[0]) >= self._limit:
                self._joined -= len(self._chunks.popleft())
        finally:
            self._joining.release()


current: ContextVar[JobOutput | None] = ContextVar("jobq_output", default=None)


@contextlib.contextmanager
def threads_followed() -> Iterator[None]:
    """While inside, a thread writes for the job that has started it, and a thread of a pool (``ThreadPoolExecutor``,
    ``loop.run_in_executor``) for the job whose work it does, whoever has started the thread."""
    from concurrent.futures import ThreadPoolExecutor

    start, submit = threading.Thread.start, ThreadPoolExecutor.submit
    threading.Thread.start = _following_start(start)  # type: ignore[method-assign, assignment]
    ThreadPoolExecutor.submit = _following_submit(submit)  # type: ignore[method-assign]
    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]


def _following_start(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @functools.wraps(start)
    def start_for_job(self: threading.Thread) -> None:
        output = current.get()
        if output is None:
            start(self)
            return
        run = self.run

        def run_for_job() -> None:
            vars(self).pop("run", None)
            _call(output, run)

        self.run = run_for_job  # type: ignore[method-assign]
        try:
            start(self)
        except BaseException:  # there is no thread to be had, or it was started before
            vars(self).pop("run", None)
            raise

    return start_for_job


def _following_submit(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def submit_for_job(self: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return submit(self, _call, current.get(), function, *args, **kwargs)

    return submit_for_job


def _call(output: JobOutput | None, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    token = current.set(output)
    try:
        return function(*args, **kwargs)
    finally:
        current.reset(token)
