"""Jobs that look at the threads of their process, and that replace Python's threads, as gevent and eventlet do."""

from __future__ import annotations

import _thread
import socket
import threading
import time
from typing import Any


def replace_threads() -> str:
    """What starts threads in this process from now on does not come back, nor does a wait for their locks."""
    start, allocate = _thread.start_new_thread, _thread.allocate_lock

    def start_green(*args: Any) -> int:
        return start(*args)

    def no_lock() -> Any:
        raise RuntimeError("this wait would never end")

    _thread.start_new_thread = start_green
    threading._start_new_thread = start_green  # type: ignore[attr-defined]
    threading._allocate_lock = no_lock  # type: ignore[attr-defined]
    assert allocate
    return "replaced"


def replace_sockets() -> str:
    class GreenSocket(socket.socket):
        pass

    GreenSocket.__module__ = "gevent._socket3"
    socket.socket = GreenSocket  # type: ignore[misc]
    return "replaced"


def replace_and_nap(seconds: float) -> str:
    """Others run at the same time."""
    said = replace_threads()
    time.sleep(seconds)
    return said


def threads() -> tuple[list[str], int]:
    """Return the names of the threads that a job sees, and how many it is told that there are."""
    return [it.name for it in threading.enumerate()], threading.active_count()


def join_all_threads() -> int:
    """Start a thread, and wait for all that there are, as scripts do it at their end. Return how many others there
    were."""
    mine = threading.Thread(target=time.sleep, args=(0.1,))
    mine.start()
    others = [it for it in threading.enumerate() if it not in (threading.current_thread(), threading.main_thread())]
    for thread in others:
        thread.join()
    return len({*others} - {mine})
