"""Fork the fork server in advance from the process that becomes the supervisor, so that both share what that process
has imported: redis-py, RQ, and modules of ours.

    jobq worker ─► command line is read, all is imported ─► fork ─► opens the store ─► supervisor
                                                             └────► fork server: waits for the settings

The fork comes before this process has opened a socket, started a thread, or made a client. The copy raises
``InTheCopy``, so that it leaves all that the command has begun; then it removes what would tell the served modules that
it was not started as a program of its own. A fork server that replaces this one is started as a program
(forkserver_client.py); so is the first, where this fork is not possible: on other systems than Linux, in a process with
threads, in a program that calls the command line.

The launching process imports this module, and nothing else of this package.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import types
from collections.abc import Iterator

from jobqueue.errors import InTheCopy
from jobqueue.protocol.lua import packed_head
from jobqueue.workers.shared import titles
from jobqueue.workers.shared.forked_process import ForkedProcess
from jobqueue.workers.shared.logs import make_loggers
from jobqueue.workers.shared.messages import FromChild, FromForkServer, ToChild, ToForkServer, know
from jobqueue.workers.shared.process_tree import TO_ALL

# those that an idle supervisor runs, and those of its children (preload.py)
SCRIPTS = ("due", "upcoming", "heartbeat", "rescue", "cycle", "start_mark", "give_back", "reconcile")
# The supervisor handles these, so that a program which it starts does not ignore them, whoever started the worker.
CAUGHT = (signal.SIGQUIT, signal.SIGTSTP, signal.SIGCHLD)
MODULE = "jobqueue.workers.forking.forkserver"


@contextlib.contextmanager
def prepared_fork_server(wanted: bool = True) -> Iterator[ForkedProcess | None]:
    """Fork a fork server; it ends with the block, if the supervisor has not ended it before. None: it is not wanted, or
    not possible. Raises InTheCopy in the copy."""
    server = _fork() if wanted and _is_possible() else None
    try:
        yield server
    finally:
        if server:
            server.end()


def _is_possible() -> bool:
    """Return whether a fork copies the whole process: it has one thread."""
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def _fork() -> ForkedProcess | None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    parent = os.getpid()
    _make_shared()
    ours, theirs = socket.socketpair()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TO_ALL)  # in the copy until it has handlers of its own
    try:
        pid = os.fork()
    except OSError:  # no memory, or too many processes: it is started as a program then, and what is wrong is logged
        pid = -1
    if pid == 0:
        ours.close()
        raise InTheCopy(lambda: _be_the_fork_server(theirs, parent))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    if pid < 0:
        ours.close()
        return None
    return ForkedProcess(pid, ours)


def _make_shared() -> None:
    """Make here what supervisor and fork server would each make for itself. It connects to nothing."""
    make_loggers()
    know(ToForkServer, FromForkServer, FromChild, ToChild)
    titles.setter()
    for script in SCRIPTS:
        packed_head(script, by_digest=True)
    gc.collect()
    gc.freeze()  # the collector would write to all that is shared


def _be_the_fork_server(control: socket.socket, parent: int) -> None:
    """Run the fork server in this copy, as if it were a program of its own."""
    _leave_the_terminal()
    _close_all_but(control.fileno())
    _forget_handlers()
    _use_plain_streams()
    from jobqueue.workers.forking import forkserver  # imported here: the launching process must not import it

    _become_main(forkserver)
    forkserver.serve(control, parent)


def _leave_the_terminal() -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _close_all_but(kept: int) -> None:
    """Close what the program that started this worker has left open, as subprocess does."""
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        if number > 2 and number != kept:
            with contextlib.suppress(OSError):  # the one of the listing itself
                os.close(number)


def _forget_handlers() -> None:
    """Let signals do what they do in a new program that the supervisor starts. Those of TO_ALL are blocked until the
    fork server handles them."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        is_ours = callable(handler) and handler is not signal.default_int_handler
        if is_ours or (handler == signal.SIG_IGN and number in CAUGHT):
            signal.signal(number, signal.SIG_DFL)
    sys.unraisablehook = sys.__unraisablehook__


def _use_plain_streams() -> None:
    """Use the standard streams as Python has made them."""
    global _replaced
    _replaced = (sys.stdin, sys.stdout, sys.stderr)
    originals = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    sys.stdin, sys.stdout, sys.stderr = (one or other for one, other in zip(originals, _replaced, strict=True))


_replaced: tuple[object, ...] = ()  # kept, as collecting them would close the originals' files


def _become_main(module: types.ModuleType) -> None:
    """Look like ``python -P -m MODULE`` to the served modules, and to the processes that multiprocessing starts."""
    before = sys.modules["__main__"]
    if not sys.flags.safe_path:
        place = os.path.dirname(os.path.realpath(before.__file__ or "")) if before.__spec__ is None else os.getcwd()
        if place in sys.path:
            sys.path.remove(place)
        _set_safe_path()
    main = types.ModuleType("__main__", module.__doc__)
    for name in ("__builtins__", "__cached__", "__file__", "__loader__", "__package__", "__spec__"):
        setattr(main, name, getattr(module, name, None))
    sys.modules["__main__"] = main
    sys.argv[:] = [str(module.__file__)]
    sys.orig_argv[:] = [sys.executable, "-P", "-m", MODULE]


def _set_safe_path() -> None:
    """Set ``sys.flags.safe_path``, which multiprocessing passes on to the programs that it starts: in a directory with
    a ``queue.py`` of the user's they would not start. CPython itself changes ``sys.flags`` in this way, in
    ``sys.set_int_max_str_digits``."""
    with contextlib.suppress(AttributeError, ValueError):
        place = type(sys.flags).__match_args__.index("safe_path")
        set_item = ctypes.pythonapi.PyStructSequence_SetItem
        set_item.argtypes, set_item.restype = [ctypes.py_object, ctypes.c_ssize_t, ctypes.c_void_p], None
        set_item(sys.flags, place, id(True))
