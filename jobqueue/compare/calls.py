"""Call a task without a queue: by the same name and with the same values as through it, and with a clock around the
call.

This is a module of its own so that the processes of a pool find ``timed`` under its name, however they were started.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobqueue.producing import catalog

Timed = tuple[float, str | None]  # seconds, and the error that the task raised


@functools.cache
def function(name: str) -> Callable[..., Any]:
    """Import the task. Raises TaskNotFound."""
    return catalog.resolve(name)


def timed(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Timed:
    """Call the task once, as a worker would, and return its time; an error that it raises is part of the answer."""
    return looked_at(name, args, kwargs)[0]


def looked_at(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Timed, bool]:
    """Call the task once; return its time, and whether the call made a coroutine, which a decorator may have hidden."""
    began, is_coroutine, error = time.perf_counter(), False, None
    try:
        value = function(name)(*args, **kwargs)
        if is_coroutine := inspect.iscoroutine(value):
            asyncio.run(value)
    except BaseException as e:
        error = f"{type(e).__name__}: {e}"
    return (time.perf_counter() - began, error), is_coroutine
