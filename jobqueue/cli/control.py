"""``jobq cancel``, ``jobq purge``, ``jobq stop``, ``jobq pause`` and ``jobq resume``: act on jobs or a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobqueue.cli import bulk
from jobqueue.cli.look import connected
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import Id, QueueName, json_option, url_option
from jobqueue.cli.render import json_line
from jobqueue.protocol import bounds
from jobqueue.words import one_line

if TYPE_CHECKING:
    from jobqueue.admin.bulk import Act


@click.command()
@click.argument("ids", type=Id(), metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All jobs that wait.")
@bulk.queue_option
@bulk.task_option
@bulk.age_options("were enqueued")
@bulk.yes_option
@json_option
@url_option
def cancel(url: str | None, **options: Any) -> None:
    """Cancel jobs that wait; a job that runs, or has ended, is an error.

    Those with these IDs, or those that the options choose: in queues, delayed, or waiting for other jobs.
    """

    def act() -> Act:
        from jobqueue.admin.bulk import cancel

        return cancel

    bulk.do(bulk.BulkWork("cancel", "canceled", "waiting", act), bulk.ChosenBy(**options), url)


@click.command()
@click.argument("queue", type=QueueName(), metavar="QUEUE")
@bulk.yes_option
@json_option
@url_option
def purge(queue: str, yes: bool, as_json: bool, url: str | None) -> None:
    """Delete the jobs that wait in QUEUE, as RQ's `rq empty`; those that run, are delayed or wait for others stay."""
    bulk.purge_queue(queue, yes, as_json, url)


@click.command()
@click.argument("job_id", type=Id(), metavar="ID")
@click.option("--timeout", type=Number(bounds.DELAY), default=20.0, show_default=True, metavar="S",
              help="Seconds to wait until it has stopped; 0 does not wait.")  # fmt: skip
@json_option
@url_option
def stop(job_id: str, timeout: float, as_json: bool, url: str | None) -> None:
    """Stop a job that runs: an exception in it, and the end of its process or thread when it does not react."""
    from jobqueue.admin import control

    with connected(url) as client:
        stopped = control.stop(client, job_id, timeout)
    if as_json:
        print(json_line({"id": job_id, "stopped": stopped}))
    else:
        print(f"{'stopped' if stopped else 'asked to stop'} {one_line(job_id)}")


@click.command()
@click.argument("queue", type=QueueName(), required=False)
@json_option
@url_option
def pause(queue: str | None, as_json: bool, url: str | None) -> None:
    """Let workers take nothing more from QUEUE, or from any queue (as `rq suspend`); running jobs go on."""
    from jobqueue.admin import control

    with connected(url) as client:
        new = control.pause(client, queue)
    _say("paused", queue, as_json, "" if new else " (was already)")


@click.command()
@click.argument("queue", type=QueueName(), required=False)
@json_option
@url_option
def resume(queue: str | None, as_json: bool, url: str | None) -> None:
    """Undo `jobq pause`: for QUEUE, or the pause of all queues (as `rq resume`)."""
    from jobqueue.admin import control

    with connected(url) as client:
        changed = control.resume(client, queue)
    _say("resumed", queue, as_json, "" if changed else " (was not paused)")


def _say(done: str, queue: str | None, as_json: bool, note: str) -> None:
    if as_json:
        print(json_line({done: queue if queue is not None else "all queues", "changed": not note}))
    else:
        print(f"{done} {one_line(queue) if queue is not None else 'all queues'}{note}")
