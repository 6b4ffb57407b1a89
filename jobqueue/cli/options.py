"""What all commands share: ``--url``, ``--json``, and opening the store with its line on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from jobqueue.backoff import Backoff

if TYPE_CHECKING:
    from jobqueue.connection import Store

url_option = click.option(
    "--url",
    "-u",
    metavar="URL",
    help="The store: redis://, rediss://, unix:// or redis+sentinel://. "
    "Else JOBQ_URL, REDIS_URL, RQ_REDIS_URL; else the local store, which starts by itself.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def opened(url: str | None, *, quiet: bool = False, wait: float = 0.0) -> Iterator[Store]:
    """Open the store, say on stderr which one it is, and close it at the end.

    wait: seconds to wait for one that does not answer yet. Raises StoreError or UsageError.
    """
    with _open(url, wait) as store:
        if not quiet:
            click.echo(store.describe(), err=True)
        yield store


def _open(url: str | None, wait: float) -> Store:
    from jobqueue.connection import open_store  # here: `jobq --help` needs no redis
    from jobqueue.errors import StoreLoading, StoreUnreachable

    deadline, backoff = time.monotonic() + wait, Backoff(first=0.1)
    while True:
        try:
            return open_store(url)
        except (StoreUnreachable, StoreLoading) as e:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            if not backoff.failures:
                click.echo(f"{e}; waiting for it, {wait:g} s at most", err=True)
            time.sleep(min(backoff.failed(), left))
