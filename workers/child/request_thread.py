"""A child's thread for requests to the store that may take long: start marks, give-backs, reconciling."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable

from redis.exceptions import RedisError

from jobqueue.protocol.claims import Token
from jobqueue.protocol.protocol import Protocol
from jobqueue.workers.shared.retry import retry_request

log = logging.getLogger(__name__)


class RequestThread:
    """The child's thread for slow requests to Redis; it is started by the first of them. It repeats until they succeed:
    each acts under its token, so doing it twice is doing it once."""

    def __init__(self, protocol: Protocol, worker: str) -> None:
        self.protocol = protocol
        self._worker = worker
        self._waiting: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="jobq-requests", daemon=True)
        self._started = False
        self._asked = itertools.count(1)
        self._last = 0  # request that was asked for
        self._done = 0  # requests
        self.on_failed: Callable[[], object] = lambda: None

    @property
    def is_busy(self) -> bool:
        """Tell whether a request waits or is under way: what it gives back stands nowhere yet."""
        return self._done < self._last

    def do(self, request: Callable[[], object]) -> None:
        self._last = next(self._asked)
        self._waiting.put(request)
        if not self._started:
            try:
                self._thread.start()
            except RuntimeError as e:  # the system has no thread to give now; the next request asks again
                log.debug("the child's requests to the store wait: %s", e)
            else:
                self._started = True

    def do_if_awake(self, request: Callable[[], object]) -> None:
        """Only where the thread runs anyway: not worth starting it."""
        if self._started:
            self._last = next(self._asked)
            self._waiting.put(request)

    def give_back(self, tokens: list[Token]) -> None:
        if tokens:
            self.protocol.give_back(self._worker, tokens)

    def stop(self) -> None:
        """End the thread, after the requests that are there. Where a process does not end with its slots."""
        if self._started:
            self._waiting.put(None)

    def finish(self, timeout: float) -> None:
        """Do what is there, as far as the store answers within ``timeout`` seconds. Before a process ends."""
        self.stop()
        if self._started:
            self._thread.join(timeout)

    def _run(self) -> None:
        while (request := self._waiting.get()) is not None:
            try:
                retry_request(request, "a request to the store")
            except (
                RedisError
            ) as e:  # who refuses this may take the next; the job goes on, and a rescue sees to the rest
                log.warning("the store refuses a request of this process: %s", e)
            except Exception:
                log.exception("a request failed: this process is replaced")
                self.on_failed()
            finally:
                self._done += 1  # by this thread only
