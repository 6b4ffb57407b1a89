"""Act on many jobs: the options that choose them, the dry run, the bar that shows how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobqueue.cli.look import connected, or_a_schedule
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import QueueName, only_one
from jobqueue.cli.render import json_line
from jobqueue.cli.tables import table
from jobqueue.errors import NoSuchJob, UsageError
from jobqueue.protocol import bounds
from jobqueue.words import count, one_line

if TYPE_CHECKING:
    from jobqueue.admin.bulk import Act, Done
    from jobqueue.admin.selection import FoundPage, Selection
    from jobqueue.store.connection import redis

F = TypeVar("F", bound=Callable[..., Any])

SAMPLE = 10  # jobs that a dry run shows
ERRORS = 10  # that are printed; the others are counted
CHOICES = ("everything", "queue", "task", "error", "older_than", "newer_than")

yes_option = click.option("--yes", is_flag=True, help="Do it. Without this, more than one job is only counted.")
queue_option = click.option("-q", "--queue", type=QueueName(), metavar="QUEUE", multiple=True, callback=only_one,
                            help="Only jobs of this queue.")  # fmt: skip
task_option = click.option("--task", metavar="TASK",
                           help="Only jobs of this function: shop.tasks.resize, or the end of that.")  # fmt: skip
error_option = click.option("--error", metavar="TEXT", help="Only jobs whose error has TEXT in it (class or text).")


def age_options(since: str) -> Callable[[F], F]:
    """Add --older-than and --newer-than; since: from which moment on the age is counted."""

    def add(command: F) -> F:
        for name, more in (("newer", "fewer"), ("older", "more")):
            text = f"Only jobs that {since} {more} than S seconds ago; 5m, 2h and 3d are possible too."
            command = click.option(f"--{name}-than", metavar="S", type=Number(bounds.DELAY), help=text)(command)
        return command

    return add


@dataclass(frozen=True)
class BulkWork:
    """What is done to the jobs, in words and in code."""

    verb: str  # "requeue"
    done: str  # "requeued"
    kind: str  # "failed" | "waiting": which jobs are looked at
    act: Callable[[], Act]


@dataclass(frozen=True)
class ChosenBy:
    """What the options of the command say."""

    ids: Sequence[str]
    yes: bool
    as_json: bool
    everything: bool
    queue: str | None = None
    task: str | None = None
    error: str | None = None
    older_than: float | None = None
    newer_than: float | None = None

    def check(self) -> None:
        """Raise UsageError if ids are given beside a choice, or neither."""
        chosen = self.everything or any(getattr(self, name) is not None for name in CHOICES[1:])
        if bool(self.ids) == chosen:
            raise UsageError("Give job ids, or say which jobs are meant: --all, --queue, --task or another option.")
        for name in ("task", "error"):
            if getattr(self, name) == "":
                raise UsageError(f"--{name} is empty.")

    def selection(self) -> Selection:
        """Return the choice as a selection of jobs."""
        from jobqueue.admin.selection import Selection

        return Selection(self.queue, self.task or "", self.error or "", self.older_than, self.newer_than)


def do(work: BulkWork, choice: ChosenBy, url: str | None) -> None:
    """Act on the jobs, or show what would be done. Print one line per job that was named, one for all that were chosen;
    errors on stderr. Exit with 1 if there was one."""
    choice.check()
    with connected(url) as client:
        if choice.ids:
            ids: Iterable[str] = dict.fromkeys(choice.ids)
            report = BulkReport(work, choice.as_json, one_by_one=client)
            _act(client, work, ids, report, 0)
            sys.exit(1 if report.errors else 0)
        selection = choice.selection()
        if not choice.yes and not _is_one(client, work, selection, choice.as_json):
            return
        report = BulkReport(work, choice.as_json)
        _act(client, work, _found(client, work, selection), report, _among(client, work, selection))
    report.end()
    sys.exit(1 if report.errors else 0)


def _found(client: redis.Redis, work: BulkWork, selection: Selection) -> Iterator[FoundPage]:
    from jobqueue.admin import selection as module

    find: Callable[[redis.Redis, Selection], Iterator[FoundPage]] = getattr(module, work.kind)
    return find(client, selection)


def _among(client: redis.Redis, work: BulkWork, selection: Selection) -> int:
    from jobqueue.admin.selection import count as count_jobs

    return count_jobs(client, selection, of_failed=work.kind == "failed")


def _act(client: redis.Redis, work: BulkWork, ids: Iterable[Any], report: BulkReport, among: int) -> None:
    from jobqueue.admin.bulk import in_batches

    with bar(among) as advance:

        def flat() -> Iterator[str]:
            for item in ids:
                if isinstance(item, str):
                    yield item
                else:
                    yield from item.ids
                    advance(item.seen)

        try:
            for done in in_batches(client, work.act(), flat()):
                report.note(done)
        except KeyboardInterrupt:
            report.end(", and was stopped: the same command goes on")
            sys.exit(130)


def _is_one(client: redis.Redis, work: BulkWork, selection: Selection, as_json: bool) -> bool:
    """Return whether the choice finds one job only; otherwise show what would be done."""
    total = 0
    first: list[str] = []
    with bar(_among(client, work, selection)) as advance:
        for found in _found(client, work, selection):
            total += len(found.ids)
            first += found.ids[: SAMPLE - len(first)]
            advance(found.seen)
            if total > 1 and not selection.reads_jobs:
                total = _among(client, work, selection)
                break
    if total == 1:
        return True
    _show(client, work.verb, work.done, total, first, as_json)
    return False


def _show(client: redis.Redis, verb: str, done: str, total: int, ids: Sequence[str], as_json: bool) -> None:
    """Show some of the jobs, and what would be done with how many."""
    from jobqueue.admin.selection import read

    sample = read(client, [("", job_id) for job_id in ids])
    if as_json:
        jobs = [{"id": job.id, "task": job.task, "error": job.error or None, "at": job.moment} for job in sample]
        print(json_line({"would": verb, "jobs": total, "sample": jobs}))
        return
    if not total:
        print(f"jobq: no job is meant: nothing to {verb}", file=sys.stderr)
        return
    rows = [[job.id, job.moment, job.description, job.error] for job in sample]
    columns = ["job", "since", "call", "error"]
    table(columns, rows, can_be_cut=["call", "error"], least_important=["since", "call"], wide=False)
    more = f"; {len(sample)} of them are shown" if total > len(sample) else ""
    print(f"jobq: {count(total, 'job')} would be {done}{more}. --yes does it", file=sys.stderr)


class BulkReport:
    """Prints what became of the jobs, and counts."""

    def __init__(self, work: BulkWork, as_json: bool, *, one_by_one: redis.Redis | None = None) -> None:
        """one_by_one: a client, if each job was named: then each has its line."""
        self._work = work
        self._as_json = as_json
        self._one_by_one = one_by_one
        self.done = 0
        self.errors = 0

    def note(self, done: Done) -> None:
        """Count one job, and print its line or its error."""
        if isinstance(done.error, NoSuchJob):
            if self._one_by_one is None:
                return  # it has expired since it was found
            done = done._replace(error=or_a_schedule(self._one_by_one, done.error))
        self.done += done.error is None
        self.errors += done.error is not None
        if done.error is not None and (self._one_by_one or self.errors <= ERRORS):
            click.echo(f"jobq: {one_line(str(done.error))}", err=True)
        if self._as_json:
            error = {"error": str(done.error)} if done.error else {}
            print(json_line({"id": done.id, self._work.done: done.error is None} | error))
        elif self._one_by_one and done.error is None:
            print(f"{self._work.done} {one_line(done.id)}")

    def end(self, more: str = "") -> None:
        """Print how many jobs were changed, unless each has its line."""
        if self.errors > ERRORS and not self._one_by_one:
            click.echo(f"jobq: {self.errors - ERRORS:,} more errors like these", err=True)
        if not self._as_json and not self._one_by_one:
            print(f"{self._work.done} {count(self.done, 'job')}{more}")


@contextmanager
def bar(total: int) -> Iterator[Callable[[int], object]]:
    """Show a bar on stderr, if that is a terminal and there is much to do; yield what moves it forward."""
    if total < 1000 or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda number: shown.advance(task, number)


def purge_queue(queue: str, yes: bool, as_json: bool, url: str | None) -> None:
    """Delete the jobs that wait in a queue, or show what would be deleted."""
    from jobqueue.admin import bulk
    from jobqueue.admin.inspector import Inspector

    with connected(url) as client:
        first, total = Inspector(client).waiting(queue, SAMPLE)
        if total != 1 and not yes:
            _show(client, "delete", "deleted", total, [job.id for job in first], as_json)
            return
        deleted = 0
        with bar(total) as advance:
            try:
                for number in bulk.purge(client, queue, total):
                    deleted += number
                    advance(number)
            except KeyboardInterrupt:
                print(f"deleted {count(deleted, 'job')}, and was stopped: the same command goes on")
                sys.exit(130)
    print(json_line({"queue": queue, "deleted": deleted}) if as_json else f"deleted {count(deleted, 'job')}")
