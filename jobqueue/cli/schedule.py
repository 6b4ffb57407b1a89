"""``jobq schedule list|delete``: list or delete schedules, the entries of cron files, and delayed jobs."""

from __future__ import annotations

import dataclasses
import sys
import time

import click

from jobqueue.cli.look import connected
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import Id, QueueName, WholeHelp, json_option, only_one, url_option
from jobqueue.cli.render import json_line, tell_who_waited
from jobqueue.cli.tables import table, wide_option
from jobqueue.protocol import bounds
from jobqueue.words import one_line

NOT_SERVED = "not served: no worker runs this cron file"


@click.group(cls=WholeHelp)
def schedule() -> None:
    """Look at what is to run later or again and again, and delete it."""


@schedule.command("list")
@click.option("-q", "--queue", type=QueueName(), metavar="QUEUE", multiple=True, callback=only_one,
              help="Only what goes to this queue.")  # fmt: skip
@click.option("-n", "--most", type=Number(bounds.COUNT), default=100, show_default=True,
              help="Show N delayed jobs at most, the next first.")  # fmt: skip
@wide_option
@json_option
@url_option
def list_(queue: str | None, most: int, wide: bool, as_json: bool, url: str | None) -> None:
    """List schedules and cron entries, then delayed jobs, the next first."""
    from jobqueue.doctor.clocks import pause_of
    from jobqueue.schedules.schedules import Schedules

    with connected(url) as client:
        schedules = Schedules(client)
        delayed, in_all = schedules.delayed(most, queue)
        views = [view for view in schedules.recurring() if queue in (None, view.queue)] + delayed
    if as_json:
        for view in views:
            print(json_line(dataclasses.asdict(view)))
        return
    rows = [
        [
            view.id,
            view.when(),
            view.queue,
            f"never: {view.problem}" if view.problem else view.next or NOT_SERVED,
            view.last,
            view.runs or "-",
            view.description,
        ]
        for view in views
    ]
    columns, last = ["id", "when", "queue", "next", "last", "runs", "call"], ["runs", "last", "queue", "call", "when"]
    cut = ["when", "next", "call"]
    table(columns, rows, numbers=["runs"], can_be_cut=cut, least_important=last, wide=wide)
    for view in views:
        if text := pause_of(view, time.time()):
            print(one_line(text), file=sys.stderr)
    if in_all > len(delayed):
        print(f"{in_all - len(delayed)} more delayed jobs; -n shows more", file=sys.stderr)


@schedule.command()
@click.argument("schedule_id", type=Id(), metavar="ID")
@json_option
@url_option
def delete(schedule_id: str, as_json: bool, url: str | None) -> None:
    """Delete a schedule or a delayed job; jobs that a schedule has enqueued stay.

    An entry of a cron file goes when it is taken out of the file and the workers that serve it are restarted.
    """
    from jobqueue.admin import control
    from jobqueue.schedules.schedules import Schedules

    with connected(url) as client:
        waiting = control.waits_for(client, schedule_id)
        what = Schedules(client).delete(schedule_id)
    print(json_line({"id": schedule_id, "deleted": what}) if as_json else f"deleted {what} {one_line(schedule_id)}")
    if what == "delayed job":
        tell_who_waited(waiting, schedule_id)
