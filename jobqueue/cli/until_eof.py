"""``jobq worker --until-eof``: stop the worker when the program that started it is gone.

That program holds the other end of the worker's stdin. However it ends, also by SIGKILL, the pipe ends with it. The
fork server and the children have a stdin of their own, so only the supervisor reads here.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STARTING = 60.0  # seconds that a worker may take until it handles signals, --store-wait included
POLL = 0.02


@contextmanager
def stop_at_eof(is_on: bool, directory: str) -> Iterator[threading.Event]:
    """While active, ask this process to stop, as SIGTERM does, when its stdin ends; yield the event that is set then.

    directory: a directory of the other program, "" for none. It is removed when stdin ends, because that program cannot
    remove it any more.
    """
    gone = threading.Event()

    def wait() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:  # closed: no process has the other end open
            pass
        gone.set()
        remove()
        until = time.monotonic() + STARTING
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and time.monotonic() < until:
            time.sleep(POLL)  # this worker is still starting, and SIGTERM would end it as if it had been killed
        os.kill(os.getpid(), signal.SIGTERM)

    def remove() -> None:
        if directory:
            shutil.rmtree(directory, ignore_errors=True)

    if is_on:
        threading.Thread(target=wait, name="jobq-until-eof", daemon=True).start()
    try:
        yield gone
    finally:
        if gone.is_set():
            remove()  # again: this worker may have written there since
