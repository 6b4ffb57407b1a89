"""What all commands share: ``--url``, ``--json``, and opening the store with its line on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from jobqueue.connection import Store

url_option = click.option(
    "--url",
    metavar="URL",
    help="The store: redis://, rediss://, unix:// or redis+sentinel://. "
    "Else JOBQ_URL, REDIS_URL, RQ_REDIS_URL; else the local store, which starts by itself.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def opened(url: str | None, *, quiet: bool = False) -> Iterator[Store]:
    """Open the store, say on stderr which one it is, and close it at the end. Raises StoreError or UsageError."""
    from jobqueue.connection import open_store  # here: `jobq --help` needs no redis

    with open_store(url) as store:
        if not quiet:
            click.echo(store.describe(), err=True)
        yield store
