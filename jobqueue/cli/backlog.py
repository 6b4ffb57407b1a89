"""``jobq waiting``: list the jobs that wait in the queues, with their ids."""

from __future__ import annotations

import dataclasses
import sys

import click

from jobqueue.cli.look import connected
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import QueueName, json_option, url_option
from jobqueue.cli.render import json_line
from jobqueue.cli.tables import table, wide_option
from jobqueue.protocol import bounds


@click.command()
@click.argument("queue", type=QueueName(), required=False)
@click.option("-n", "--most", type=Number(bounds.COUNT), default=100, show_default=True, help="Show N jobs at most.")
@click.option("--newest", is_flag=True, help="Begin with the job that runs last, not with the next one.")
@wide_option
@json_option
@url_option
def waiting(queue: str | None, most: int, newest: bool, wide: bool, as_json: bool, url: str | None) -> None:
    """List the jobs that wait in QUEUE, or in all queues: the next to run first, queue by queue.

    Jobs that a worker has claimed, delayed jobs and dependents are not among them: jobq info counts these.
    """
    from jobqueue.admin.inspector import Inspector

    with connected(url) as client:
        jobs, in_all = Inspector(client).waiting(queue, most, newest)
    if as_json:
        for job in jobs:
            print(json_line(dataclasses.asdict(job)))
    else:
        rows = [[job.id, job.queue, job.position, job.enqueued_at, job.description] for job in jobs]
        columns, last = ["job", "queue", "before it", "enqueued", "call"], ["before it", "queue", "enqueued"]
        table(columns, rows, numbers=["before it"], can_be_cut=["call"], least_important=last, wide=wide)
    if in_all > len(jobs):
        print(f"{in_all - len(jobs):,} more jobs wait; -n shows more", file=sys.stderr)
