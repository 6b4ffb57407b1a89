"""``jobq cancel``, ``jobq stop``, ``jobq pause`` and ``jobq resume``: act on a job or a queue."""

from __future__ import annotations

import click

from jobqueue.cli.look import connected
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import Id, QueueName, json_option, url_option
from jobqueue.cli.render import json_line
from jobqueue.protocol import bounds
from jobqueue.words import one_line


@click.command()
@click.argument("job_id", type=Id(), metavar="ID")
@json_option
@url_option
def cancel(job_id: str, as_json: bool, url: str | None) -> None:
    """Cancel a job that waits; a job that runs, or has ended, is an error."""
    from jobqueue.admin import control

    with connected(url) as client:
        control.cancel(client, job_id)
    print(json_line({"id": job_id, "canceled": True}) if as_json else f"canceled {one_line(job_id)}")


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
