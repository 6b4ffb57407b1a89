"""A child's end of the socket to its supervisor. Where a process has no supervisor (RQ's worker classes) the other end
is in the same process: it tells, and listens to nothing."""

from __future__ import annotations

import contextlib
import socket

from jobqueue.workers.shared.messages import (
    FromChild,
    MessageReader,
    OutOfWork,
    Retire,
    ToChild,
    encode,
)


class SupervisorLink:
    """Sends and receives messages. Any thread may tell; only the child watchdog hears."""

    def __init__(self, control: socket.socket, *, listens: bool = True) -> None:
        """listens: somebody reads what is told here; else nothing is sent, or the socket would fill up."""
        self._control = control
        self._listens = listens
        self._reader: MessageReader[ToChild] = MessageReader(ToChild, skips_others=True)

    def fileno(self) -> int:
        return self._control.fileno()

    def tell(self, message: FromChild) -> None:
        if self._listens:
            with contextlib.suppress(OSError):  # the supervisor is gone: the end of its socket says so in a moment
                self._control.sendall(encode(message))

    def out_of_work(self) -> None:
        self.tell(OutOfWork())

    def ask_to_retire(self) -> None:
        """Say that this process has done its share (--max-jobs), or has lost a thread: another should take over."""
        self.tell(Retire())

    def hear(self) -> list[ToChild] | None:
        """Read what is there; return the messages, or None: the other end is closed."""
        try:
            heard = self._control.recv(4096)
        except OSError:
            heard = b""
        return self._reader.read(heard) if heard else None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._control.close()

    def forget(self) -> None:
        """Instead of ``close``, where a job may have closed the descriptor and opened another of the same number."""
        self._control.detach()
