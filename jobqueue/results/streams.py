"""Read the result streams and states of outstanding jobs. The Waiter and the executor's collector decide when, and for
which jobs.

Results stay in their streams, so nothing is lost while the store is away or while no process reads.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jobqueue.errors import JobCanceled, JobError, JobFailed, JobStopped, NoSuchJob
from jobqueue.model import Outcome
from jobqueue.protocol import keys
from jobqueue.serializers import Auto, decompress
from jobqueue.store.connection import redis

_ENDED = frozenset({"finished", "failed", "stopped", "canceled"})
_BEGINNING = b"0-0"
_RETURNED, _RAISED, _STOPPED, _RETRIED, _OUT_OF_RETRIES = b"1", b"2", b"3", b"4", b"5"  # rq.results.Result.Type

Entry = dict[bytes, bytes]


@dataclass
class Bell:
    """A stream that another thread writes to in order to end a wait for results. heard: its last entry that was
    read."""

    key: str
    heard: bytes = _BEGINNING


class Streams:
    """Reads for one thread, over one client. Raises what redis-py raises; reading twice changes nothing."""

    def __init__(self, client: redis.Redis, loads: Callable[[bytes], Any] = Auto.loads) -> None:
        # Job → the last entry read from its stream, which was not its end; oldest first.
        self.outstanding: dict[str, bytes] = {}
        self.ended: dict[str, Outcome] = {}  # outcomes, which the caller takes out
        self._client = client
        self._loads = loads

    def watch(self, job_id: str) -> None:
        self.outstanding[job_id] = _BEGINNING

    # -- results ---------------------------------------------------------------------------------------------------

    def read(self, ids: Iterable[str], block: float | None = None, bell: Bell | None = None) -> int:
        """Take what the streams of these jobs have; return the number of entries. block: seconds to wait for the first
        entry or for the bell."""
        streams: Any = {keys.results(job_id): self.outstanding[job_id] for job_id in ids}
        if bell:
            streams[bell.key] = bell.heard
        reply = self._client.xread(streams, block=None if block is None else max(1, int(block * 1000)))
        return self._take_all(reply, bell)

    def sweep(self, ids: Iterable[str], page: int = 512) -> int:
        """Take what these streams have now, in one round trip; return the number of entries."""
        some = list(ids)
        with self._client.pipeline(transaction=False) as pipe:
            for at in range(0, len(some), page):
                pipe.xread({keys.results(job_id): self.outstanding[job_id] for job_id in some[at : at + page]})
            return sum([self._take_all(reply, None) for reply in pipe.execute()])

    def _take_all(self, reply: Any, bell: Bell | None) -> int:
        skip, count = len(keys.results("")), 0
        raised: list[tuple[str, bytes, Entry]] = []
        for key, entries in reply.items() if isinstance(reply, dict) else reply or ():
            for entry_id, entry in _flat(entries):
                if bell and key.decode() == bell.key:
                    bell.heard = entry_id
                else:
                    count += 1
                    self._take(key[skip:].decode(), entry_id, entry, raised)
        self._settle_raised(raised)
        return count

    def _take(self, job_id: str, entry_id: bytes, entry: Entry, raised: list[tuple[str, bytes, Entry]]) -> None:
        kind = entry[b"type"]
        if kind == _RETURNED:
            self._end(self._returned(job_id, entry))
        elif kind == _RETRIED:
            self.outstanding[job_id] = entry_id
        else:
            raised.append((job_id, entry_id, entry))

    def _settle_raised(self, raised: list[tuple[str, bytes, Entry]]) -> None:
        """End the jobs that failed, unless they have been requeued since. "stopped" is only in a job's status."""
        if not raised:
            return
        with self._client.pipeline(transaction=False) as pipe:
            for job_id, _, _ in raised:
                pipe.hget(keys.job(job_id), "status")
            states = pipe.execute()
        for (job_id, entry_id, entry), state in zip(raised, states, strict=True):
            if job_id not in self.outstanding:  # a later run has returned
                continue
            status = state.decode() if state else "failed"
            if status in _ENDED:
                self._end(Outcome(job_id, error=_failure(job_id, entry, status)))
            else:
                self.outstanding[job_id] = entry_id

    def _returned(self, job_id: str, entry: Entry) -> Outcome:
        payload = entry.get(b"return_value")
        if payload is None:
            return Outcome(job_id)
        try:
            return Outcome(job_id, self._loads(base64.b64decode(payload)))
        except Exception as e:
            text = f"The result of job {job_id} cannot be read: {type(e).__name__}{_said_by(e)}"
            return Outcome(job_id, error=JobError(text, job_id))

    def _end(self, outcome: Outcome) -> None:
        if self.outstanding.pop(outcome.job_id, None) is not None:
            self.ended[outcome.job_id] = outcome

    # -- states ----------------------------------------------------------------------------------------------------

    def check(self, job_ids: Iterable[str]) -> int:
        """End those jobs that are over, or gone, and whose stream has no (further) entry; return how many are over."""
        ids = list(job_ids)
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(keys.job(job_id), "status", "exc_info")
            states = pipe.execute()
            over = [(i, s, x) for i, (s, x) in zip(ids, states, strict=True) if s is None or s.decode() in _ENDED]
            for job_id, _, _ in over:  # after the states: an end and its entry are written in one transaction
                pipe.xrevrange(keys.results(job_id), count=1)
            latest = pipe.execute() if over else []
        for (job_id, status, exc_info), entries in zip(over, latest, strict=True):
            if not entries or entries[0][0] == self.outstanding[job_id]:
                self._end(Outcome(job_id, error=_end_without_result(job_id, status, exc_info)))
        return len(over)


def _said_by(error: Exception) -> str:
    """Return the text of an error; its class may be user code, whose __str__ may raise."""
    try:
        return f": {error}"
    except Exception:
        return " (its text cannot be read)"


def _flat(entries: Any) -> list[tuple[bytes, Entry]]:
    """Return the entries of a stream: RESP3 wraps them once more than RESP2."""
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


# The frames and members of an exception group are indented further.
_OF_A_GROUP = re.compile(r"^  \| (\S.*)$", re.MULTILINE)


def last_line(traceback: str) -> str:
    """Return the line of a traceback that says what happened: the first one after the frames, because messages may have
    several lines."""
    _, begins, group = f"\n{traceback}".rpartition("\n  + Exception Group Traceback")
    if begins and "\nTraceback (most" not in group and (said := _OF_A_GROUP.search(group)):
        return said[1]
    lines = traceback.strip().splitlines()
    frames = [i for i, line in enumerate(lines[:-1]) if line.startswith("  ")]
    return lines[frames[-1] + 1 if frames else -1].strip() if lines else "no traceback was kept"
