"""Store schedules, find those that are due, enqueue each occurrence once, lead, delete.

    SCHEDULE ──► next time in a zset, what and how in two hashes ──► UPCOMING (any process reads what is due)
                                                                       └─► TICK: job and next time in one step

Correctness needs no leader: TICK acts only if the time that its caller has read is still stored. Entries of cron files
have a leader all the same, because they end when no worker serves the file: the leader's name is their token.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis
from rq.defaults import DEFAULT_CRON_JOB_HISTORY_LIMIT, DEFAULT_CRON_JOB_HISTORY_TTL

from jobqueue.errors import DuplicateJob
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import Protocol
from jobqueue.schedules.timing import BadSchedule, Timing

FENCED = "fenced"
GONE = "gone"  # UPCOMING's word for an entry whose keys were deleted
NOT_ENQUEUED = frozenset({FENCED, "moved", "overlap", "there"})  # TICK's reply in place of a job's id


@dataclass(frozen=True)
class Schedule:
    """A stored schedule: its timing, its queue, the fields that its jobs start with. front, ttl: of its jobs."""

    id: str
    timing: Timing
    queue: str
    fields: Mapping[str, bytes] = field(repr=False)
    name: str = ""  # RQ's name of a cron entry; several may have the same
    source: str = ""  # the cron file that registered it
    overlap: bool = True
    front: bool = False
    ttl: int | None = None

    def to_hash(self) -> dict[str, str]:
        t = self.timing
        return {
            "every": repr(t.every) if t.every else "",
            "cron": t.cron,
            "tz": t.tz,
            "queue": self.queue,
            "name": self.name or self.id,
            "source": self.source.encode(errors="backslashreplace").decode(),  # a path need not be valid text
            "overlap": "yes" if self.overlap else "no",
            "front": "1" if self.front else "",
            "ttl": "" if self.ttl is None else str(self.ttl),
        }


class Due(NamedTuple):
    """A schedule whose time has come. due: the time as it was read, seconds since the epoch."""

    id: str
    due: str
    timing: Timing
    problem: str = ""  # why it cannot be enqueued: the store may hold anything


class Upcoming(NamedTuple):
    """UPCOMING's answer: the store's time, the time of the next schedule, and the schedules that are due."""

    now: float
    later: float | None
    due: list[Due]


class Timetable:
    """One of the two sets of schedules, over one client: without a token the stored ones, with a token those of that
    leader."""

    def __init__(self, client: redis.Redis, leader: str = "") -> None:
        self._client = client
        self._protocol = Protocol(client)
        self._leader = leader
        self._key = keys.CRON_ENTRIES if leader else keys.SCHEDULES

    def now(self) -> float:
        """Return the store's time, in seconds since the epoch."""
        seconds, microseconds = self._client.time()
        return float(seconds) + float(microseconds) / 1e6

    def put(
        self, schedule: Schedule, first: float, mode: str = "keep", mark: str = "", attempt: int = 0
    ) -> float | None:
        """Store a schedule and return its next time; None if this token does not lead any more. Raises DuplicateJob.

        mode: "keep" keeps the next time of an existing schedule with the same timing, "first" does not, "unique"
        refuses if one exists. mark, attempt: of this submit, see Submit.
        """
        meta = _flat(schedule.to_hash())
        args = (self._leader, schedule.id, repr(first), mode, attempt, len(meta), *meta, *_flat(schedule.fields))
        reply = self._protocol.run("schedule", 2, self._key, keys.submit(mark or os.urandom(16).hex()), *args)
        if reply == b"":
            raise DuplicateJob(f"There is a schedule {schedule.id} already.")
        return None if reply == FENCED.encode() else float(reply)

    def upcoming(self, most: int = 100, skip: int = 0) -> Upcoming:
        """Return at most ``most`` schedules that are due, without the first ``skip``."""
        now, later, *flat = [_text(part) for part in self._protocol.run("upcoming", 1, self._key, most, skip)]
        due = [_read(*flat[i : i + 6]) for i in range(0, len(flat), 6)]
        return Upcoming(float(now), float(later) if later else None, due)

    def tick(self, due: Due, after: float) -> str:
        """Enqueue this occurrence and set the next time; return the job's id, or one of NOT_ENQUEUED. Raises
        BadSchedule for a stored value that cannot be enqueued; then nothing was written."""
        args = (
            self._leader,
            due.id,
            due.due,
            repr(after),
            DEFAULT_CRON_JOB_HISTORY_LIMIT,
            DEFAULT_CRON_JOB_HISTORY_TTL,
        )
        reply = self._protocol.run("tick", 1, self._key, *args)
        if isinstance(reply, list):
            raise BadSchedule(reply[0].decode(errors="backslashreplace"))
        return _text(reply)

    # -- the leader of the cron files ------------------------------------------------------------------------------

    def lead(self, seconds: float) -> int:
        """Try to lead for this number of seconds; return 1 for a new leader, 2 for one that continues to lead, 0 if
        another one leads."""
        return int(self._protocol.run("cron_lead", 1, keys.CRON_LEADER, self._leader, int(seconds * 1000)))

    def keep_only(self, ids: Iterable[str]) -> bool:
        """Drop all other entries; return False if this token does not lead any more."""
        return int(self._protocol.run("cron_keep", 2, keys.CRON_ENTRIES, keys.SCHEDULES, self._leader, *ids)) >= 0

    def missing(self, ids: list[str]) -> list[str]:
        """Return those ids that are not stored."""
        scores: Any = self._client.zmscore(self._key, ids)
        return [schedule_id for schedule_id, score in zip(ids, scores, strict=True) if score is None]

    def resign(self) -> bool:
        return bool(self._protocol.run("cron_resign", 1, keys.CRON_LEADER, self._leader))


def _read(schedule_id: str, due: str, every: str, cron: str, tz: str, problem: str) -> Due:
    """Build a Due from UPCOMING's answer, whose values may be anything that was written there."""
    if not problem:
        try:
            return Due(schedule_id, due, Timing(float(every or 0), cron, tz).check())
        except BadSchedule as e:
            problem = str(e)
        except ValueError:
            problem = f"Its interval is not a number: {every[:40]!a}."
    return Due(schedule_id, due, Timing(), problem)


def _text(reply: bytes) -> str:
    """Return any bytes as text that the protocol sends back unchanged."""
    return reply.decode(errors="surrogateescape")


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]
