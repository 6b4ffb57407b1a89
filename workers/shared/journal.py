"""Share memory between a supervisor and its children: which jobs run, and which outcomes are not settled yet.

Each child has a shared page. The child writes it, and the supervisor reads it, also after the child was killed at any
instruction:

    header      8-byte words. The child writes: out of work, buffered, unsettled, done, its pulse, the last revoked
                number that it has confirmed, and since when the store does not answer it. The supervisor writes
                revoked and fresh. Revoked counts how often the buffer was given back, or may have been, without the
                child; the child confirms this number. Until it has, and later than fresh (monotonic seconds, 0: not
                set yet; the lease may be over), it starts no job without asking Redis
    slots       for each slot: claim number (0: nothing runs), start (monotonic seconds), limit (seconds, 0: none),
                thread; after a job's end, in a callback: since when the limit counts (0: since the start), and what
                runs under it
    journal     two halves, each with a word (bytes used) and then records: outcomes that Redis may not have yet

It survives a kill because every word is written by one aligned 8-byte store, and a record counts only when the word in
front, which is written last, includes it. A record is written before the running claim is cleared; if both are there,
the record counts. While one half is being sent to Redis, new records go to the other.
"""

from __future__ import annotations

import fcntl
import marshal
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import NamedTuple

from jobqueue.protocol.outcomes import JobOutcome
from jobqueue.workers.shared.finish_page import AREA

HALF = 128 * 1024
OUT_OF_WORK, BUFFERED, UNSETTLED, DONE, PULSE, REVOKED, FRESH, CAME_BACK, UNANSWERED = range(9)
HEADER_WORDS, SLOT_WORDS = 9, 6
CLAIM, START, LIMIT, THREAD, SINCE, WHAT = range(6)


def page_size(slots: int) -> int:
    return 8 * (HEADER_WORDS + SLOT_WORDS * slots) + 2 * (8 + HALF)


def memory_file(name: str) -> int:
    """Make a file in memory, without a place in the file system; return its descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as f:  # macOS
        return os.dup(f.fileno())


def make_file(children: int, slots: int) -> int:
    """Make a file for the shared pages of all children and of the finish processes; return its descriptor."""
    fd = memory_file("jobq-pages")
    os.ftruncate(fd, children * page_size(slots) + AREA)
    return fd


def inode_of(fd: int) -> tuple[int, int]:
    """Return which file is open under this descriptor."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class Running(NamedTuple):
    """The job, or the code after a job's end, that a slot runs."""

    slot: int
    claim: int
    start: float
    limit: float
    thread: int
    since: float = 0.0  # monotonic seconds from which the limit counts
    what: int = 0  # which code runs under the limit; endings.SUBJECTS has the words


class SharedPage:
    """One child's part of the shared memory."""

    def __init__(self, fd: int, child: int, slots: int) -> None:
        size = page_size(slots)
        self._file, self._inode = fd, inode_of(fd)
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
        """Set the limit of code that runs after the job's end; 0: no code of the user's runs."""
        at = HEADER_WORDS + SLOT_WORDS * slot
        self._seconds[at + LIMIT] = 0.0
        self._words[at + WHAT] = what
        self._seconds[at + SINCE] = since
        self._seconds[at + LIMIT] = limit

    def bind(self, slot: int, thread: int) -> None:
        """Set the thread that runs the slot's jobs, by the number that faulthandler prints."""
        self._words[HEADER_WORDS + SLOT_WORDS * slot + THREAD] = thread

    def end(self, slot: int) -> None:
        self._words[HEADER_WORDS + SLOT_WORDS * slot + CLAIM] = 0

    def set_unanswered(self, since: float) -> None:
        """Set since when the store has not answered this child, or refuses it (monotonic seconds); 0: it answers."""
        self._seconds[UNANSWERED] = since

    def speaks_for_tree(self) -> bool:
        """(the child) Return whether this process is the one of its tree that reports what concerns all: the first that
        asks. It holds a lock on the file, which the kernel takes from it when it ends; then another one may have it."""
        try:
            if inode_of(self._file) != self._inode:  # a job has closed it, and the number stands for another file now
                return False
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            return True
        except OSError:
            return False

    # -- the supervisor writes --

    def revoke(self) -> None:
        with self._revoking:
            self._words[REVOKED] += 1

    def stay_fresh(self, until: float) -> None:
        """Set the time (monotonic seconds) before which no other worker rescues the child's jobs."""
        self._seconds[FRESH] = until

    # -- both read --

    def get(self, word: int) -> int:
        return self._words[word]

    @property
    def unanswered_since(self) -> float:
        """Return since when the store has not answered the child (monotonic seconds); 0: it answers."""
        return self._seconds[UNANSWERED]

    def is_stale(self, now: float) -> bool:
        """Return whether another worker may have rescued the child's jobs; also if this whole worker was stopped."""
        return 0.0 < self._seconds[FRESH] < now

    @property
    def revoked(self) -> bool:
        """Whether the child has not confirmed the last ``revoke`` yet."""
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
        """Whether the child found the queues empty, runs no job, and has settled all outcomes."""
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
        """Write a record; return False if it is too large, and has to be settled at once."""
        return self._halves[self._current].append(marshal.dumps(tuple(outcome)))

    def switch(self) -> None:
        """Note that the records are being sent; from now on new ones go to the other half."""
        self._current ^= 1

    def sent_is_settled(self) -> None:
        self._halves[self._current ^ 1].clear()

    def sent_came_back(self) -> None:
        """Note that the request failed, so that both halves are unsettled. Copy them into one half, to free the
        other."""
        sent, current = self._halves[self._current ^ 1], self._halves[self._current]
        if current.append_from(sent):
            sent.clear()

    def read(self) -> Iterator[JobOutcome]:
        """Yield all records. The supervisor of a dead child calls this. A job may be there twice: its token makes sure
        that one record counts."""
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
