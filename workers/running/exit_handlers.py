"""Run the ``atexit`` handlers that a child registered when it leaves; forget those that it inherited.

This is what the children of ``multiprocessing`` do. A handler that a served module registers at its import runs once,
in the process that imported it: else the first child to leave would remove, say, a temporary directory that all share.

The process pools of ``concurrent.futures`` that jobs or their modules keep are ended before the handlers run. Python
ends them when its main thread ends, but a child leaves by ``os._exit``: the pools' processes would live on, and
``multiprocessing``'s handler would wait for them.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import sys
import threading
import weakref
from typing import Any

LIMIT = 5.0  # seconds for all handlers together
POOLS = 2.0  # seconds that the pools have to finish their work before their processes are killed


def forget_inherited() -> None:
    """Remove the inherited handlers. Call it right after a fork."""
    atexit._clear()
    finalize: Any = weakref.finalize
    for finalizer in list(finalize._registry):  # they still run when their objects are collected
        finalizer.atexit = False
    finalize._registered_with_atexit = False
    if util := sys.modules.get("multiprocessing.util"):  # what multiprocessing does in its own children
        util._finalizer_registry.clear()
        process: Any = sys.modules["multiprocessing.process"]  # util imports it
        process._children = set()  # these are our parent's children: this process cannot wait for them
        atexit.register(util._exit_function)
    if futures := _futures():  # the parent's pools are not ended here either
        futures._threads_wakeups.clear()


def run() -> None:
    """End the pools and run the handlers. Call it once, where a child leaves by itself. If they take longer than LIMIT,
    the process exits with code 1."""
    _end_pools()
    if not atexit._ncallbacks():
        return
    with contextlib.suppress(Exception):  # stderr may be no file
        faulthandler.dump_traceback_later(LIMIT, exit=True)
    atexit._run_exitfuncs()
    faulthandler.cancel_dump_traceback_later()


def _end_pools() -> None:
    """Do what Python does at the end of its main thread, but wait at most POOLS seconds for submitted work."""
    managers = _pools()
    if not managers:
        return
    end: Any = _futures()._python_exit
    with contextlib.suppress(RuntimeError):  # no thread could be started: kill the processes at once
        ending = threading.Thread(target=end, name="jobq-end-of-pools", daemon=True)
        ending.start()
        ending.join(POOLS)
    for manager in managers:
        for process in list(manager.processes.values()):
            with contextlib.suppress(OSError, ValueError):  # it has been closed
                process.kill()


def _pools() -> list[Any]:
    """Return the threads that manage this process's ProcessPoolExecutors."""
    futures = _futures()
    return list(futures._threads_wakeups) if futures else []


def _futures() -> Any:
    """Return Python's module of process pools, if it is imported."""
    return sys.modules.get("concurrent.futures.process")
