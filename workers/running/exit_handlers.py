"""``atexit`` in a child: what was registered there runs at its orderly end; what it inherited is its parent's to run.

As in the children of ``multiprocessing``. What a served module registers when it is imported runs once, in the process
that imported it: a temporary directory that all children share is not removed by the first that leaves.

Before the handlers, the pools of ``concurrent.futures`` end that jobs or their modules keep. Python does that where its
main thread ends, and a child leaves without it: their processes would live on, and ``multiprocessing``'s handler would
wait for them.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import sys
import threading
import weakref
from typing import Any

LIMIT = 5.0  # seconds for all of them
POOLS = 2.0  # seconds that pools have to finish what they were given, before their processes are killed


def forget_inherited() -> None:
    """Called right after a fork."""
    atexit._clear()
    finalize: Any = weakref.finalize
    for finalizer in list(finalize._registry):  # they still run when their objects go
        finalizer.atexit = False
    finalize._registered_with_atexit = False
    if util := sys.modules.get("multiprocessing.util"):  # as multiprocessing does: it ends the processes of this one
        util._finalizer_registry.clear()
        process: Any = sys.modules["multiprocessing.process"]  # util imports it
        process._children = set()  # these are our parent's, who alone can wait for them
        atexit.register(util._exit_function)
    if futures := _futures():  # nor do we wake or end its pools
        futures._threads_wakeups.clear()


def run() -> None:
    """Called once, where a child leaves by itself. A handler that does not end, ends the process (exit code 1)."""
    _end_pools()
    if not atexit._ncallbacks():
        return
    with contextlib.suppress(Exception):  # stderr is no file
        faulthandler.dump_traceback_later(LIMIT, exit=True)
    atexit._run_exitfuncs()
    faulthandler.cancel_dump_traceback_later()


def _end_pools() -> None:
    """As Python at the end of its main thread, which waits for what was submitted, however long: here not for ever."""
    managers = _pools()
    if not managers:
        return
    end: Any = _futures()._python_exit
    with contextlib.suppress(RuntimeError):  # the system starts no thread now: they are killed
        ending = threading.Thread(target=end, name="jobq-end-of-pools", daemon=True)
        ending.start()
        ending.join(POOLS)
    for manager in managers:
        for process in list(manager.processes.values()):
            with contextlib.suppress(OSError, ValueError):  # it is closed
                process.kill()


def _pools() -> list[Any]:
    """The threads that manage this process's ProcessPoolExecutors."""
    futures = _futures()
    return list(futures._threads_wakeups) if futures else []


def _futures() -> Any:
    """Python's module of process pools, if anybody has imported it."""
    return sys.modules.get("concurrent.futures.process")
