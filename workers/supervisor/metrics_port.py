"""Serve the worker's metrics, health and demand over HTTP, where ``--metrics-port`` asks for it.

Without the flag nothing of this is imported. The requests are answered in threads of the supervisor's process with a
client of their own, so that neither the main loop nor the roles wait for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobqueue.metrics.tree_facts import TreeFacts
from jobqueue.store.open import Store
from jobqueue.workers.shared.settings import Settings

if TYPE_CHECKING:
    from jobqueue.metrics.server import MetricsServer

log = logging.getLogger(__name__)

ANSWER = 5.0  # seconds for the store


class MetricsPort:
    """Owned by the main loop. Any thread may call ``facts``."""

    def __init__(self, settings: Settings, store: Store, facts: Callable[[], TreeFacts]) -> None:
        self._settings = settings
        self._store = store
        self._facts = facts
        self._server: MetricsServer | None = None

    def open(self) -> None:
        """Listen, if the worker was asked to. Raises UsageError where the port is taken or the library is missing."""
        if not self._settings.metrics_port:
            return
        from jobqueue.metrics.library import check_library

        check_library()
        from jobqueue.admin.demand import demands
        from jobqueue.admin.inspector import Inspector
        from jobqueue.metrics.pages import Pages
        from jobqueue.metrics.server import MetricsServer
        from jobqueue.metrics.tree_metrics import MOST_QUEUES, TreeMetrics

        client = self._store.client(socket_timeout=ANSWER, connect_timeout=ANSWER)
        inspector, name = Inspector(client), self._settings.worker
        queues = tuple(dict.fromkeys(self._settings.queues))[:MOST_QUEUES]
        collector = TreeMetrics(
            self._facts,
            lambda: inspector.worker(name),
            lambda: dict(zip(queues, demands(client, queues), strict=True)),
        )
        self._server = MetricsServer(self._settings.metrics_port)
        self._server.start(Pages(collector, client, lambda: self._facts().why_not))
        log.info("metrics: %s/metrics", self._server.url)

    def close(self) -> None:
        """Close the port. Calling this twice is harmless."""
        if self._server is not None:
            self._server.stop()
            self._server = None
