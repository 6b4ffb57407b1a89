"""Every error a user can meet, one class per cause; the message is a full sentence that says what to do.

The command line prints the message on one line and leaves with ``exit_code``; nothing here shows a traceback.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor


class JobqError(Exception):
    """Base of all errors that jobq raises on purpose."""

    exit_code = 1


class UsageError(JobqError):
    """The caller asked for something that cannot be: wrong task, wrong arguments, wrong flag."""

    exit_code = 2


class BadValue(UsageError, ValueError):
    """A number, a time or a name that the store or the workers cannot take."""


class BadType(BadValue, TypeError):
    """Something of another type than it has to be, such as a name that is no text; RQ raises TypeError for it."""


# An exception that a signal's handler raises is lost where Python can hand it to nobody: in a weakref's callback, as
# each import has, or in the middle of a compilation. The handler that then stands bears the number of that signal under
# this name, for who takes the handlers over.
ASKED = "jobq_asked"


class EndOfProcess(BaseException):
    """A signal asks this process to end: whatever it was in the middle of is not to blame."""


# -- the store ---------------------------------------------------------------------------------------------------


class StoreError(JobqError):
    """The store cannot be used."""


class StoreUnreachable(StoreError):
    """Nobody answers at the store's address, or the address is wrong."""


class StoreRefused(StoreError):
    """The store answers, but refuses us: wrong password, no permission, loading, read-only."""


class StoreLoading(StoreRefused):
    """The store was just started and reads what it had: in a moment it will answer."""


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
    """A worker could not start and starting it again would not help: bad import, a head it may not serve."""

    exit_code = 2


class NotServed(JobqError):
    """The job names a function or a format that this worker was not told to serve."""


class ResultNotSerializable(JobqError):
    """The function returned a value that the job's format cannot carry."""


class OutcomeRefused(JobqError):
    """The store does not take what the job returned or raised: it is larger than the server allows."""


class TimeLimitExceeded(JobqError):
    """The job ran longer than its time limit."""


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
