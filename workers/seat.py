"""One child's place in the tree. Its process comes and goes; each incarnation has a name of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from enum import Enum
from typing import Any

from workers.journal import DONE, Region
from workers.rescuer import Remains, cause_of_death

YOUNG = 1.0  # seconds; who dies younger and did nothing makes the next one wait
SHUTDOWN = "ShutdownInterrupt: The worker shut down while this job ran."


class Use(Enum):
    """What a seat is doing."""

    EMPTY = "empty"
    FILLING = "filling"  # its next owner's name is on the way into the store
    TAKEN = "taken"  # a process was asked for, or runs


class Seat:
    """Owned by the supervisor's main loop; ``tell`` may be called from any thread."""

    def __init__(self, number: int, region: Region) -> None:
        self.number = number
        self.region = region
        self.use = Use.EMPTY
        self.owner = ""
        self.pid = 0
        self.control: socket.socket | None = None
        self.dropped: list[Any] | None = None  # tokens that it will not run; None: it has not said yet
        self.not_before = 0.0  # monotonic seconds
        self._incarnation = 0
        self._unread = b""
        self._born = 0.0
        self._short_lives = 0

    def next_owner(self, worker: str) -> str:
        """The name of the next incarnation."""
        self.use = Use.FILLING
        self._incarnation += 1
        self.owner = f"{worker}:{self.number}.{self._incarnation}"
        return self.owner

    def seat(self, control: socket.socket) -> None:
        self.use = Use.TAKEN
        self.control = control
        self.pid = 0
        self.dropped = None
        self._unread = b""
        self._born = time.monotonic()

    def tell(self, order: bytes) -> None:
        try:
            if control := self.control:
                control.send(order)
        except OSError:  # it died; the fork server says so
            pass

    def hear(self) -> list[str | list[Any]] | None:
        """What it says when its socket is readable: "hungry", or the tokens that it dropped. None: the end."""
        assert self.control is not None
        try:
            heard = self.control.recv(65536)
        except OSError:
            heard = b""
        if not heard:
            return None
        self._unread += heard
        said: list[str | list[Any]] = []
        while self._unread:
            if self._unread.startswith(b"h"):
                self._unread = self._unread[1:]
                said.append("hungry")
                continue
            line, newline, rest = self._unread[1:].partition(b"\n")
            if not newline:
                break
            self._unread = rest
            said.append(json.loads(line))
        return said

    def remains(self, status: int | None, ours: bool) -> Remains:
        """What its process left in shared memory; ``ours``: we killed it, or told it to go."""
        cause = SHUTDOWN if ours else cause_of_death(self.pid, status)
        running = [running.claim for running in self.region.running()]
        return Remains(self.owner, running, list(self.region.journal.read()), cause, counted=not ours)

    def vacate(self) -> None:
        """Its process is gone. Three short lives in a row make the next one wait, longer each time, 5 s at most."""
        if self.control is not None:
            self.control.close()
        self.control, self.pid, self.use = None, 0, Use.EMPTY
        now = time.monotonic()
        young = now - self._born < YOUNG and self.region.get(DONE) == 0
        self._short_lives = self._short_lives + 1 if young else 0
        self.not_before = now + (min(5.0, 0.1 * 2**self._short_lives) if self._short_lives >= 3 else 0.0)

    def kill(self) -> None:
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def await_death(self, timeout: float = 5.0) -> None:
        """Nothing may be rescued from a process that still runs: its end of the socket closes when it is gone."""
        assert self.control is not None
        self.control.settimeout(timeout)
        try:
            while self.control.recv(65536):
                pass
        except OSError:
            pass
