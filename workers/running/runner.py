"""Run one job: decode it, find its function, call it, encode its result. This module knows neither Redis nor slots."""

from __future__ import annotations

import asyncio
import base64
import functools
import inspect
import pickle
import sys
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from types import TracebackType
from typing import Any, NamedTuple

from rq.exceptions import DeserializationError
from rq.job import Retry
from rq.utils import import_attribute

from jobqueue.errors import InterruptedByShutdown, NotServed, ResultNotSerializable
from jobqueue.protocol.outcomes import RAISED, RETURNED, ResultKind
from jobqueue.serializers import JSON, Auto, OfJob, decompress, format_of, unpickled
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.error_text import (
    one_line,
    one_line_without_its_code,
    printed,
    printed_without_its_code,
    traceback_of,
)
from jobqueue.workers.running.limits import OURS, PASSING
from jobqueue.workers.running.randomness import reseed
from jobqueue.workers.running.resource_limits import resource_limits
from jobqueue.workers.shared.copies import end_copy
from jobqueue.workers.shared.endings import encode_text
from jobqueue.workers.shared.served import check_served, dotted, is_function
from jobqueue.workers.shared.settings import Settings

_PLUGINS = "jobqueue.plugins.calls"
_OWN = (
    __name__,
    check_served.__module__,
    "jobqueue.workers.running.plugin_calls",
)  # modules whose frames are left out of a job's traceback


