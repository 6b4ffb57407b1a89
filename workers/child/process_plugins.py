"""Call the plugins' ``process_start`` and ``process_stop`` in a process that runs jobs."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import threading
from collections.abc import Callable

from jobqueue.plugins.calls import Plugins, name_of

log = logging.getLogger(__name__)

STOP_LIMIT = 5.0  # seconds for process_stop of all plugins together, as for exit handlers


class ProcessPlugins:
    """Used in the main thread. The supervisor watches the start: it is told which plugin is called next."""

    def __init__(self, plugins: Plugins, on_start: Callable[[str], object], give_up: Callable[[], object]) -> None:
        """on_start: called with the name of each plugin before its process_start. give_up: ends the process."""
        self._plugins = plugins
        self._on_start = on_start
        self._give_up = give_up
        self._stopping = ""

    def start(self) -> None:
        """Call process_start of each plugin."""
        for plugin in self._plugins.with_method("process_start"):
            self._on_start(name_of(plugin))
            self._plugins.call_one(plugin, "process_start")

    def stop(self) -> None:
        """Call process_stop of each plugin, the last one first. If they do not end in time, end the process: what it
        ran is settled."""
        plugins = self._plugins.with_method("process_stop")
        if not plugins:
            return
        timer = threading.Timer(STOP_LIMIT, self._late)
        timer.daemon = True
        with contextlib.suppress(Exception):  # stderr may be no file. It ends the process where C code holds the GIL
            faulthandler.dump_traceback_later(STOP_LIMIT + 1.0, exit=True)
        with contextlib.suppress(RuntimeError):  # the system starts no thread now
            timer.start()
        for plugin in reversed(plugins):
            self._stopping = name_of(plugin)
            self._plugins.call_one(plugin, "process_stop")
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()

    def _late(self) -> None:
        log.error("plugin %s: process_stop has not ended after %g s: the process leaves", self._stopping, STOP_LIMIT)
        self._give_up()
