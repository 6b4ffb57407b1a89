"""The shared memory between a supervisor and its children: who runs what, and what is finished but not yet settled.

One shared page per child, written by the child, read by the supervisor, also after the child was killed at any
instruction:

    header      8-byte words; the child writes out of work, buffered, unsettled, done, its pulse and what it came back
                from, the supervisor revoked and fresh. Revoked counts how often the buffer was given back, or may have
                been, behind the child's back, and the child answers with that number. Until it has, and later than
                fresh (monotonic seconds, 0: not said yet; the lease may be over), nothing is started without asking
                Redis
    slots       per slot: claim number (0: nothing runs), start (monotonic seconds), limit (seconds, 0: none), thread;
                behind a job's end, in a callback: since when the limit counts (0: since the start), and what it is on
    journal     two halves; each a word (bytes used) and then records: outcomes that Redis may not have yet

Why it survives a kill: every word is written by one aligned 8-byte store; a record counts only by the word in front,
which is written last. A record is written before the running claim is cleared, and where both stand the record wins.
While one half is on its way to Redis, new records go to the other.
"""

from __future__ import annotations

import marshal
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import NamedTuple

from jobqueue.protocol.outcomes import JobOutcome

HALF = 64 * 1024
OUT_OF_WORK, BUFFERED, UNSETTLED, DONE, PULSE, REVOKED, FRESH, CAME_BACK = range(8)
HEADER_WORDS, SLOT_WORDS = 8, 6
CLAIM, START, LIMIT, THREAD, SINCE, WHAT = range(6)


def page_size(slots: int) -> int:
    return 8 * (HEADER_WORDS + SLOT_WORDS * slots) + 2 * (8 + HALF)


def memory_file(name: str) -> int:
    """A file in memory, without a place in the file system; returns its descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as f:  # macOS
        return os.dup(f.fileno())


def make_file(children: int, slots: int) -> int:
    """A file large enough for the shared pages of all children; returns its descriptor."""
    fd = memory_file("jobq-pages")
    os.ftruncate(fd, children * page_size(slots))
    return fd


class Running(NamedTuple):
    """A slot that runs something."""

    slot: int
    claim: int
    start: float
    limit: float
    thread: int
    since: float = 0.0  # monotonic seconds from which the limit counts
    what: int = 0  # that the limit is on; limits.SUBJECTS has the words


class SharedPage:
    """One child's part of the shared memory."""

    def __init__(self, fd: int, child: int, slots: int) -> None:
        size = page_size(slots)
        self._map = mmap.mmap(fd, 0)  # the whole file: shared pages are not page-aligned
        view = memoryview(self._map)[child * size : (child + 1) * size]
        words = HEADER_WORDS + SLOT_WORDS * slots
        self._view = view
        self._words = view[: 8 * words].cast("Q")
        self._seconds = view[: 8 * words].cast("d")
        self._revoking = threading.Lock()
        self.slots = slots
        self.journal = Journal(view[8 * words :])

    # -- the child writes --

    def set(self, word: int, value: int) -> None:
        self._words[word] = value

    def begin(self, slot: int, claim: int, start: float, limit: float) -> None:
        at = HEADER_WORDS + SLOT_WORDS * slot
        self._seconds[at + START] = start
        self._seconds[at + LIMIT] = limit
        self._words[at + CLAIM] = claim

    def allow(self, slot: int, what: int, since: float, limit: float) -> None:
        """Behind the job's end: what runs now has a limit of its own; 0: none of the user's code runs."""
        at = HEADER_WORDS + SLOT_WORDS * slot
        self._seconds[at + LIMIT] = 0.0
        self._words[at + WHAT] = what
        self._seconds[at + SINCE] = since
        self._seconds[at + LIMIT] = limit

    def bind(self, slot: int, thread: int) -> None:
        """The thread that runs the slot's jobs, by the name that faulthandler gives it."""
        self._words[HEADER_WORDS + SLOT_WORDS * slot + THREAD] = thread

    def end(self, slot: int) -> None:
        self._words[HEADER_WORDS + SLOT_WORDS * slot + CLAIM] = 0

    # -- the supervisor writes --

    def revoke(self) -> None:
        with self._revoking:
            self._words[REVOKED] += 1

    def stay_fresh(self, until: float) -> None:
        """Nobody takes over what the child holds before this moment (monotonic seconds)."""
        self._seconds[FRESH] = until

    # -- both read --

    def get(self, word: int) -> int:
        return self._words[word]

    def is_stale(self, now: float) -> bool:
        """Somebody may have taken over what the child holds: also when all of this worker stood still until now."""
        return 0.0 < self._seconds[FRESH] < now

    @property
    def revoked(self) -> bool:
        """The child has not answered the last ``revoke`` yet."""
        return self._words[REVOKED] != self._words[CAME_BACK]

    def running(self) -> list[Running]:
        found = []
        for slot in range(self.slots):
            at = HEADER_WORDS + SLOT_WORDS * slot
            if claim := self._words[at + CLAIM]:
                start, limit = self._seconds[at + START], self._seconds[at + LIMIT]
                since, what = self._seconds[at + SINCE] or start, self._words[at + WHAT]
                found.append(Running(slot, claim, start, limit, self._words[at + THREAD], since, what))
        return found

    @property
    def at_rest(self) -> bool:
        """It found the queues empty, nothing runs, and all is settled."""
        words = self._words
        return bool(words[OUT_OF_WORK]) and not words[BUFFERED] and not words[UNSETTLED] and not self.running()

    def wipe(self) -> None:
        self._view[:] = bytes(len(self._view))