class DecodedCall(NamedTuple):
    """The call that a job asks for, decoded."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    format: str
    task: str  # its dotted name


class Ending(NamedTuple):
    """How a call ended: RQ's result type, the payload as RQ's result stream has it, and the value or the error."""

    kind: ResultKind
    payload: bytes
    value: Any = None
    error: BaseException | None = None
    task: str = ""  # the function that ran; "": none did
    words: str = ""  # the error in one line, for the log

    @property
    def is_retry(self) -> bool:
        return isinstance(self.value, Retry)


class Runner:
    """Run jobs as the settings allow."""

    reads: Any = Auto  # the serializer for any format that the store may hold, also one that this worker does not run
    prints = False  # True while an exception is printed: Python's code for that discards exceptions raised inside it

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._served = settings.served
        self.resolve = functools.cache(self._resolve)
        self.call: Callable[[DecodedCall], Any] = value_of  # with plugins, what calls it inside of them

    def run(
        self, data: bytes, after_call: Callable[[], None], close: Callable[[Ending], Ending] = lambda ending: ending
    ) -> Ending:
        """Run the job in ``data``: call it, encode its result or print its exception, and drop all its objects except
        the ending, as ``close`` returns it, also those that it has put into context variables. All of this runs code of
        the user's. Then call ``after_call``, in any case: after that, nothing may be interrupted. Any exception of the
        job fails it, also one that is no Exception (SystemExit, asyncio's CancelledError); only those with which we
        interrupt it (limits.OURS) are raised here."""
        early: type[BaseException] | None = None
        try:
            try:
                return copy_context().run(lambda: close(self._attempt(data)))
            except OURS as e:  # drop its traceback, which refers to the job's objects, before ``after_call``
                early = type(e)
            finally:
                after_call()
        except OURS:
            raise
        except BaseException as e:
            return raised_without_its_code(e)
        assert early is not None
        raise early

    def _attempt(self, data: bytes) -> Ending:
        task = ""
        try:
            modules = len(sys.modules)
            call = self.decode(data)
            if (
                len(sys.modules) != modules
            ):  # it has imported modules, which may have seeded the global generators, or set limits
                reseed()
                resource_limits.keep()
            after_imports.catch_up()
            task = call.task
            value = self.call(call)
            return Ending(RETURNED, b"", value, None, task) if isinstance(value, Retry) else self.returned(value, call)
        except OURS:
            raise
        except BaseException as e:
            self.prints = True
            try:
                return raised(e, task)
            except OURS:
                raise
            except BaseException as late:  # the time limit was reached while it was printed, or it cannot be printed
                return raised_without_its_code(late, task)
            finally:
                self.prints = False

    def decode(self, data: bytes) -> DecodedCall:
        """Decode a job. Raises NotServed if this worker does not serve the function or accept the format,
        DeserializationError if the data cannot be read."""
        if not data:
            raise DeserializationError(
                "The job's data is not a call in any format: there is none. Its hash has no data, or its key had "
                "another type and was moved aside."
            )
        raw = decompress(data)
        kind = format_of(raw)
        if kind not in self._settings.accept:
            raise NotServed(
                f"This job's data is {kind}, and this worker reads {', '.join(self._settings.accept)} only: "
                f"start it with --accept json,{kind} and requeue the job."
            )
        try:
            name, instance, args, kwargs = JSON.loads(raw) if kind == "json" else unpickled(raw)
        except PASSING:
            raise
        except Exception as e:
            raise DeserializationError(f"The job's data is not a call in {kind}: {e}") from e
        return self._call(name, instance, args, kwargs, kind)

    def _call(self, name: str, instance: Any, args: Any, kwargs: Any, kind: str) -> DecodedCall:
        if instance is None:
            return DecodedCall(self.resolve(name), args, kwargs, kind, name)
        home = instance if inspect.isclass(instance) else type(instance)  # a class method is bound to its class
        if not self._settings.allow_any:
            check_served(home.__module__, name, self._served)
        return DecodedCall(getattr(instance, name), args, kwargs, kind, f"{home.__module__}.{home.__qualname__}.{name}")

    def returned(self, value: Any, call: DecodedCall) -> Ending:
        """Encode the result in the format of the job's data. Raises ResultNotSerializable."""
        if value is None:
            return Ending(RETURNED, b"", None, None, call.task)
        try:
            encoded = self._encode(value, call.format)
        except PASSING:
            raise
        except Exception as e:
            name = getattr(call.function, "__name__", "The function")
            raise ResultNotSerializable(f"{name} returned a value that {call.format} cannot carry: {e}") from None
        return Ending(RETURNED, base64.b64encode(encoded), value, None, call.task)

    def _encode(self, value: Any, kind: str) -> bytes:
        return JSON.dumps(value) if kind == "json" else pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    def ending_of(self, kind: ResultKind, payload: bytes) -> Ending:
        """Return the ending again from its record; of an error, the record has only the text."""
        if kind != RETURNED or not payload:
            return Ending(kind, payload)
        return Ending(kind, payload, self.reads.loads(base64.b64decode(payload)))

    def serializer_of(self, data: bytes) -> Any:
        """Return the serializer of meta and results of the job with this data."""
        return OfJob(format_of(decompress(data)), self._settings.accept)

    def _resolve(self, name: str) -> Callable[..., Any]:
        if self._settings.allow_any or name in map(dotted, filter(is_function, self._settings.modules)):
            return checked_callable(_imported(name), name)
        check_served(name, name, self._served)
        function = checked_callable(_imported(name), name)
        home = getattr(function, "__module__", None)
        if home and (inspect.isroutine(function) or inspect.isclass(function)):
            check_served(f"{home}.", name, self._served)  # `from os import system` in a served module is not served
        return function


def value_of(call: DecodedCall) -> Any:
    """Call the function. A copy of this process that the function forked exits here."""
    try:
        value = call.function(*call.args, **call.kwargs)
        return run_coroutine(value) if inspect.iscoroutine(value) else value
    finally:
        end_copy()


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run the coroutine as ``asyncio.run`` does, but do not touch the thread's current event loop: ``asyncio.run``
    unsets it at the end, and then ``asyncio.get_event_loop`` fails in the next job that is no coroutine. A copy of this
    process that the coroutine forked exits before the loop is closed: it shares the loop's selector with the original.
    """
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as loop:
        try:
            return loop.run(coroutine)
        finally:
            end_copy()


def _imported(name: str) -> Any:
    try:
        return import_attribute(name)
    except ValueError as e:  # RQ's text names neither the module nor the usual mistake
        home, _, function = name.rpartition(".")
        if not home:
            raise ValueError(f"{e}: a function is found by its module's name and its own, module.function.") from None
        hidden = 'what is defined under `if __name__ == "__main__":` is not there for workers'
        raise ValueError(f"{e}: {home} has no {function} when a worker imports it; {hidden}.") from None


def checked_callable(found: Any, name: str) -> Callable[..., Any]:
    if not callable(found):
        raise NotServed(f"{name} is not a function.")
    function: Callable[..., Any] = found
    return function


def raised(error: BaseException, task: str = "") -> Ending:
    """Return the ending for an exception, with a traceback that begins in the user's code. Where the call itself failed
    (wrong arguments, a function in C), the last of our own frames stays: there is no other."""
    _strip(error)
    words = one_line(error)  # before the traceback: Python's code that prints it would discard a time limit's exception
    return Ending(RAISED, encode_text(printed(error)), None, error, task, words)


def raised_without_its_code(error: BaseException, task: str = "") -> Ending:
    """Return the same without running the exception's code, which may not come to an end."""
    _strip(error)
    text, words = printed_without_its_code(error), one_line_without_its_code(error)
    return Ending(RAISED, encode_text(text), None, error, task, words)


def _strip(error: BaseException) -> None:
    first = rest = traceback_of(error)
    last = None
    while rest is not None and rest.tb_frame.f_globals.get("__name__") in _OWN:
        last, rest = rest, rest.tb_next
        if rest is not None and rest.tb_frame.f_globals.get("__name__") == _PLUGINS:
            rest = _behind_plugins(rest)
    if rest is None and last is not None and last.tb_frame.f_code is value_of.__code__:
        rest = last
    if rest is not first:
        BaseException.with_traceback(error, rest)


def _behind_plugins(first: TracebackType) -> TracebackType | None:
    """Return the traceback from where the job's function was called; all of it where a plugin raised."""
    frame: TracebackType | None = first
    while frame is not None and frame.tb_frame.f_code is not value_of.__code__:
        frame = frame.tb_next
    return frame or _in_plugin(first)


def _in_plugin(first: TracebackType) -> TracebackType | None:
    frame: TracebackType | None = first
    while frame is not None and frame.tb_frame.f_globals.get("__name__") == _PLUGINS:
        frame = frame.tb_next
    return frame


def interrupted() -> Ending:
    """Return the ending of a job that a shutdown interrupted and that must not run again."""
    return Ending(RAISED, encode_text(InterruptedByShutdown(is_final=True).recorded))
