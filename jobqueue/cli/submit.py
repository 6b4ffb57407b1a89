"""``jobq submit``: enqueue one job per value. Everything is checked before anything of it is sent.

values, --args, lines ──► checked calls, in chunks ──► Queue ──► ids on stdout, or with --wait results in order
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from jobqueue.cli.numbers import Number
from jobqueue.cli.options import Id, QueueName, a_file, json_option, opened, url_option
from jobqueue.cli.recurring import Recurring, again
from jobqueue.cli.recurring import check as check_recurring
from jobqueue.cli.render import enqueued, json_line
from jobqueue.cli.streams import output_failed
from jobqueue.cli.values import (
    CHUNK,
    CallArguments,
    Moment,
    NegativeNumbersAreValues,
    calls_of_lines,
    check_call,
    parse_json,
    parse_value,
)
from jobqueue.cli.waiting import Sends, print_results
from jobqueue.errors import NoSuchJob, StoreUnreachable, UsageError
from jobqueue.pages import pages
from jobqueue.protocol import bounds, names
from jobqueue.words import escaped

if TYPE_CHECKING:
    from jobqueue.producing.queue import Queue


@click.command(cls=NegativeNumbersAreValues)
@click.argument("task")
@click.argument("values", metavar="[VALUE]...", nargs=-1)
@click.option("--args", "arg_lists", metavar="JSON", multiple=True, help="All positional arguments of one job; repeat.")
@click.option("--kwargs", "kwargs_text", metavar="JSON", help="Keyword arguments of every job.")
@click.option("-f", "--file", metavar="FILE", shell_complete=a_file,
              help="One VALUE per line; - is stdin. Blank lines are skipped.")  # fmt: skip
@click.option(
    "-q",
    "--queue",
    "queue_name",
    type=QueueName(),
    metavar="QUEUE",
    default="default",
    show_default=True,
    help="The queue to put them into.",
)
@click.option("--wait", is_flag=True, help="Print the results as JSON, one per line, in the order submitted.")
@click.option("--timeout", "job_timeout", type=Number(bounds.TIMEOUT), help="Time limit of a run; -1 for none.")
@click.option("--retry", type=Number(bounds.COUNT_OR_NONE), help="How often a job that failed is run again.")
@click.option("--in", "delay", metavar="S", type=Number(bounds.DELAY), help="Run them in S seconds.")
@click.option("--at", "moment", type=Moment(), help="Run them at this time.")
@click.option(
    "--every",
    metavar="S",
    type=Number(bounds.EVERY),
    help="Run them every S seconds, at once or --in/--at the first time.",
)
@click.option("--cron", metavar="EXPR", help="Run them whenever this cron expression says so, as '*/5 * * * *'.")
@click.option("--tz", metavar="ZONE", help="The expression's time zone, as Europe/Berlin; this machine's unless told.")
@click.option("--overlap/--no-overlap", default=True, help="Enqueue the next also if the last has not ended (default).")
@click.option(
    "--depends-on", type=Id(), metavar="ID", multiple=True, help="Run them when this job has finished; repeat."
)
@click.option("--id", "job_id", metavar="ID", help="The job's id; a job that has it makes way, unless it runs.")
@click.option("--unique", is_flag=True, help="Refuse if there is a job with this --id.")
@click.option("--on-crash", type=click.Choice(["retry", "fail"]), help="What becomes of a job whose process dies.")
@click.option(
    "--result-ttl", type=Number(bounds.RESULT_TTL), help="How long to keep the result; with --wait one day unless told."
)
@click.option("--ttl", type=Number(bounds.TTL), help="How long the job may wait in the queue.")
@click.option("--failure-ttl", type=Number(bounds.FAILURE_TTL), help="How long to keep a failed job.")
@click.option("--check/--no-check", default=True, help="Import module:function and check name and arguments (default).")
@json_option
@url_option
def submit(
    task: str,
    values: tuple[str, ...],
    arg_lists: tuple[str, ...],
    kwargs_text: str | None,
    file: str | None,
    queue_name: str,
    wait: bool,
    delay: float | None,
    moment: datetime | None,
    every: float | None,
    cron: str | None,
    tz: str | None,
    overlap: bool,
    check: bool,
    as_json: bool,
    url: str | None,
    **options: Any,
) -> None:
    """Submit one job per VALUE: JSON if it parses as JSON, else text.

    TASK is a built-in task (square, heavy, sleep; download and scrape, which need the extra web-tasks) or
    module:function, which is imported from the current directory to check its name and arguments. Without any VALUE,
    one job without positional arguments.

    Prints one job id per line, in order; with --every or --cron the id of a schedule (--id: one that has it is
    replaced), which jobq schedule lists and deletes.
    """
    from jobqueue.producing.queue import A_DAY, Queue

    options = {
        name: value for name, value in options.items() if value is not None and value is not False and value != ()
    }
    if wait:
        options.setdefault("result_ttl", A_DAY)
    when, repeat = _when(delay, moment), again(every, cron, tz, overlap)
    name, checker = _checked_task(task, check)
    kwargs = {} if kwargs_text is None else parse_json("--kwargs", kwargs_text, dict)
    given = _given(values, arg_lists, kwargs, checker, alone=file is None)
    _check_options(options, when, len(given) if file is None else None)
    if repeat:
        check_recurring(options, when, repeat, wait)
    with _opened_file(file) as fd, opened(url) as store, Queue(queue_name, store=store) as queue:
        send = Recurring(queue, name, options, when, repeat) if repeat else Sending(queue, name, options, when)
        lines = calls_of_lines(fd, kwargs, checker, lambda: send.sent) if fd is not None else iter(())
        chunks = (chunk for source in (pages(given, CHUNK), lines) for chunk in source)
        with _says_what_was_sent(send):
            failed = print_results(queue, send, chunks, as_json) if wait else _print_ids(send, chunks, as_json)
    sys.exit(1 if failed else 0)


# -- what to submit ------------------------------------------------------------------------------------------------


def _checked_task(task: str, check: bool) -> tuple[str, Any]:
    from jobqueue.producing import catalog
    from jobqueue.tasks import extra

    name = catalog.dotted_name(task)
    if lacks := extra.missing([name]):  # the worker's Python may have them
        click.echo(f"jobq: {lacks}, for a worker that is to run it.", err=True)
    return name, catalog.ArgumentCheck(task, catalog.resolve(name)) if check else None


def _given(
    values: Sequence[str], arg_lists: Sequence[str], kwargs: Mapping[str, Any], checker: Any, *, alone: bool
) -> list[CallArguments]:
    calls: list[CallArguments] = [((parse_value(text),), kwargs) for text in values]
    calls += [(parse_json("--args", text, list), kwargs) for text in arg_lists]
    if not calls and alone:
        calls = [((), kwargs)]
    for call in calls:
        check_call(call, checker)
    return calls


def _when(delay: float | None, moment: datetime | None) -> datetime | None:
    if delay is not None and moment is not None:
        raise UsageError("--in and --at exclude each other.")
    try:
        return moment if delay is None else datetime.now(UTC) + timedelta(seconds=delay)
    except OverflowError:
        raise UsageError(f"--in {delay:g} is too far away.") from None


def _check_options(options: dict[str, Any], when: datetime | None, jobs: int | None) -> None:
    """Raise UsageError for options that exclude each other. jobs: how many, None when they come from a file."""
    if options.get("unique") and "job_id" not in options:
        raise UsageError("--unique needs --id.")
    if options.get("unique") and "depends_on" in options:
        raise UsageError("--unique and --depends-on exclude each other.")
    if "job_id" in options and jobs != 1:
        raise UsageError("--id is for one job: give one VALUE or one --args.")
    if "depends_on" in options and when is not None:
        raise UsageError("--depends-on excludes --in and --at.")
    if "job_id" in options:
        names.job_id(options["job_id"])


@contextlib.contextmanager
def _opened_file(path: str | None) -> Iterator[int | None]:
    """Yield the file's descriptor, None without a file. It is not a Python file, so that lines of stdin are read as
    they come."""
    if path is None or path == "-":
        yield None if path is None else 0
        return
    try:
        fd = os.open(path, os.O_RDONLY)
        os.read(fd, 0)  # fails for a directory, which can be opened
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}.") from None
    try:
        yield fd
    finally:
        os.close(fd)


# -- sending -------------------------------------------------------------------------------------------------------


class Sending:
    """Sends calls and counts them: in bulk, or one by one where an option requires it."""

    def __init__(self, queue: Queue, name: str, options: dict[str, Any], when: datetime | None) -> None:
        self.sent = 0
        self.open_ids: tuple[str, str] = ("", "")  # the first and the last id that were sent, for a message
        self._queue, self._name, self._options, self._when = queue, name, options, when
        alone = when is not None or {"job_id", "unique", "depends_on"} & options.keys()
        self._sender = None if alone else queue.sender(name, **options)
        for dependency in options.get("depends_on", ()):
            if not queue.connection.exists(queue.job_class.key_for(dependency)):
                raise NoSuchJob(f"There is no job {escaped(dependency)} to depend on.", dependency)

    def __call__(self, calls: Sequence[CallArguments]) -> Iterable[str]:
        """Send a chunk and return its ids."""
        if self._sender is not None:
            batch = self._sender.send(calls)
            self._count(len(batch), batch[0].id, batch[-1].id)
            return batch.ids
        ids = []
        for args, kwargs in calls:
            ids.append(self._send_one(args, kwargs))
            self._count(1, ids[-1], ids[-1])
        return ids

    def _count(self, n: int, first: str, last: str) -> None:
        self.open_ids = (self.open_ids[0] if self.sent else first, last)
        self.sent += n

    def _send_one(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        options = {**self._options, "args": tuple(args), "kwargs": dict(kwargs)}
        if "depends_on" in options:
            options["depends_on"] = list(options["depends_on"])
        if self._when is not None:
            return self._queue.enqueue_at(self._when, self._name, **options).id
        return self._queue.enqueue(self._name, **options).id


@contextlib.contextmanager
def _says_what_was_sent(send: Sending | Recurring) -> Iterator[None]:
    """Add to an error that interrupts a submit how many jobs it had enqueued by then."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(_interrupted(send))
    except BaseException as e:
        if send.sent and not isinstance(e, UsageError):  # the error of a bad line has its own count
            e.add_note(_so_far(send, e))
            if isinstance(e, BrokenPipeError):  # click would end the command at once without a message
                sys.exit(output_failed(e))
        raise


