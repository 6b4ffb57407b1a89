"""``jobq failed list|show|requeue|delete``: look at failed jobs, requeue or delete them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from jobqueue.cli import bulk
from jobqueue.cli.look import connected, status
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import Id, WholeHelp, json_option, url_option
from jobqueue.cli.render import json_line, tell_who_waited
from jobqueue.cli.tables import table, wide_option
from jobqueue.protocol import bounds

if TYPE_CHECKING:
    from jobqueue.admin.bulk import Act, Done
    from jobqueue.store.connection import redis

all_option = click.option("--all", "everything", is_flag=True, help="All failed jobs.")


@click.group(cls=WholeHelp)
def failed() -> None:
    """Look at failed jobs, run them again, or delete them."""


@failed.command("list")
@bulk.queue_option
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
@bulk.queue_option
@bulk.task_option
@bulk.error_option
@bulk.age_options("have failed")
@bulk.yes_option
@json_option
@url_option
def requeue(url: str | None, **options: Any) -> None:
    """Put failed jobs back into their queues: those with these IDs, or those that the options choose."""

    def act() -> Act:
        from jobqueue.admin.bulk import requeue

        return requeue

    bulk.do(bulk.BulkWork("requeue", "requeued", "failed", act), bulk.ChosenBy(**options), url)


@failed.command()
@click.argument("ids", type=Id(), metavar="[ID]...", nargs=-1)
@all_option
@bulk.queue_option
@bulk.task_option
@bulk.error_option
@bulk.age_options("have failed")
@bulk.yes_option
@json_option
@url_option
def delete(url: str | None, **options: Any) -> None:
    """Delete failed jobs and their tracebacks: those with these IDs, or those that the options choose."""

    def act() -> Act:
        from jobqueue.admin.bulk import delete

        return _telling(delete) if options["ids"] else delete

    bulk.do(bulk.BulkWork("delete", "deleted", "failed", act), bulk.ChosenBy(**options), url)


def _telling(delete: Act) -> Act:
    """Say for each job that was deleted which others depended on it."""

    def delete_and_tell(client: redis.Redis, ids: Sequence[str]) -> list[Done]:
        from jobqueue.admin.control import waits_for

        waiting = {job_id: waits_for(client, job_id) for job_id in ids}
        done = delete(client, ids)
        for job in done:
            if job.error is None:
                tell_who_waited(waiting[job.id], job.id)
        return done

    return delete_and_tell
