"""What RQ's code calls on behalf of a job or of the operator: callbacks of the served modules, exception handlers."""

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
from jobqueue.workers.running.copies import end_copy
from jobqueue.workers.running.error_text import LONGEST_IN_LOG, printed_anyhow, traceback_of
from jobqueue.workers.running.limits import OURS
from jobqueue.workers.running.randomness import reseeding
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

Handler = Callable[..., Any]


class CallbackFailed(Exception):
    """What a success callback raised: no failure of the store, after which a finish is tried again."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class ServedCallbacks(Job):
    """A job whose callbacks go through ``resolve``: a job may name only what this worker serves, there too."""

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
    """In a context of its own: neither the job's nor that of another callback. RQ refuses coroutine functions."""
    return callback if inspect.iscoroutinefunction(callback) else _ending_copies(after_imports.apart(callback))


def _by_name(callback: Callable[..., Any]) -> Callable[..., Any]:
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
    @functools.wraps(callback)
    def call(*args: Any) -> Any:
        try:
            return callback(*args)
        finally:
            end_copy()

    return call


def handlers_of(settings: Settings) -> list[Handler]:
    """The operator's exception handlers, in their order. They were imported before the worker began."""
    return [after_imports.apart(import_attribute(name)) for name in settings.exception_handlers]


def call_failure_callback(job: Job, penalty: type[BaseDeathPenalty], error: BaseException) -> None:
    """As RQ's execute_failure_callback, which would log what it raises a second time, however long it is."""
    if (callback := job.failure_callback) is None:
        return
    if inspect.iscoroutinefunction(callback):
        raise TypeError("Coroutine failure callbacks are not supported")
    with penalty(job.failure_callback_timeout, JobTimeoutException, job_id=job.id):
        callback(job, job.connection, type(error), error, traceback_of(error))


def call_handlers(
    handlers: list[Handler], job: Job, penalty: type[BaseDeathPenalty], limit: float, *exc_info: Any
) -> None:
    """Call RQ's chain of handlers, which has ``limit`` seconds. What one raises ends the chain and is logged: the
    failure itself has to be recorded."""
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
