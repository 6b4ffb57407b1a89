"""Find out whether somebody has replaced Python's threads or sockets by greenlets (``monkey.patch_all()`` of gevent,
``monkey_patch()`` of eventlet).

A greenlet in place of a thread runs only while all others wait: neither limits nor the watchdog would work, and what
waits for a lock of another thread never wakes up. A green socket works in the thread only that has opened it.
"""

from __future__ import annotations

import _thread
import select
import socket

_START, _SOCKET = _thread.start_new_thread, socket.socket
_HAS_POLL = hasattr(select, "poll")
_GREEN = ("gevent.", "eventlet.")


def is_patched() -> bool:
    """Return whether new threads or sockets would be something else than before."""
    return _thread.start_new_thread is not _START or (
        socket.socket is not _SOCKET and getattr(socket.socket, "__module__", "").startswith(_GREEN)
    )


def why_no_worker(module: str) -> str:
    """Return why this process cannot run jobs after the import of the module, "" when it can."""
    if not is_patched() and hasattr(select, "poll") >= _HAS_POLL:
        return ""
    return (
        f"{module} replaces Python's threads or sockets (monkey.patch_all() of gevent, or monkey_patch() of eventlet), "
        "which a worker needs: use gevent without that, or run these jobs by `rq worker --worker-class "
        "jobqueue.rq.Worker`"
    )
