"""A TCP proxy between a test's client or worker and its store, which plays network faults.

    with Proxy(server.socket) as proxy:            # a path, or a port on loopback
        worker = start(..., JOBQ_URL=proxy.url)
        proxy.swallow(b"BLMOVE", b":queue:b")      # the reply to a request with these words, and all that follows
        proxy.silence()                            # all connections that are open now die without a word
        proxy.cut(b"EVALSHA", nth=7)               # the connection, behind each seventh such request
        proxy.delay(0.04)                          # each reply: a store that is far away
        proxy.heal()                               # no rule any more; what is silent stays so

Nothing that is swallowed is sent later, and no end is signalled: it is what a firewall does that forgot a connection.
Rules hold for what is sent after they were made, on old and new connections. Safe to use from any thread.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

Endpoint = str | int  # the path of a unix socket, or a port on 127.0.0.1


@dataclass
class Rule:
    """What happens after requests that contain all of ``words``. hits: how often it has happened."""

    do: Callable[[Link], None]
    words: tuple[bytes, ...]
    nth: int = 1  # only each n-th of them
    most: int | None = None  # so many times
    before: bool = False  # the request itself does not arrive any more
    seen: int = 0
    hits: int = 0
    off: bool = False

    def meets(self, data: bytes) -> bool:
        if self.off or not all(word in data for word in self.words):
            return False
        self.seen += 1
        if self.seen % self.nth or (self.most is not None and self.hits >= self.most):
            return False
        self.hits += 1
        return True


@dataclass
class Link:
    """One connection through the proxy: its two sockets, and what is passed on."""

    theirs: socket.socket
    ours: socket.socket
    requests_pass: bool = True
    replies_pass: bool = True
    cut_at_reply: bool = False
    said: bytes = b""  # the beginning of what was asked over it
    threads: list[threading.Thread] = field(default_factory=list)
    directions: int = 2  # that have not ended

    def go_silent(self, requests: bool = True, replies: bool = True) -> None:
        """Pass nothing on any more."""
        self.requests_pass &= not requests
        self.replies_pass &= not replies

    def hang_up(self) -> None:
        for one in (self.theirs, self.ours):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Proxy:
    """A proxy that accepts connections on a loopback port, and connects each to ``target``."""

    def __init__(self, target: Endpoint) -> None:
        self.target = target
        self.links: list[Link] = []  # over which replies may arrive
        self._all: list[Link] = []  # also connections of which one end is closed
        self.rules: list[Rule] = []
        self._delay = 0.0
        self._lock = threading.Lock()
        self._silent_from_now = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    # -- faults --------------------------------------------------------------------------------------------------------

    def swallow(
        self, *words: bytes, most: int | None = None, requests: bool = False, after: Callable[[], object] | None = None
    ) -> Rule:
        """Make the connection of such a request silent, beginning with the reply; with ``requests`` the request is lost
        too. ``after`` is called then."""

        def do(link: Link) -> None:
            link.go_silent(requests=requests)
            if after is not None:
                after()

        return self._rule(Rule(do, words, most=most, before=requests))

    def cut(self, *words: bytes, nth: int = 1, most: int | None = None, answered: bool = True) -> Rule:
        """Close the connection at each n-th such request: after the store has answered it and before the reply is
        passed on, or, with ``answered=False``, before the store gets it."""

        def do(link: Link) -> None:
            if answered:
                link.cut_at_reply = True
            else:
                link.hang_up()

        return self._rule(Rule(do, words, nth, most, before=not answered))

    def silence(self, *words: bytes, requests: bool = True, replies: bool = True) -> int:
        """Make all connections that are open now silent, or those that have sent ``words``; new ones are not. Return
        how many."""
        with self._lock:
            links = [link for link in self.links if all(word in link.said for word in words)]
        for link in links:
            link.go_silent(requests, replies)
        return len(links)

    def black_hole(self, on: bool = True) -> None:
        """Accept connections that are made from now on, and pass nothing on."""
        self._silent_from_now = on

    def delay(self, seconds: float) -> None:
        """Delay each piece of a reply by this time."""
        self._delay = seconds

    def hang_up(self) -> int:
        """Close all connections that are open now; return how many."""
        with self._lock:
            links = list(self.links)
        for link in links:
            link.hang_up()
        return len(links)

    def heal(self) -> None:
        """Remove all rules, the delay and the black hole."""
        with self._lock:
            for rule in self.rules:
                rule.off = True
            self.rules.clear()
        self._delay, self._silent_from_now = 0.0, False

    def _rule(self, rule: Rule) -> Rule:
        with self._lock:
            self.rules.append(rule)
        return rule

    # -- life ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the proxy. May be repeated."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        with self._lock:
            links = list(self._all)
        for link in links:
            link.hang_up()
        for link in links:
            for thread in link.threads:
                thread.join(5)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                theirs, _ = self._listener.accept()
            except OSError:
                return
            try:
                ours = self._connect()
            except OSError:  # without the store there is no connection
                theirs.close()
                continue
            self._join(Link(theirs, ours, not self._silent_from_now, not self._silent_from_now))

    def _connect(self) -> socket.socket:
        if isinstance(self.target, int):
            return socket.create_connection(("127.0.0.1", self.target), timeout=None)
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(self.target)
        return ours

    def _join(self, link: Link) -> None:
        link.threads = [
            threading.Thread(target=self._requests, args=[link], daemon=True),
            threading.Thread(target=self._replies, args=[link], daemon=True),
        ]
        with self._lock:
            self.links.append(link)
            self._all.append(link)
        for thread in link.threads:
            thread.start()

    def _requests(self, link: Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.theirs.recv(1 << 16):
                if len(link.said) < 1 << 16:
                    link.said += data
                self._play(link, data)
        if link.requests_pass:  # a silent connection does not signal its end either
            link.hang_up()
        self._ended(link)

    def _play(self, link: Link, data: bytes) -> None:
        with self._lock:
            met = [rule for rule in self.rules if rule.meets(data)]
        for rule in [rule for rule in met if rule.before]:
            rule.do(link)
        for rule in [rule for rule in met if not rule.before]:  # before the store can answer
            rule.do(link)
        if link.requests_pass:
            link.ours.sendall(data)

    def _replies(self, link: Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.ours.recv(1 << 16):
                if link.cut_at_reply:
                    break
                if self._delay:
                    time.sleep(self._delay)
                if link.replies_pass:
                    link.theirs.sendall(data)
        if link.replies_pass or link.cut_at_reply:
            link.hang_up()
        with self._lock:
            self.links.remove(link)
        self._ended(link)

    def _ended(self, link: Link) -> None:
        """Note that one direction has ended; after both the sockets are closed."""
        with self._lock:
            link.directions -= 1
            if link.directions:
                return
            self._all.remove(link)
        link.theirs.close()
        link.ours.close()
