"""``jobq submit --wait``: jobs go out in a thread, results are printed in order as they come, under a bar.

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
    """Send in a thread, so that a slow stdin holds up no result; print the outcomes; return how many failed."""
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
        if isinstance(item, BaseException):  # the results of what was sent come first, then this
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
    if not as_json and error is not None:  # stdout has results only; with --json each job has its line there
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
    """A bar on stderr while a terminal is there to show it; lines of output go above it."""

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

            def renderables() -> Iterator[Any]:  # rich asks ten times a second; the counts are ours
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
        if self._bar is not None and file.isatty():  # the bar's own terminal: rich puts the line above the bar
            from rich.text import Text

            self._bar.console.print(Text(line), soft_wrap=True, highlight=False)
        else:
            print(line, file=file, flush=True)
