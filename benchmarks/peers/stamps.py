"""Record when each job's body began and ended, by CLOCK_MONOTONIC, in a file that all processes map.

Every job has a number, and the record of that number in the file: began, ended (nanoseconds), pid. A record is written
once, by the body itself, at its end; so what is timed is the same for every peer. The first word of the file is a gate
that opens for the bodies that wait for it (``body.gate``).
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "PEERS_STAMPS"  # the environment variable that names the file
RECORD = struct.Struct("<QQQ")
HEAD = 64  # bytes before the first record
now = time.monotonic_ns


class Stamps:
    """The mapped file; ``records`` is the number of records that it was made with."""

    def __init__(self, path: str | Path) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.records = (len(self._map) - HEAD) // RECORD.size

    @classmethod
    def create(cls, path: Path, records: int) -> Stamps:
        """Make the file, full of zeros; it takes no space before it is written to."""
        with path.open("wb") as file:
            file.truncate(HEAD + records * RECORD.size)
        return cls(path)

    def write(self, number: int, began: int) -> None:
        """Note that the job of this number has ended now."""
        RECORD.pack_into(self._map, HEAD + number * RECORD.size, began, now(), os.getpid())

    def read(self, number: int) -> tuple[int, int, int]:
        """Return (began, ended, pid); zeros while it has not ended."""
        return RECORD.unpack_from(self._map, HEAD + number * RECORD.size)

    def clear(self, numbers: Sequence[int]) -> None:
        """Clear the records of these jobs, which follow each other."""
        start = HEAD + numbers[0] * RECORD.size
        self._map[start : start + len(numbers) * RECORD.size] = bytes(len(numbers) * RECORD.size)

    def first_missing(self, numbers: Sequence[int], after: int = 0) -> int:
        """Return the index of the first of them that has not ended, from that index on; their length if all have."""
        while after < len(numbers) and self.read(numbers[after])[1]:
            after += 1
        return after

    def ended(self, numbers: Sequence[int]) -> int:
        """Return how many of them have ended."""
        return sum(1 for number in numbers if self.read(number)[1])

    def last_end(self, numbers: Sequence[int]) -> int:
        return max(self.read(number)[1] for number in numbers)

    # -- the gate --------------------------------------------------------------------------------------------------

    def set_gate(self, is_open: bool) -> None:
        self._map[0] = int(is_open)

    def wait_at_gate(self) -> None:
        while not self._map[0]:
            time.sleep(0.0005)

    def close(self) -> None:
        self._map.close()


_mine: Stamps | None = None


def mine() -> Stamps:
    """Return the file that the environment names, mapped once per process (a fork keeps the mapping)."""
    global _mine
    if _mine is None:
        _mine = Stamps(os.environ[VARIABLE])
    return _mine
