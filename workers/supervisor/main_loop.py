"""Wait, in the supervisor's main thread, for sockets and for events that other threads post."""

from __future__ import annotations

import os
import queue
import selectors
from collections.abc import Callable
from typing import Any

Event = Callable[[], object]


class MainLoop:
    """The main loop: calls the callbacks of readable files. Any thread may call ``post``; the rest is for the main
    thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._bell_read, self._bell_write = os.pipe()
        self._selector.register(self._bell_read, selectors.EVENT_READ, self._run_events)

    def watch(self, file: Any, on_readable: Event) -> None:
        """Call ``on_readable`` in each turn in which there is data to read."""
        self._selector.register(file, selectors.EVENT_READ, on_readable)

    def forget(self, file: Any) -> None:
        """Stop watching this file. It must still be open; a file that is not watched is ignored."""
        if file.fileno() in self._selector.get_map():
            self._selector.unregister(file)

    def wait(self, timeout: float) -> None:
        """Wait until something happens, ``timeout`` seconds at most, and call its callbacks."""
        for key, _ in self._selector.select(timeout):
            key.data()

    def post(self, event: Event) -> None:
        """Have the main loop call ``event`` in its next turn, which starts at once."""
        self._events.put(event)
        os.write(self._bell_write, b"!")

    def _run_events(self) -> None:
        os.read(self._bell_read, 4096)
        while not self._events.empty():
            self._events.get()()
