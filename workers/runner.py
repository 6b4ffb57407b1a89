"""Runs one job: decode, find the function, call it, encode what it returned. Knows neither Redis nor slots."""

from __future__ import annotations

import asyncio
import base64
import functools
import importlib
import inspect
import pickle
import re
import sys
import traceback
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from rq.exceptions import DeserializationError
from rq.job import Retry
from rq.utils import import_attribute

from jobqueue.errors import NotServed, ResultNotSerializable
from jobqueue.protocol import RAISED, RETURNED
from jobqueue.serializers import JSON, Auto, decompress, format_of
from workers.settings import Settings


class Call(NamedTuple):
    """What a job asks for, decoded."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    format: str


class Ending(NamedTuple):
    """How a call ended: RQ's result type, the payload as RQ's result stream has it, and the value or the error."""

    kind: int
    payload: bytes
    value: Any = None
    error: BaseException | None = None

    @property
    def is_retry(self) -> bool:
        return isinstance(self.value, Retry)


class Runner:
    """Runs jobs as the settings allow."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._served = settings.served
        self.resolve = functools.cache(self._resolve)

    def run(self, data: bytes, guard: Callable[[], None]) -> Ending:
        """Run the job in ``data``. ``guard`` is called when the call is over, whatever its end: nothing may be
        interrupted after it. An exception that is no Exception (Interrupted, SystemExit by the job) passes through,
        but for SystemExit and KeyboardInterrupt, which a job may raise and which fail only the job."""
        try:
            try:
                call = self.decode(data)
                value = call.function(*call.args, **call.kwargs)
                if inspect.iscoroutine(value):
                    value = asyncio.run(value)
            finally:
                guard()
            return Ending(RETURNED, b"", value) if isinstance(value, Retry) else returned(value, call)
        except (Exception, SystemExit, KeyboardInterrupt) as e:
            return raised(e)

    def decode(self, data: bytes) -> Call:
        """Decode a job. Raises NotServed for what this worker was not told to run, DeserializationError for junk."""
        raw = decompress(data)
        kind = format_of(raw)
        if kind not in self._settings.accept:
            raise NotServed(
                f"This job's data is {kind}, and this worker reads {', '.join(self._settings.accept)} only: "
                f"start it with --accept json,{kind} and requeue the job."
            )
        try:
            name, instance, args, kwargs = JSON.loads(raw) if kind == "json" else pickle.loads(raw)
        except Exception as e:
            raise DeserializationError(f"The job's data is not a call in {kind}: {e}") from e
        if instance is None:
            return Call(self.resolve(name), args, kwargs, kind)
        if not self._settings.allow_any:
            check_served(type(instance).__module__, name, self._served)
        return Call(getattr(instance, name), args, kwargs, kind)

    def _resolve(self, name: str) -> Callable[..., Any]:
        if self._settings.allow_any:
            return _callable(import_attribute(name), name)
        check_served(name, name, self._served)
        function = _callable(import_attribute(name), name)
        home = getattr(function, "__module__", None)
        if home and (inspect.isroutine(function) or inspect.isclass(function)):
            check_served(f"{home}.", name, self._served)  # `from os import system` in a served module is not served
        return function


def check_served(path: str, name: str, served: tuple[str, ...]) -> None:
    """Raise NotServed unless ``path`` lies in one of the served modules."""
    if not any(path == module or path.startswith(f"{module}.") for module in served):
        home = path.rstrip(".") if path.endswith(".") else path.rpartition(".")[0] or path
        raise NotServed(
            f"This worker does not serve {name}: start it with -I {home} (or --allow-any) and requeue the job."
        )


def _callable(found: Any, name: str) -> Callable[..., Any]:
    if not callable(found):
        raise NotServed(f"{name} is not a function.")
    function: Callable[..., Any] = found
    return function


def returned(value: Any, call: Call) -> Ending:
    """Encode what a function returned, in the format of its job's data."""
    if value is None:
        return Ending(RETURNED, b"", None)
    try:
        encoded = JSON.dumps(value) if call.format == "json" else pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as e:
        name = getattr(call.function, "__name__", "The function")
        raise ResultNotSerializable(f"{name} returned a value that {call.format} cannot carry: {e}") from None
    return Ending(RETURNED, base64.b64encode(encoded), value)


def raised(error: BaseException) -> Ending:
    """The traceback is as the user's code made it: without our own frames at its top."""
    while error.__traceback__ is not None and error.__traceback__.tb_frame.f_globals.get("__name__") == __name__:
        error.__traceback__ = error.__traceback__.tb_next
    return Ending(RAISED, encode_text("".join(traceback.format_exception(error))), None, error)


def ending_of(kind: int, payload: bytes) -> Ending:
    """The ending that a record was made from; of an error only the text is left."""
    if kind != RETURNED or not payload:
        return Ending(kind, payload)
    return Ending(kind, payload, Auto.loads(base64.b64decode(payload)))  # our own record: we wrote this pickle


def decode_text(payload: bytes) -> str:
    return zlib.decompress(base64.b64decode(payload)).decode()


def encode_text(text: str) -> bytes:
    """As RQ's Result.serialize writes exc_string."""
    return base64.b64encode(zlib.compress(text.encode("utf-8", "backslashreplace")))


def preload(modules: tuple[str, ...]) -> None:
    """Import the served modules; what they raise passes through."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    for name in modules:
        if name.endswith(".py"):
            raise ImportError(f"-I takes a module's name: {name[:-3].replace('/', '.')}, not {name}")
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise ImportError(f"{name!r} is not a module's name: -I takes a dotted name such as shop.tasks, not a file")
        importlib.import_module(name)


SHUTDOWN = "ShutdownInterrupt: The worker shut down while this job ran."
STOPPED = "Job stopped by user, work-horse terminated."  # RQ's own words
CANNOT_BE_INTERRUPTED = "It did not react: the thread that ran it was written off."


def interrupted() -> Ending:
    return Ending(RAISED, encode_text(f"{SHUTDOWN} --on-crash fail forbids a second run."))
