"""``jobq cron``: serve an RQ cron file in the foreground, or check it. Its body imports ``jobqueue.workers`` too."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from jobqueue.cli.numbers import Number
from jobqueue.cli.options import a_file, json_option, opened, url_option
from jobqueue.cli.render import json_line
from jobqueue.cli.rq_flags import formats
from jobqueue.cli.tables import table
from jobqueue.cli.terminated import stops_as_asked
from jobqueue.protocol import bounds

if TYPE_CHECKING:
    from jobqueue.schedules.timetable import Schedule


@click.command()
@click.argument("file", shell_complete=a_file)
@click.option("--check", is_flag=True, help="Load the file, print its entries and when they come next, and leave.")
@click.option("--accept", default="json", show_default=True,
              help="Formats for arguments: json, or json,pickle for what JSON cannot carry.")  # fmt: skip
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--store-wait", type=Number(bounds.DELAY), default=20.0, show_default=True, metavar="S",
              help="Seconds to wait at the start for a store that does not answer.")  # fmt: skip
@json_option
@url_option
@stops_as_asked
def cron(
    file: str, check: bool, accept: str, log_format: str, store_wait: float, as_json: bool, url: str | None
) -> None:
    """Enqueue what an RQ cron FILE registers, in the place of `rq cron`; FILE is a path or a module's dotted name.

    Start it as often as you like: one leads, the others stand by. `jobq worker --cron FILE` does the same inside a
    worker.
    """
    from jobqueue.producing.cronfile import read

    entries = read(file, formats(accept))
    if check:
        _print(entries, as_json)
        return
    from jobqueue.workers.cron_process import serve
    from jobqueue.workers.shared.log_stream import never_wait_for_a_reader

    never_wait_for_a_reader()
    with opened(url, wait=store_wait) as store:
        code = serve(entries, store, log_format)
    sys.exit(code)


def _print(entries: Sequence[Schedule], as_json: bool) -> None:
    now = time.time()
    rows = []
    for entry in entries:
        first = datetime.fromtimestamp(entry.timing.first(now), UTC)
        call = entry.fields["description"].decode(errors="replace")
        rows.append([entry.name, entry.timing.describe(), entry.queue, first, call])
        if as_json:
            own = {"id": entry.id, "name": entry.name, "every": entry.timing.every or None}
            more = {"cron": entry.timing.cron or None, "queue": entry.queue, "next": first, "description": call}
            print(json_line({**own, **more}))
    if not as_json:
        columns = ["name", "when", "queue", "first", "call"]
        table(columns, rows, can_be_cut=["when", "call"], least_important=["queue", "call"])
