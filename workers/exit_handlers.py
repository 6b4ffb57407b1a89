"""``atexit`` in a child: what was registered there runs at its orderly end; what it inherited is its parent's to run.

As in the children of ``multiprocessing``. What a served module registers when it is imported runs once, in the process
that imported it: a temporary directory that all children share is not removed by the first that leaves.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import sys
import weakref
from typing import Any

LIMIT = 5.0  # seconds for all of them


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


def run() -> None:
    """Called once, where a child leaves by itself. A handler that does not end, ends the process (exit code 1)."""
    if not atexit._ncallbacks():
        return
    with contextlib.suppress(Exception):  # stderr is no file
        faulthandler.dump_traceback_later(LIMIT, exit=True)
    atexit._run_exitfuncs()
    faulthandler.cancel_dump_traceback_later()
