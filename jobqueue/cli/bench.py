"""``jobq bench``: measure how fast jobq is on the user's own store, and name what limits it."""

from __future__ import annotations

import json
import sys

import click

from jobqueue.cli.compare import progress
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import json_option, url_option
from jobqueue.protocol.bounds import Bounds

WIDTH = 100
EPILOG = """
Exit codes: 0 measured; 1 it could not be measured; 2 wrong usage; 130 stopped by Ctrl-C, nothing is left.
"""


@click.command(epilog=EPILOG)
@click.option("--seconds", type=Number(Bounds(5, 3600, whole=False)), default=30.0, show_default=True, metavar="S",
              help="Time for all, about.")  # fmt: skip
@url_option
@json_option
def bench(seconds: float, url: str | None, as_json: bool) -> None:
    """Measure how fast jobq is on your store, and what limits it.

    Enqueues and runs jobs that do nothing, in processes and in threads, beside the same calls in a plain loop, and says
    whether the store, the worker, this machine or the way to the store is the limit. It uses new queues, with workers
    of its own on this machine, touches no others, and deletes them afterwards. The store has to do all this work, up to
    20,000 jobs (some 100 MB) at a time: who else uses it will notice.
    """
    from jobqueue.bench import report
    from jobqueue.bench.run import run

    try:
        with progress() as screen:
            figures = run(url, seconds, screen)
    except KeyboardInterrupt:
        click.echo("jobq: the measurement was stopped; nothing is left of it.", err=True)
        sys.exit(130)
    if as_json:
        click.echo(json.dumps(report.as_json(figures), indent=2, ensure_ascii=False))
        return
    for line in report.table(figures):
        click.echo(line)
    for sentence in filter(None, [report.uncertain(figures), *report.sentences(figures)]):
        click.echo(f"\n{click.wrap_text(sentence, WIDTH)}")
