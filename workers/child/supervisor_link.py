"""Hold a child's end of the socket to its supervisor. Where a process has no supervisor (RQ's worker classes), the
other end is in the same process, and nothing is received."""

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
    """Sends and receives messages. Any thread may call ``tell``; only the child watchdog receives."""

    def __init__(self, control: socket.socket, *, listens: bool = True) -> None:
        """listens: the other end is read; otherwise nothing is sent, as the socket would fill up."""
        self._control = control
        self._listens = listens
        self._reader: MessageReader[ToChild] = MessageReader(ToChild, skips_others=True)

    def fileno(self) -> int:
        return self._control.fileno()

    def tell(self, message: FromChild) -> None:
        if self._listens:
            with contextlib.suppress(OSError):  # the supervisor is gone: the end of its socket will show that
                self._control.sendall(encode(message))

    def out_of_work(self) -> None:
        self.tell(OutOfWork())

    def ask_to_retire(self) -> None:
        """Tell the supervisor that this process has reached --max-jobs, or has lost a thread: a successor should
        start."""
        self.tell(Retire())

    def hear(self) -> list[ToChild] | None:
        """Read the messages that have arrived; return None if the other end is closed."""
        try:
            heard = self._control.recv(4096)
        except OSError:
            heard = b""
        return self._reader.read(heard) if heard else None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._control.close()

    def forget(self) -> None:
        """Give up the socket without closing it, where a job may have closed the descriptor and opened another of the
        same number."""
        self._control.detach()
