"""Which thread crashed: faulthandler's report, written by the dying child into memory that the supervisor can read.

For SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT it names the thread in which it happened, so that among several running
jobs the culprit is known. SIGKILL and a plain exit leave no report.
"""

from __future__ import annotations

import faulthandler
import os
import re
from collections.abc import Iterable

from jobqueue.workers.shared.journal import Running, memory_file

CURRENT = re.compile(rb"Current thread 0x([0-9a-f]+)")


class Faults:
    """One child's report. Made by the supervisor, written by the child through an inherited descriptor."""

    def __init__(self) -> None:
        self.fd = memory_file("jobq-faults")

    def clear(self) -> None:
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)  # the offset is shared with the children

    def culprit(self, running: Iterable[Running]) -> int | None:
        """The claim of the job whose thread crashed, if the report names one."""
        found = CURRENT.search(os.pread(self.fd, 65536, 0))
        if not found:
            return None
        thread = int(found[1], 16)
        return next((job.claim for job in running if job.thread == thread), None)


def report_to(fd: int) -> None:
    """(child) Write the report there."""
    faulthandler.enable(file=fd, all_threads=True)
