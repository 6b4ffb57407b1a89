"""Do the requests of a child to the store that may take long, in a thread: start marks, give-backs, reconciling."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from redis.exceptions import RedisError

from jobqueue.protocol.claims import StartMark, Token
from jobqueue.protocol.protocol import Protocol
from jobqueue.workers.shared.own_thread import OwnThread
from jobqueue.workers.shared.retry import CutOff, retry_request

log = logging.getLogger(__name__)


class RequestThread:
    """Does requests one after the other; the first request starts the thread. Each is repeated until it succeeds, which
    is safe as it acts under its token."""

    def __init__(self, protocol: Protocol, worker: str, on_failed: Callable[[], object]) -> None:
        """on_failed: called when a request fails by a mistake of ours."""
        self._protocol = protocol
        self._worker = worker
        self._on_failed = on_failed
        self._waiting: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = OwnThread(self._run, "jobq-requests")
        self._started = False
        self._asked = itertools.count(1)
        self._last = 0  # the requests that were asked for
        self._done = 0  # requests

    @property
    def is_busy(self) -> bool:
        """Return whether a request waits or is under way: jobs that it gives back are in no other place yet."""
        return self._done < self._last

    def do(self, request: Callable[[], object]) -> None:
        """Have the thread do this after the requests that wait. The child watchdog calls it, and the thread itself."""
        self._last = next(self._asked)
        self._waiting.put(request)
        if not self._started:
            try:
                self._thread.start()
            except RuntimeError as e:  # the system starts no thread now; the next request tries again
                log.debug("the child's requests to the store wait: %s", e)
            else:
                self._started = True

    def do_if_awake(self, request: Callable[[], object]) -> None:
        """Have the thread do this if it runs; it is not started for this."""
        if self._started:
            self._last = next(self._asked)
            self._waiting.put(request)

    def give_back(self, tokens: Sequence[Token]) -> None:
        """(in any thread that may wait) Return these jobs to the heads of their queues."""
        if tokens:
            self._protocol.give_back(self._worker, tokens)

    def start_mark(self, owner: str, marks: Sequence[StartMark]) -> None:
        """Have START MARK sent for these jobs."""
        self.do(lambda: self._protocol.start_mark(owner, self._worker, marks))

    def stop(self) -> None:
        """End the thread after the requests that wait, in a process that outlives its slots."""
        if self._started:
            self._waiting.put(None)

    def finish(self, timeout: float) -> None:
        """Do the requests that wait, as far as the store answers within ``timeout`` seconds. Called before a process
        ends."""
        self.stop()
        if self._started:
            self._thread.join(timeout)

    def _run(self) -> None:
        while (request := self._waiting.get()) is not None:
            try:
                retry_request(request, "a request to the store")
            except CutOff as e:
                log.error("this process cannot reach the store any more (%s), and another takes its place", e)
                self._on_failed()
            except (
                RedisError
            ) as e:  # a store that refuses this may accept the next; the job continues, and a rescue does the rest
                log.warning("the store refuses a request of this process: %s", e)
            except Exception:
                log.exception("a request failed: this process is replaced")
                self._on_failed()
            finally:
                self._done += 1  # by this thread only
