"""``jobq exporter``: serve the metrics of a whole store for Prometheus, KEDA and probes."""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING

import click

from jobqueue.cli.listen import Listen
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import opened, url_option
from jobqueue.cli.terminated import stops_as_asked
from jobqueue.protocol import bounds

if TYPE_CHECKING:
    from jobqueue.store.connection import redis

PORT = "9727"


@click.command()
@click.option("--port", type=Listen(), default=PORT, show_default=True, metavar="[HOST:]PORT",
              help="Listen here; 0 takes a free port. Without a host only this machine can connect.")  # fmt: skip
@click.option("--store-wait", type=Number(bounds.DELAY), default=20.0, show_default=True, metavar="S",
              help="Seconds to wait at the start for a store that does not answer.")  # fmt: skip
@url_option
@stops_as_asked
def exporter(port: str, store_wait: float, url: str | None) -> None:
    """Serve the metrics of a store until stopped: /metrics for Prometheus, /keda for KEDA, /healthz for probes.

    The URL of /metrics is the only line on stdout.
    """
    from jobqueue.metrics.library import check_library

    check_library()
    from jobqueue.metrics.pages import Pages
    from jobqueue.metrics.server import MetricsServer
    from jobqueue.metrics.store_metrics import StoreMetrics

    logging.basicConfig(format="jobq: %(message)s", level=logging.WARNING)
    server = MetricsServer(port)
    try:
        with opened(url, wait=store_wait) as store:
            client = store.client()
            server.start(Pages(StoreMetrics(client), client, lambda: _why_not(client)))
            print(f"{server.url}/metrics", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        sys.exit(0)
    finally:
        server.stop()


def _why_not(client: redis.Redis) -> str:
    """Return why the store cannot be read; "" when it can."""
    from jobqueue.store.connection import redis

    try:
        client.ping()
    except (redis.RedisError, OSError) as e:
        return f"the store cannot be read: {e}"
    return ""
