"""Call the callbacks of jobs and the operator's exception handlers, where RQ's code asks for them."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from rq.job import Job
from rq.job_lifecycle import call_exception_handlers
from rq.timeouts import BaseDeathPenalty, JobTimeoutException
from rq.utils import import_attribute

from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.error_text import LONGEST_IN_LOG, printed_anyhow, traceback_of
from jobqueue.workers.running.limits import OURS
from jobqueue.workers.running.randomness import reseeding
from jobqueue.workers.shared.copies import end_copy
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

Handler = Callable[..., Any]


class CallbackFailed(Exception):
    """Raised in place of what a success callback raised, so that a finish can tell it from an error of the store, after
    which it is tried again."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class ServedCallbacks(Job):
    """A job that finds its callbacks by ``resolve``, so that it can name only functions that this worker serves."""

    resolve: Callable[[str], Any] = staticmethod(import_attribute)

    def _resolved(self, name: str) -> Any:
        return reseeding(self.resolve, name)

    @property
    def success_callback(self) -> Any:
        if not self._success_callback_name:
            return None
        callback = self._resolved(self._success_callback_name)
        return callback if inspect.iscoroutinefunction(callback) else _by_name(_apart(callback))

    @property
    def failure_callback(self) -> Any:
        return _apart(self._resolved(self._failure_callback_name)) if self._failure_callback_name else None

    @property
    def stopped_callback(self) -> Any:
        return _apart(self._resolved(self._stopped_callback_name)) if self._stopped_callback_name else None


def _apart(callback: Any) -> Any:
    """Return the callback so wrapped that it runs in its own context (PEP 567), neither the job's nor another
    callback's. A coroutine function is returned as it is: RQ refuses it."""
    return callback if inspect.iscoroutinefunction(callback) else _ending_copies(after_imports.apart(callback))


def _by_name(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Return the callback so wrapped that it raises ``CallbackFailed`` in place of an exception of its own."""

    @functools.wraps(callback)
    def call(*args: Any) -> Any:
        try:
            return callback(*args)
        except OURS:
            raise
        except BaseException as e:
            raise CallbackFailed(e) from e
        finally:
            end_copy()

    return call


def _ending_copies(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Return the callback so wrapped that a process which it forked, and which returns from it, ends there."""

    @functools.wraps(callback)
    def call(*args: Any) -> Any:
        try:
            return callback(*args)
        finally:
            end_copy()

    return call


def handlers_of(settings: Settings) -> list[Handler]:
    """Return the operator's exception handlers in their order. They were imported when the worker started."""
    return [after_imports.apart(import_attribute(name)) for name in settings.exception_handlers]


def call_failure_callback(job: Job, penalty: type[BaseDeathPenalty], error: BaseException) -> None:
    """Do what RQ's ``execute_failure_callback`` does, but do not log what the callback raises: our caller does, cut to
    a length."""
    if (callback := job.failure_callback) is None:
        return
    if inspect.iscoroutinefunction(callback):
        raise TypeError("Coroutine failure callbacks are not supported")
    with penalty(job.failure_callback_timeout, JobTimeoutException, job_id=job.id):
        callback(job, job.connection, type(error), error, traceback_of(error))


def call_handlers(
    handlers: list[Handler], job: Job, penalty: type[BaseDeathPenalty], limit: float, *exc_info: Any
) -> None:
    """Call RQ's chain of exception handlers, which has ``limit`` seconds. Log what one raises and end the chain: the
    job's failure is recorded all the same."""
    if not handlers:
        return
    try:
        with penalty(limit, JobTimeoutException, job_id=job.id):
            call_exception_handlers(handlers, job, *exc_info)
    except OURS:
        raise
    except BaseException as e:
        end_copy()
        log.error("job %s: an exception handler failed\n%s", job.id, printed_anyhow(e, LONGEST_IN_LOG))
    end_copy()
