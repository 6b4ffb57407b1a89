"""Waiting for results: one connection, one XREAD over a window of jobs, outcomes in the order that was asked for.

    ids ──► window (at most 128 outstanding) ──XREAD BLOCK──► ended ──► outcomes, in order
                 ▲                                              │
                 └── each second: states of the window ─────────┘  canceled, stopped, deleted: no stream says so

Results stay in their streams, so nothing is lost while the store is away or while nobody reads.
"""

from __future__ import annotations

import base64
import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from jobqueue import keys
from jobqueue.connection import redis
from jobqueue.errors import (
    JobCanceled,
    JobError,
    JobFailed,
    JobStopped,
    NoSuchJob,
    ResultTimeout,
    StoreRefused,
    StoreUnreachable,
)
from jobqueue.model import Outcome
from jobqueue.serializers import Auto, decompress

log = logging.getLogger(__name__)

WINDOW = 128  # outstanding jobs that one XREAD watches
MOST_AHEAD = 2048  # outcomes kept for a job that holds up the order; the rest stay in their streams
BLOCK = 1.0  # seconds of silence after which the states are read
FIRST_CHECK = 0.1  # seconds until the states are read first: who asks for a canceled job need not wait a second
GATHER = 0.004  # seconds: while a full window shows that there is much to come, results are taken in handfuls
OUTAGE = 300.0  # seconds after which a store that is away is an error

_ENDED = frozenset({"finished", "failed", "stopped", "canceled"})
_BEGINNING = b"0-0"
_RETURNED, _RAISED, _STOPPED, _RETRIED, _OUT_OF_RETRIES = b"1", b"2", b"3", b"4", b"5"  # rq.results.Result.Type

T = TypeVar("T")
Entry = dict[bytes, bytes]


class Waiter:
    """Waits for jobs of any number over one client. Not for several threads at once; make one for each."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        loads: Callable[[bytes], Any] = Auto.loads,
        window: int = WINDOW,
        known: bool = False,
    ) -> None:
        """``known``: the store has answered the caller before, so that an error at once is an outage too."""
        self._client = client
        self._loads = loads
        self._window = window
        self._known = known
        self._answered = False  # the store has answered us before: an error now is an outage
        self._seen: dict[str, bytes] = {}  # outstanding job → the last entry of its stream that was no end
        self._done: dict[str, Outcome] = {}
        self._next_check = 0.0
        socket_timeout = client.connection_pool.connection_kwargs.get("socket_timeout")
        self._block = min(BLOCK, socket_timeout / 2) if socket_timeout else BLOCK

    def outcomes(self, ids: Iterable[str | None], timeout: float | None = None) -> Iterator[Outcome]:
        """Iterate over the outcomes of the jobs in their order; timeout in seconds, for all.

        A None among the ids says that there are no more right now; it will be asked again. Raises ResultTimeout at
        the first job that has no outcome in time, StoreUnreachable, StoreRefused.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        source, order = iter(ids), deque[str]()
        more = True
        self._seen, self._done, self._next_check = {}, {}, time.monotonic() + FIRST_CHECK
        while True:
            more, waiting = self._fill(source, order, more)
            while order and order[0] in self._done:
                yield self._done.pop(order.popleft())
            if not order and not more:
                return
            if not self._seen and not waiting:  # all taken and given out: fill again before waiting for anything
                continue
            if order and deadline is not None and time.monotonic() >= deadline:
                raise ResultTimeout(f"Job {order[0]} has no result after {timeout:g} s; it goes on.", order[0])
            self._step(deadline, 0.05 if waiting else self._block)

    def _fill(self, source: Iterator[str | None], order: deque[str], more: bool) -> tuple[bool, bool]:
        """Move ids into the window; tell whether there are more, and whether they are still to come."""
        while more and len(self._seen) < self._window and len(order) < MOST_AHEAD:
            try:
                job_id = next(source)
            except StopIteration:
                return False, False
            if job_id is None:
                return True, True
            self._seen[job_id] = _BEGINNING
            order.append(job_id)
        return more, False

    def _step(self, deadline: float | None, block: float) -> None:
        if not self._seen:
            return time.sleep(block)
        until = self._next_check if deadline is None else min(deadline, self._next_check)
        block = max(0.001, min(block, until - time.monotonic()))
        full = len(self._seen) >= self._window
        found = self._patiently(lambda: self._read(block), deadline)
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + BLOCK
            self._patiently(self._check_states, deadline)
        elif full and 0 < found < self._window // 4:
            time.sleep(GATHER)

    # -- results ---------------------------------------------------------------------------------------------------

    def _read(self, block: float) -> int:
        """Take what the streams of the window have; tell how many entries."""
        streams: Any = {keys.results(job_id): seen for job_id, seen in self._seen.items()}
        # the first read does not block: a store that then goes away has answered, and its outage is a pause
        reply: Any = self._client.xread(streams, block=max(1, int(block * 1000)) if self._answered else None)
        skip = len(keys.results(""))
        raised: list[tuple[str, bytes, Entry]] = []
        count = 0
        for key, entries in reply.items() if isinstance(reply, dict) else reply:
            job_id = key[skip:].decode()
            for entry_id, entry in _flat(entries):
                count += 1
                self._take(job_id, entry_id, entry, raised)
        self._settle_raised(raised)
        return count

    def _take(self, job_id: str, entry_id: bytes, entry: Entry, raised: list[tuple[str, bytes, Entry]]) -> None:
        kind = entry[b"type"]
        if kind == _RETURNED:
            self._end(self._returned(job_id, entry))
        elif kind == _RETRIED:
            self._seen[job_id] = entry_id
        else:
            raised.append((job_id, entry_id, entry))

    def _settle_raised(self, raised: list[tuple[str, bytes, Entry]]) -> None:
        """A failure is the end unless the job has been requeued since; "stopped" stands only in its status."""
        with self._client.pipeline(transaction=False) as pipe:
            for job_id, _, _ in raised:
                pipe.hget(keys.job(job_id), "status")
            states = pipe.execute()
        for (job_id, entry_id, entry), state in zip(raised, states, strict=True):
            if job_id not in self._seen:  # a later run has returned
                continue
            status = state.decode() if state else "failed"
            if status in _ENDED:
                self._end(Outcome(job_id, error=_failure(job_id, entry, status)))
            else:
                self._seen[job_id] = entry_id

    def _returned(self, job_id: str, entry: Entry) -> Outcome:
        payload = entry.get(b"return_value")
        if payload is None:
            return Outcome(job_id)
        try:
            return Outcome(job_id, self._loads(base64.b64decode(payload)))
        except Exception as e:
            text = f"The result of job {job_id} cannot be read: {type(e).__name__}: {e}"
            return Outcome(job_id, error=JobError(text, job_id))

    def _end(self, outcome: Outcome) -> None:
        if self._seen.pop(outcome.job_id, None) is not None:
            self._done[outcome.job_id] = outcome

    # -- states ----------------------------------------------------------------------------------------------------

    def _check_states(self) -> int:
        """End the wait for jobs that are over, or gone, and whose stream says nothing (more)."""
        ids = list(self._seen)
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(keys.job(job_id), "status", "exc_info")
            states = pipe.execute()
            over = [(i, s, x) for i, (s, x) in zip(ids, states, strict=True) if s is None or s.decode() in _ENDED]
            for job_id, _, _ in over:  # behind the states: an end and its entry are written in one transaction
                pipe.xrevrange(keys.results(job_id), count=1)
            latest = pipe.execute() if over else []
        for (job_id, status, exc_info), entries in zip(over, latest, strict=True):
            if not entries or entries[0][0] == self._seen[job_id]:
                self._end(Outcome(job_id, error=_end_without_result(job_id, status, exc_info)))
        return len(over)

    # -- outages ---------------------------------------------------------------------------------------------------

    def _patiently(self, read: Callable[[], T], deadline: float | None) -> T | int:
        """Read; while the store is away try again, so that an outage is a pause. Reading twice changes nothing."""
        pause, until = 0.05, time.monotonic() + OUTAGE
        while True:
            try:
                found = read()
                self._answered = True
                return found
            except redis.AuthenticationError as e:
                raise StoreRefused(f"The store refuses us: {e}") from e
            except (redis.ConnectionError, redis.TimeoutError) as e:
                if not (self._answered or self._known) or time.monotonic() > until:
                    raise StoreUnreachable(f"The store does not answer: {e}") from e
                if pause == 0.05:
                    log.warning("The store does not answer (%s); waiting on, results stay there.", e)
            except redis.ResponseError as e:
                raise StoreRefused(f"The store refuses to read results: {e}") from e
            if deadline is not None and time.monotonic() + pause > deadline:
                time.sleep(max(0.0, deadline - time.monotonic()))
                return 0
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


