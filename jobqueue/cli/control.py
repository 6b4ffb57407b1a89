"""``jobq cancel``, ``jobq pause`` and ``jobq resume``."""

from __future__ import annotations

import click

from jobqueue.cli.look import connected
from jobqueue.cli.options import json_option, url_option
from jobqueue.cli.render import json_line, one_line


@click.command()
@click.argument("job_id", metavar="ID")
@json_option
@url_option
def cancel(job_id: str, as_json: bool, url: str | None) -> None:
    """Cancel a job that waits; a job that runs, or has ended, is an error."""
    from jobqueue import control

    with connected(url) as client:
        control.cancel(client, job_id)
    print(json_line({"id": job_id, "canceled": True}) if as_json else f"canceled {one_line(job_id)}")


@click.command()
@click.argument("queue", required=False)
@json_option
@url_option
def pause(queue: str | None, as_json: bool, url: str | None) -> None:
    """Let workers take nothing more from QUEUE, or from any queue (as `rq suspend`); running jobs go on."""
    from jobqueue import control

    with connected(url) as client:
        new = control.pause(client, queue)
    _say("paused", queue, as_json, "" if new else " (was already)")


@click.command()
@click.argument("queue", required=False)
@json_option
@url_option
def resume(queue: str | None, as_json: bool, url: str | None) -> None:
    """Undo `jobq pause`: for QUEUE, or the pause of all queues (as `rq resume`)."""
    from jobqueue import control

    with connected(url) as client:
        changed = control.resume(client, queue)
    _say("resumed", queue, as_json, "" if changed else " (was not paused)")


def _say(done: str, queue: str | None, as_json: bool, note: str) -> None:
    if as_json:
        print(json_line({done: queue if queue is not None else "all queues", "changed": not note}))
    else:
        print(f"{done} {one_line(queue) if queue is not None else 'all queues'}{note}")
