"""``jobq submit --wait``: send jobs in a thread, and print their results in order as they come, under a progress bar.

chunks ──► (thread) send ──► ids ──► Waiter ──► outcomes on stdout, what failed on stderr
"""

from __future__ import annotations

import functools
import queue as stdlib_queue
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jobqueue.cli.render import json_line
from jobqueue.cli.values import CallArguments
from jobqueue.errors import JobFailed
from jobqueue.words import one_line

if TYPE_CHECKING:
    from jobqueue.model import Outcome
    from jobqueue.producing.queue import Queue

_END = object()


class Sends(Protocol):
    """Sends a chunk of calls and returns their ids; ``sent`` counts the jobs so far."""

    sent: int

    def __call__(self, calls: Sequence[CallArguments]) -> Iterable[str]: ...


def print_results(queue: Queue, send: Sends, chunks: Iterator[Sequence[CallArguments]], as_json: bool) -> int:
    """Send in a thread, so that a slow stdin delays no result; print the outcomes; return how many jobs failed."""
    ids: stdlib_queue.SimpleQueue[Any] = stdlib_queue.SimpleQueue()
    threading.Thread(target=_send_all, args=(send, chunks, ids), name="jobq-submit", daemon=True).start()
    problem: list[BaseException] = []
    failed = 0
    with SubmitProgress(send) as progress:
        say = functools.partial(_say, progress)
        for outcome in queue.waiter(say).outcomes(_coming(ids, problem)):
            failed += outcome.error is not None
            _print_outcome(outcome, as_json, progress)
    if problem:
        raise problem[0]
    return failed


def _send_all(send: Sends, chunks: Iterator[Sequence[CallArguments]], ids: stdlib_queue.SimpleQueue[Any]) -> None:
    try:
        for chunk in chunks:
            ids.put(send(chunk))
        ids.put(_END)
    except BaseException as e:
        ids.put(e)


def _coming(ids: stdlib_queue.SimpleQueue[Any], problem: list[BaseException]) -> Iterator[str | None]:
    while True:
        try:
            item = ids.get(timeout=0.01)
        except stdlib_queue.Empty:
            yield None
            continue
        if item is _END:
            return
        if isinstance(item, BaseException):
            # An error of the sending thread: raised after the results of what had been sent.
            problem.append(item)
            return
        yield from item


def _say(progress: SubmitProgress, reason: str) -> None:
    progress.print(f"jobq: {one_line(reason)}", sys.stderr)


def _print_outcome(outcome: Outcome, as_json: bool, progress: SubmitProgress) -> None:
    error = outcome.error
    if error is not None:
        text = one_line(str(error))
        progress.print(f"{text[:1].lower()}{text[1:]}", sys.stderr)
    if not as_json and error is not None:
        # Stdout has results only; with --json each job has a line there, also a failed one.
        progress.done += 1
        return
    if not as_json:
        line = json_line(outcome.value)
    elif error is None:
        line = json_line({"id": outcome.job_id, "ok": True, "result": outcome.value})
    else:
        trace = {"traceback": error.traceback} if isinstance(error, JobFailed) else {}
        line = json_line({"id": outcome.job_id, "ok": False, "error": str(error), **trace})
    progress.print(line, sys.stdout)
    progress.done += 1


class SubmitProgress:
    """A bar on stderr if that is a terminal; lines of output are printed above it."""

    def __init__(self, send: Sends) -> None:
        self.done = 0
        self._send = send
        self._bar: Any = None

    def __enter__(self) -> SubmitProgress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("waiting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            console = Console(stderr=True)
            self._bar = Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
            outer = self

            def renderables() -> Iterator[Any]:  # rich calls this ten times a second
                bar = outer._bar
                bar.update(bar.task_ids[0], total=max(outer._send.sent, 1), completed=outer.done)
                yield bar.make_tasks_table(bar.tasks)

            self._bar.add_task("", total=1)
            self._bar.get_renderables = renderables
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def print(self, line: str, file: Any) -> None:
        if self._bar is not None and file.isatty():  # the terminal that shows the bar: rich prints the line above it
            from rich.text import Text

            self._bar.console.print(Text(line), soft_wrap=True, highlight=False)
        else:
            print(line, file=file, flush=True)