def _flat(entries: Any) -> list[tuple[bytes, Entry]]:
    """RESP3 wraps the entries of a stream once more than RESP2."""
    return entries[0] if entries and isinstance(entries[0], list) else entries


def _failure(job_id: str, entry: Entry, status: str) -> JobError:
    if status == "stopped" or entry[b"type"] == _STOPPED:
        return JobStopped(f"Job {job_id} was stopped.", job_id)
    if entry[b"type"] == _OUT_OF_RETRIES:
        return JobFailed(f"Job {job_id} failed: it asked for another retry and had none left.", job_id)
    packed = entry.get(b"exc_string")
    text = zlib.decompress(base64.b64decode(packed)).decode() if packed else ""
    return JobFailed(f"Job {job_id} failed: {last_line(text)}", job_id, text)


def _end_without_result(job_id: str, status: bytes | None, exc_info: bytes | None) -> JobError:
    match status:
        case None:
            return NoSuchJob(f"There is no job {job_id}: never enqueued, deleted, or expired.", job_id)
        case b"canceled":
            return JobCanceled(f"Job {job_id} was canceled.", job_id)
        case b"stopped":
            return JobStopped(f"Job {job_id} was stopped.", job_id)
        case b"failed":
            text = decompress(exc_info).decode() if exc_info else ""
            return JobFailed(f"Job {job_id} failed: {last_line(text)}", job_id, text)
        case _:
            return NoSuchJob(f"Job {job_id} has finished and its result has expired.", job_id)


def last_line(traceback: str) -> str:
    """The line of a traceback that says what happened: the first behind the frames; messages may have several."""
    lines = traceback.strip().splitlines()
    frames = [i for i, line in enumerate(lines[:-1]) if line.startswith("  ")]
    return lines[frames[-1] + 1 if frames else -1].strip() if lines else "no traceback was kept"
