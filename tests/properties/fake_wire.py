"""A fake store with one queue, in plain Python, and the wire to it: each step ends as the test says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import redis
from turns import Turns

from jobqueue.protocol.claims import Claimed, Features
from jobqueue.protocol.cycle import Cycle, CycleRequest, CycleState
from jobqueue.protocol.outcomes import Ack, JobOutcome

OWNER = "w:0.1"


class Request(NamedTuple):
    """A CYCLE as it was sent."""

    want: int
    outcomes: list[JobOutcome]


class FakeStore:
    """The store of one child. A job is in the queue, held under a claim, or ended."""

    def __init__(self) -> None:
        self.queue: deque[str] = deque()
        self.held: dict[int, str] = {}  # by claim
        self.started: set[int] = set()  # claims with a start mark
        self.ended: list[str] = []
        self.kinds: dict[str, str] = {}  # by id: plain | dependents | alone | refused
        self.newest = 0  # claim

    def put(self, kind: str) -> None:
        job_id = f"j{len(self.kinds)}"
        self.kinds[job_id] = kind
        self.queue.append(job_id)

    def cycle(self, request: Request) -> Cycle:
        """Execute CYCLE. Raises the error that the server answers."""
        if any(self.kinds[outcome.id] == "refused" for outcome in request.outcomes):
            raise redis.ResponseError("ERR no such luck")
        acks = [self._settle(outcome) for outcome in request.outcomes]
        jobs = [self._claim() for _ in range(min(request.want, len(self.queue)))]
        return Cycle(CycleState.CLAIMED if jobs else CycleState.EMPTY, acks, jobs)

    def _settle(self, outcome: JobOutcome) -> Ack:
        if outcome.claim not in self.held:
            return Ack.LOST
        if self.kinds[outcome.id] == "dependents":
            return Ack.HAS_DEPENDENTS
        self.end(outcome.claim)
        return Ack.RECORDED

    def _claim(self) -> Claimed:
        self.newest += 1
        job_id = self.queue.popleft()
        self.held[self.newest] = job_id
        features = Features(alone=self.kinds[job_id] == "alone")
        return Claimed(job_id, self.newest, "default", b"", None, None, None, 0, features)

    def end(self, claim: int) -> None:
        """Record the end of a job; a second record is a mistake of the test or of the child."""
        job_id = self.held.pop(claim)
        assert job_id not in self.ended, f"{job_id} has ended twice"
        self.ended.append(job_id)

    def give_back(self, claims: Iterable[int]) -> None:
        for claim in sorted(claims, reverse=True):
            if claim in self.held:
                self.started.discard(claim)
                self.queue.appendleft(self.held.pop(claim))

    def start_mark(self, claim: int) -> bool:
        if claim in self.held:
            self.started.add(claim)
        return claim in self.held

    def stand_in(self, newest: int, running: Iterable[int], finished: Iterable[int]) -> None:
        """Do what stand_in.lua does."""
        running, finished = set(running), set(finished)
        self.started |= running & self.held.keys()
        self.give_back(claim for claim in self.held if claim <= newest and claim not in finished | self.started)


class FakeWire:
    """The child's only connection. ``before_*`` are called with each request before anything else happens, ``arrived``
    with each reply when it is read."""

    def __init__(self, turns: Turns, store: FakeStore) -> None:
        self._turns = turns
        self._store = store
        self._request: Request | None = None  # sent, and not executed
        self._reply: Cycle | Exception | None = None  # executed, and not read
        self.troubles: list[
            tuple[str, str]
        ] = []  # each a step and how it fails: the request is lost on its way, or (late) its reply
        self.late: list[Request] = []  # given up by the child, and still somewhere in the network
        self.before_send: Callable[[Request], None] = lambda _: None
        self.before_reconnect: Callable[[], None] = lambda: None
        self.before_reconcile: Callable[[list[int]], None] = lambda _: None
        self.arrived: Callable[[Cycle], None] = lambda _: None
        self.lost: Callable[[], None] = lambda: None  # the pending request will not be answered

    def _step(self, name: str) -> str:
        actor = self._turns.current
        assert actor is not None
        actor.park(name)
        for trouble in self.troubles:
            if trouble[0] == name:
                self.troubles.remove(trouble)
                return trouble[1]
        return "well"

    # -- what the child calls --

    def send(self, asked: CycleRequest) -> None:
        request = Request(asked.want, list(asked.outcomes))
        assert self._request is self._reply is None, "a request before the reply to the last one was read"
        self.before_send(request)
        how = self._step("send")
        if how != "well":
            if how == "late":
                self.late.append(request)
            self.lost()
            raise redis.ConnectionError("cut as it was sent")
        self._request = request

    def receive(self) -> Cycle:
        how = self._step("receive")
        if how == "full" and self._request:
            self._request = None
            self.lost()
            raise redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'")
        if how == "lost":
            self._cut()
            raise redis.ConnectionError("cut as the reply was read")
        self.answer()
        reply = self._reply
        if how == "late":
            self._cut()
            raise redis.ConnectionError("cut as the reply was read")
        self._reply = None
        if isinstance(reply, Exception):
            self.lost()
            raise reply
        assert reply is not None
        self.arrived(reply)
        return reply

    def reconnect(self) -> None:
        self._cut()
        self.before_reconnect()
        if self._step("reconnect") != "well":
            raise redis.ConnectionError("refused")

    def reconcile(self, _owner: str, _worker: str, known: Iterable[int]) -> int:
        claims = list(known)
        self.before_reconcile(claims)
        how = self._step("reconcile")
        if how == "lost":
            raise redis.ConnectionError("cut before it was asked")
        unknown = [claim for claim in self._store.held if claim not in claims]
        self._store.give_back(unknown)
        if how == "late":
            raise redis.ConnectionError("cut before it was answered")
        return len(unknown)

    def largest(self) -> int:
        return 0

    # -- what the test calls --

    @property
    def is_busy(self) -> bool:
        """Return whether a request was sent whose reply is not read yet."""
        return self._request is not None or self._reply is not None

    def answer(self) -> None:
        """Let the store execute the pending request; its reply can then be read."""
        if self._request is not None:
            request, self._request = self._request, None
            try:
                self._reply = self._store.cycle(request)
            except redis.ResponseError as e:
                self._reply = e

    def arrive_late(self) -> None:
        """Let a request arrive that the child has given up: its reply is never read."""
        try:
            self._store.cycle(self.late.pop(0))
        except redis.ResponseError:
            pass

    def _cut(self) -> None:
        if self._request is not None:
            self.late.append(self._request)
        if self._request is not None or self._reply is not None:
            self.lost()
        self._request = self._reply = None
