"""``jobq failed list|show|requeue|delete``: look at failed jobs, requeue or delete them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from jobqueue.cli.look import connected, status
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import Id, QueueName, WholeHelp, json_option, only_one, url_option
from jobqueue.cli.render import json_line, tell_who_waited
from jobqueue.cli.tables import table, wide_option
from jobqueue.errors import UsageError
from jobqueue.protocol import bounds
from jobqueue.words import one_line

if TYPE_CHECKING:
    from jobqueue.store.connection import redis

queue_option = click.option("-q", "--queue", type=QueueName(), metavar="QUEUE", multiple=True, callback=only_one,
                            help="Only jobs of this queue.")  # fmt: skip
all_option = click.option("--all", "everything", is_flag=True, help="All failed jobs (of the --queue).")


@click.group(cls=WholeHelp)
def failed() -> None:
    """Look at failed jobs, run them again, or delete them."""


@failed.command("list")
@queue_option
@click.option("-n", "--most", type=Number(bounds.COUNT), default=100, show_default=True, help="Show the latest N.")
@wide_option
@json_option
@url_option
def list_(queue: str | None, most: int, wide: bool, as_json: bool, url: str | None) -> None:
    """List failed jobs, the latest first."""
    from jobqueue.admin.inspector import Inspector

    with connected(url) as client:
        jobs = Inspector(client).failed(queue, most)
    if as_json:
        for job in jobs:
            print(json_line(dataclasses.asdict(job)))
        return
    rows = [[job.id, job.queue, job.ended_at, job.description, job.error] for job in jobs]
    columns = ["job", "queue", "ended", "call", "error"]
    table(columns, rows, can_be_cut=["call", "error"], least_important=["queue", "ended", "call"], wide=wide)


show = click.Command(
    "show", params=status.params, callback=status.callback, help="Show a failed job; the same as `jobq status ID`."
)
failed.add_command(show)


@failed.command()
@click.argument("ids", type=Id(), metavar="[ID]...", nargs=-1)
@all_option
@queue_option
@json_option
@url_option
def requeue(ids: tuple[str, ...], everything: bool, queue: str | None, as_json: bool, url: str | None) -> None:
    """Put failed jobs back into their queues."""
    from jobqueue.admin import control

    _do("requeued", control.requeue, ids, everything, queue, as_json, url)


@failed.command()
@click.argument("ids", type=Id(), metavar="[ID]...", nargs=-1)
@all_option
@queue_option
@json_option
@url_option
def delete(ids: tuple[str, ...], everything: bool, queue: str | None, as_json: bool, url: str | None) -> None:
    """Delete failed jobs and their tracebacks."""
    from jobqueue.admin import control

    def delete_one(client: redis.Redis, job_id: str) -> None:
        waiting = control.waits_for(client, job_id)
        control.delete_failed(client, job_id)
        tell_who_waited(waiting, job_id)

    _do("deleted", delete_one, ids, everything, queue, as_json, url)


def _do(
    done: str,
    act: Callable[[redis.Redis, str], None],
    ids: Sequence[str],
    everything: bool,
    queue: str | None,
    as_json: bool,
    url: str | None,
) -> None:
    """Act on each job; print one line per job on stdout, one per error on stderr."""
    from jobqueue.admin.inspector import Inspector
    from jobqueue.errors import NoSuchJob

    if bool(ids) == everything or (ids and queue):
        raise UsageError("Give job ids, or --all (with --queue, if only of one queue).")
    bad = 0
    with connected(url) as client:
        chosen = list(ids) if ids else [job_id for _, job_id in Inspector(client).failed_ids(queue)]
        for job_id in dict.fromkeys(chosen):
            error = _error_of(act, client, job_id)
            if error is not None and everything and isinstance(error, NoSuchJob):
                continue  # it has expired since it was listed
            bad += error is not None
            _report(job_id, done, error, as_json)
    sys.exit(1 if bad else 0)


def _error_of(act: Callable[[redis.Redis, str], None], client: redis.Redis, job_id: str) -> Any:
    from jobqueue.errors import JobError

    try:
        act(client, job_id)
    except JobError as e:
        return e
    return None


def _report(job_id: str, done: str, error: Any, as_json: bool) -> None:
    if error is not None:
        print(f"jobq: {one_line(str(error))}", file=sys.stderr)
    if as_json:
        print(json_line({"id": job_id, done: error is None} | ({"error": str(error)} if error else {})))
    elif error is None:
        print(f"{done} {one_line(job_id)}")
