"""Call the plugins' ``worker_start`` and ``worker_stop``, in a thread of the supervisor that nothing waits for."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from functools import partial

from jobqueue.plugins.calls import Plugins, described
from jobqueue.plugins.finding import active, find_plugins
from jobqueue.workers.shared.copies import end_copy_of
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

STOP_LIMIT = 5.0  # seconds


class PluginThread:
    """Owned by the main loop. The fork server says which plugins want to be called here; only their modules are
    imported."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, targets: Sequence[str]) -> None:
        """Import these plugins and call them. The second call, after another fork server, does nothing."""
        if targets and self._thread is None:
            self._thread = threading.Thread(target=self._run, args=[targets], name="jobq-plugins", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Have worker_stop called, and wait for it for STOP_LIMIT seconds. Twice is harmless."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(STOP_LIMIT)
            if self._thread.is_alive():
                log.error("a plugin's worker_start or worker_stop has not ended after %g s", STOP_LIMIT)

    def _run(self, targets: Sequence[str]) -> None:
        plugins = self._load(targets)
        plugins.call("worker_start")
        self._over.wait()
        plugins.call("worker_stop")

    def _load(self, targets: Sequence[str]) -> Plugins:
        settings = self._settings
        try:
            found = find_plugins(settings.wanted_plugins, settings.worker_info)
        except Exception as e:
            log.error("plugins cannot be loaded in the supervisor: %s", described(e))
            return Plugins()
        plugins = Plugins(active(it for it in found if it.target in targets))
        plugins.passing = ()  # Ctrl-C comes to the main thread, which has a handler for it
        plugins.end_copy = partial(end_copy_of, os.getpid())
        return plugins
