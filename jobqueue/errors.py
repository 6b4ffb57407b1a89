"""Every error a user can meet, one class per cause; the message is a full sentence that says what to do.

The command line prints the message on one line and leaves with ``exit_code``; nothing here shows a traceback.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import ClassVar


class JobqError(Exception):
    """Base of all errors that jobq raises on purpose."""

    exit_code = 1


class UsageError(JobqError):
    """The caller used jobq wrongly: wrong task, wrong arguments, wrong flag."""

    exit_code = 2


class BadValue(UsageError, ValueError):
    """A number, a time or a name is out of the bounds of the store or the workers."""


class BadType(BadValue, TypeError):
    """Something of another type than it has to be, such as a name that is no text; RQ raises TypeError for it."""


# An exception that a signal's handler raises is lost where Python can hand it to nobody: in a weakref's callback, as
# each import has, or in the middle of a compilation. The handler that then stands bears the number of that signal under
# this name, for who takes the handlers over.
ASKED = "jobq_asked"


class EndOfProcess(BaseException):
    """A signal asks this process to end; the code that it interrupts is not to blame."""


class InTheCopy(BaseException):
    """This process is a copy that was forked by a command, and has work of its own: whoever runs the command lets it go
    and calls ``work``."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work = work


# -- the store ---------------------------------------------------------------------------------------------------


class StoreError(JobqError):
    """The store cannot be used."""


class StoreUnreachable(StoreError):
    """Nobody answers at the store's address, or the address is wrong."""


class StoreRefused(StoreError):
    """The store answers, but refuses us: wrong password, no permission, loading, read-only."""


class StoreLoading(StoreRefused):
    """The store was just started and loads its data: in a moment it will answer."""


class NoServerBinary(StoreError):
    """No redis-server or valkey-server was found to start the local store with."""


# -- submitting --------------------------------------------------------------------------------------------------


class TaskNotFound(UsageError):
    """The task's module or function does not exist."""


class ExtraMissing(UsageError):
    """The task needs libraries that are not installed here."""


class BadArguments(UsageError):
    """The function does not take these arguments."""


class NotSerializable(UsageError):
    """A value that the job's format (JSON by default) cannot carry."""


class DuplicateJob(UsageError):
    """A job with this id exists already and the new one was meant to be unique."""


# -- waiting for a result ----------------------------------------------------------------------------------------


class JobError(JobqError):
    """A job did not give a result. ``job_id`` says which."""

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobFailed(JobError):
    """The job ended as failed; ``traceback`` is the remote traceback as text."""

    def __init__(self, message: str, job_id: str, traceback: str = "") -> None:
        super().__init__(message, job_id)
        self.traceback = traceback


class JobCanceled(JobError):
    """The job was canceled before it ran."""


class JobStopped(JobError):
    """The job was stopped on request while it ran."""


class NoSuchJob(JobError):
    """There is no job with this id: never enqueued, deleted, or its result expired."""


class ResultTimeout(JobError, TimeoutError):
    """The job had no result within the time that the caller gave it. It goes on; nothing is lost."""


# -- running -----------------------------------------------------------------------------------------------------


class BootFailed(JobqError):
    """A worker could not start, and starting it again would not help: a failed import, a first job that it may not
    run."""

    exit_code = 2


class NotServed(JobqError):
    """The job names a function or a format that this worker was not told to serve."""


class ResultNotSerializable(JobqError):
    """The function returned a value that the job's format cannot carry."""


class OutcomeRefused(JobqError):
    """The store does not accept the job's outcome: it is larger than the server allows."""


class TimeLimitExceeded(JobqError):
    """The job ran longer than its time limit."""

    @staticmethod
    def sentence(limit: float, subject: str = "The job") -> str:
        """Say what exceeded which limit (seconds)."""
        return f"{subject} ran longer than its time limit of {limit:g} s."


class WorkerDied(JobqError):
    """A worker that this program started has ended by itself; ``exit_code_of_worker`` is negative for a signal."""

    def __init__(self, message: str, exit_code_of_worker: int | None = None) -> None:
        super().__init__(message)
        self.exit_code_of_worker = exit_code_of_worker


class BrokenWorkers(JobqError, BrokenExecutor):
    """The own workers of a JobExecutor cannot be started, or die again and again: its futures will get no results."""


class OwnershipLost(BaseException):
    """This process no longer owns the job; it must write nothing more about it.

    A BaseException, so that RQ's ``except Exception`` blocks cannot take it for a failure of the job.
    """


# -- causes of death ---------------------------------------------------------------------------------------------------


