"""Find the thread that crashed: a dying child writes faulthandler's report into memory that the supervisor can read.

For SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT the report names the thread, so that it is known which of several
running jobs has crashed. SIGKILL and an exit leave no report.
"""

from __future__ import annotations

import faulthandler
import os
import re
from collections.abc import Iterable

from jobqueue.workers.shared.journal import Running, memory_file

CURRENT = re.compile(rb"Current thread 0x([0-9a-f]+)")


class Faults:
    """One child's report. The supervisor makes it; the child writes to it through an inherited descriptor."""

    def __init__(self) -> None:
        self.fd = memory_file("jobq-faults")

    def clear(self) -> None:
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)  # the child's descriptor has the same offset

    def culprit(self, running: Iterable[Running]) -> int | None:
        """Return the claim of the job whose thread crashed; None: the report names none."""
        found = CURRENT.search(os.pread(self.fd, 65536, 0))
        if not found:
            return None
        thread = int(found[1], 16)
        return next((job.claim for job in running if job.thread == thread), None)


def report_to(fd: int) -> None:
    """Have faulthandler write its report there. The child calls this."""
    faulthandler.enable(file=fd, all_threads=True)