def _print_ids(send: Sends, chunks: Iterable[Sequence[CallArguments]], as_json: bool) -> int:
    for chunk in chunks:
        for job_id in send(chunk):
            print(json_line({"id": job_id}) if as_json else job_id)
        sys.stdout.flush()
    return 0


def _interrupted(send: Sending | Recurring) -> int:
    what = f"{enqueued(send.sent)} ({_which(send)}) and go on" if send.sent else "Nothing was enqueued"
    what = what.replace(" go on", " goes on") if send.sent == 1 else what
    hint = "; a result can be read with: jobq result ID --wait" if send.sent else ""
    print(f"\njobq: interrupted. {what}{hint}.", file=sys.stderr)
    return 130


def _so_far(send: Sending | Recurring, error: BaseException) -> str:
    """Return what became of the jobs of a submit that fails half-way."""
    stored = enqueued(send.sent)
    if isinstance(send, Recurring):
        stored = stored.replace("job", "schedule", 1).replace("enqueued", "stored")
    unknown = isinstance(error, StoreUnreachable)
    return f"{stored} ({_which(send)}), {'of what follows it is not known' if unknown else 'and no more'}"


def _which(send: Sending | Recurring) -> str:
    first, last = send.open_ids
    return first if first == last else f"{first} to {last}"