def signal_name(number: int) -> str:
    """Return the name of a signal: SIGKILL; "signal 40" for one that has none, as most real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True)
class CauseOfDeath:
    """Why an attempt of a job ended although the job itself neither returned nor raised. One class per cause; its text
    is a full sentence with what is known. Causes are recorded with the job and never raised."""

    name: ClassVar[str]  # recorded before the sentence

    @property
    def counted_as(self) -> str:
        """The cause in the metrics: one of few texts; "": no process died."""
        return ""

    @property
    def recorded(self) -> str:
        """The text that is recorded in place of a traceback."""
        return f"{self.name}: {self}"


@dataclass(frozen=True)
class EndOfJobProcess(CauseOfDeath):
    """The job's process ended while the job ran. how: words that follow its name, also in the log."""

    name = "ChildKilled"
    pid: int

    @property
    def counted_as(self) -> str:
        return "unknown"

    @property
    def how(self) -> str:
        """How the process ended, as far as known."""
        return "is gone"

    def __str__(self) -> str:
        return f"The process that ran this job (pid {self.pid}) {self.how}."


@dataclass(frozen=True)
class KilledBySignal(EndOfJobProcess):
    """A signal killed the job's process: a crash in C code, or a kill from outside."""

    signal: int

    @property
    def counted_as(self) -> str:
        return signal_name(self.signal).replace(" ", "_")

    @property
    def how(self) -> str:
        return f"was killed by {signal_name(self.signal)}"


@dataclass(frozen=True)
class KilledForMemory(EndOfJobProcess):
    """The job's process was killed by SIGKILL, and the kernel killed a process for lack of memory meanwhile."""

    name = "OutOfMemory"

    @property
    def counted_as(self) -> str:
        return "out_of_memory"

    @property
    def how(self) -> str:
        return "was killed by SIGKILL, while the kernel killed for want of memory"


@dataclass(frozen=True)
class ProcessExited(EndOfJobProcess):
    """The job's process ended itself with this exit code."""

    code: int

    @property
    def counted_as(self) -> str:
        return "exit"

    @property
    def how(self) -> str:
        return f"exited with status {self.code}"


@dataclass(frozen=True)
class KilledForNeighbour(CauseOfDeath):
    """The process was killed, or crashed, because of another job that ran in it."""

    name = "ChildKilled"

    def __str__(self) -> str:
        return "The process that ran this job was killed because of another job that ran in it."


@dataclass(frozen=True)
class LimitIgnored(CauseOfDeath):
    """The time limit was exceeded, and the code did not react. ended: what happened to its process or thread."""

    name = "TimeLimitExceeded"
    limit: float  # seconds
    ended: str
    subject: str = "The job"

    def __str__(self) -> str:
        return f"{TimeLimitExceeded.sentence(self.limit, self.subject)} It did not react: {self.ended}."


@dataclass(frozen=True)
class InterruptedByShutdown(CauseOfDeath):
    """The worker shut down while the job ran. is_final: the job may not run a second time, and fails."""

    name = "ShutdownInterrupt"
    is_final: bool = False

    def __str__(self) -> str:
        why = " --on-crash fail forbids a second run." if self.is_final else ""
        return f"The worker shut down while this job ran.{why}"


@dataclass(frozen=True)
class StoppedOnRequest(CauseOfDeath):
    """Somebody asked to stop the job. The words are RQ's, as its readers look for them."""

    name = ""

    @property
    def recorded(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return "Job stopped by user, work-horse terminated."


@dataclass(frozen=True)
class LeaseExpired(CauseOfDeath):
    """The job's worker did not renew its lease for as long as a lease lasts (seconds)."""

    name = "LeaseExpired"
    worker: str
    lease: float

    @property
    def counted_as(self) -> str:
        return "lease_expired"

    def __str__(self) -> str:
        return (
            f"The worker {self.worker} that ran this job has given no sign of life for {self.lease:g} s: "
            "it or its machine died."
        )


@dataclass(frozen=True)
class WorkerGone(CauseOfDeath):
    """The job's worker died, and a new worker has its name."""

    name = "WorkerGone"
    worker: str

    @property
    def counted_as(self) -> str:
        return "worker_gone"

    def __str__(self) -> str:
        return f"The worker {self.worker} that ran this job died, and another took its name."


@dataclass(frozen=True)
class RecordLost(CauseOfDeath):
    """The job returned, and the processes that should have recorded that died."""

    name = "RecordLost"

    def __str__(self) -> str:
        return "It returned, and could not be recorded."