class Journal:
    """Outcomes that Redis may not have yet. Only the child appends; it holds its consumer's lock."""

    def __init__(self, view: memoryview) -> None:
        self._halves = (_Half(view[: 8 + HALF]), _Half(view[8 + HALF :]))
        self._current = 0

    def append(self, outcome: JobOutcome) -> bool:
        """Write a record; False: it is too large, settle it at once."""
        return self._halves[self._current].append(marshal.dumps(tuple(outcome)))

    def switch(self) -> None:
        """What stands here goes on its way; from now on the other half takes the records."""
        self._current ^= 1

    def sent_is_settled(self) -> None:
        self._halves[self._current ^ 1].clear()

    def sent_came_back(self) -> None:
        """The request failed: both halves are unsettled. Bring them together, so that one of them is free."""
        sent, current = self._halves[self._current ^ 1], self._halves[self._current]
        if current.append_from(sent):
            sent.clear()

    def read(self) -> Iterator[JobOutcome]:
        """All records, for the supervisor of a dead child. A job may stand there twice; the token sorts that out."""
        for half in self._halves:
            yield from half.read()


class _Half:
    def __init__(self, view: memoryview) -> None:
        self._used = view[:8].cast("Q")
        self._data = view[8:]

    def append(self, record: bytes) -> bool:
        used, size = self._used[0], len(record)
        if used + 4 + size > HALF:
            return False
        self._data[used : used + 4] = size.to_bytes(4, "little")
        self._data[used + 4 : used + 4 + size] = record
        self._used[0] = used + 4 + size
        return True

    def append_from(self, other: _Half) -> bool:
        used, more = self._used[0], other._used[0]
        if used + more > HALF:
            return False
        self._data[used : used + more] = other._data[:more]
        self._used[0] = used + more
        return True

    def clear(self) -> None:
        self._used[0] = 0

    def read(self) -> Iterator[JobOutcome]:
        at, used = 0, min(self._used[0], HALF)
        while at + 4 <= used:
            size = int.from_bytes(self._data[at : at + 4], "little")
            yield JobOutcome(*marshal.loads(bytes(self._data[at + 4 : at + 4 + size])))
            at += 4 + size
