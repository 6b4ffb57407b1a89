"""A module of a plugin that is imported when a signal asks the worker to stop. It keeps what is raised meanwhile, as
libraries do around imports that they can do without."""

from __future__ import annotations

import os
import signal
import time

from jobqueue.plugins import Plugin

try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
except Exception:
    pass


class Stopping(Plugin):
    """Does nothing."""

    def process_start(self) -> None:
        pass
