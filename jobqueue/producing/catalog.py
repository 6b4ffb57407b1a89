"""Find the dotted name that a job stores for a task, and the function, to check its arguments.

A task is a function, a built-in name ("square"), "module:function", or RQ's form "module.function".
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jobqueue.errors import BadArguments, EndOfProcess, NotSerializable, TaskNotFound, UsageError
from jobqueue.producing.importing import module_of, place_of
from jobqueue.serializers import JSON

Task = str | Callable[..., Any]
_CACHED = functools._lru_cache_wrapper


def dotted_name(task: Task) -> str:
    """Return the name under which workers import the task. Raises TaskNotFound or UsageError with one sentence."""
    return _name_of_text(task) if isinstance(task, str) else _name_of_function(task)


def is_named(task: Any) -> bool:
    """Return whether workers can find it by its module and name: a function made by ``def``, one in C, or one behind
    functools.cache. Methods and other callable objects cannot be found that way."""
    return inspect.isfunction(task) or inspect.isbuiltin(task) or isinstance(task, _CACHED)


def name_or_callable(f: Any, serializer: Any) -> Any:
    """Return the task's name for a text or a function; return methods and callable objects unchanged, for RQ, which
    needs pickle for them. Raises TaskNotFound, NotSerializable, UsageError."""
    if isinstance(f, str) or is_named(f):
        return dotted_name(f)
    if not callable(f):
        raise UsageError(f"An object of type {type(f).__name__} is neither a function nor the name of one.")
    return name_for_json(f) if serializer is JSON else f


def name_for_json(task: Callable[..., Any]) -> str:
    """Return the name of a class method. Raises NotSerializable for a callable that would itself be part of the job,
    which JSON cannot carry: a partial, a method of an object, a class, any other callable object."""
    if inspect.ismethod(task) and inspect.isclass(owner := task.__self__):
        return dotted_name(f"{owner.__module__}:{owner.__qualname__}.{task.__name__}")
    if isinstance(task, functools.partial):
        raise NotSerializable("JSON cannot carry a partial: enqueue its function together with these arguments.")
    if inspect.isclass(task) or not inspect.isroutine(task):
        what = f"{task.__qualname__}, a class" if inspect.isclass(task) else f"an object of type {type(task).__name__}"
    else:
        what = f"{task.__qualname__}, a method of an object, together with that object"
    raise NotSerializable(
        f"JSON cannot carry {what}: enqueue a function of a module and give it what it needs as arguments."
    )


def _name_of_text(task: str) -> str:
    from jobqueue.tasks import BUILTIN

    if task in BUILTIN:
        return BUILTIN[task]
    module, _, function = task.partition(":") if ":" in task else task.rpartition(".")
    if ":" in task and module.endswith(".py"):
        meant = f"{module_of(module) or 'MODULE'}:{function}"
        raise TaskNotFound(f"A task is named by its module, not by a file: {meant}, not {task}.")
    if all(part.isidentifier() for part in f"{module}.{function}".split(".")):
        return f"{module}.{function}"
    near = difflib.get_close_matches(task, BUILTIN, 1)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise TaskNotFound(f"There is no task {task!r}.{meant} A task is one of {', '.join(BUILTIN)}, or module:function.")


def _name_of_function(f: Callable[..., Any]) -> str:
    name = getattr(f, "__qualname__", None)
    module = getattr(f, "__module__", None)
    if name is None or module is None:
        raise UsageError(f"{f!r} has no name by which a worker could import it.")
    if module == "__main__":
        raise UsageError(f"{name} is defined in __main__, which a worker cannot import: move it into a module.")
    if "<lambda>" in name:
        raise UsageError("A lambda has no name by which a worker could import it: use a function of a module.")
    if "<locals>" in name:
        raise UsageError(f"{name} is defined inside a function, so a worker cannot import it: move it to its module.")
    return f"{module}.{name}"


def resolve(name: str) -> Callable[..., Any]:
    """Import the function with this dotted name, also from the current directory. Raises TaskNotFound."""
    bits = name.split(".")
    for i in range(len(bits) - 1, 0, -1):
        module_name = ".".join(bits[:i])
        with _importable_from_here():
            module = _import(module_name)
        if module is not None:
            return _attribute(module, module_name, bits[i:])
    raise TaskNotFound(
        f"There is no module {bits[0]!r} that could hold the task {name!r}, in the current directory or elsewhere on "
        "Python's path."
    )


@contextlib.contextmanager
def _importable_from_here() -> Iterator[None]:
    """Inside, import as a worker would that is started in this directory; what the module prints goes to stderr."""
    here, before, limit = os.getcwd(), list(sys.path), sys.getrecursionlimit()
    sys.path.insert(0, here)
    try:
        with contextlib.redirect_stdout(sys.stderr), _without_leaving():
            yield
    finally:  # this process goes on, so undo what the module may have changed in it
        sys.setrecursionlimit(max(limit, sys.getrecursionlimit()))
        if here in sys.path:
            sys.path.remove(here)  # else a later import could take a redis.py of the user for the package
        sys.path += [path for path in before if path not in sys.path]


@contextlib.contextmanager
def _without_leaving() -> Iterator[None]:
    """Inside, make os._exit an error in this process and thread: it would end the command silently, with exit code
    0."""
    leave, ours = os._exit, (os.getpid(), threading.get_ident())
    is_inside = True

    def refuse(status: int) -> Any:
        if is_inside and (os.getpid(), threading.get_ident()) == ours:
            raise SystemExit(status)
        leave(status)

    os._exit = refuse
    try:
        yield
    finally:
        is_inside = False
        if os._exit is refuse:
            os._exit = leave


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        if e.name is not None and (module_name == e.name or module_name.startswith(f"{e.name}.")):
            return None
        raise TaskNotFound(f"The module {module_name!r} cannot be imported: {e}.") from None
    except (KeyboardInterrupt, EndOfProcess):
        raise
    except BaseException as e:
        said = "".join(traceback.format_exception_only(e)).strip().splitlines()[-1]  # works even when its __str__ fails
        place = place_of(e, (__file__,))
        where = f" ({place})" if place else ""
        raise TaskNotFound(f"The module {module_name!r} cannot be imported: {said.rstrip('.')}{where}.") from None


def _attribute(module: Any, module_name: str, bits: Sequence[str]) -> Callable[..., Any]:
    found = module
    for bit in bits:
        if not hasattr(found, bit):
            raise TaskNotFound(f"The module {module_name!r} has no function {'.'.join(bits)!r}.")
        found = getattr(found, bit)
    if not callable(found):
        raise TaskNotFound(f"{module_name}:{'.'.join(bits)} is not a function.")
    return found  # type: ignore[no-any-return]


class ArgumentCheck:
    """Checks the arguments of many calls of one function; a function whose signature Python cannot read accepts all."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        while isinstance(function, _CACHED):  # functools.cache passes the arguments on unchanged
            function = function.__wrapped__
        try:  # a wrapper made by functools.wraps may add or drop arguments: its own signature counts
            self._signature: inspect.Signature | None = inspect.signature(function, follow_wrapped=False)
        except (TypeError, ValueError):
            self._signature = None

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise BadArguments unless the function takes these arguments."""
        if self._signature is None:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as e:
            raise BadArguments(f"{self.name}{self._signature} does not take these arguments: {e}.") from None
