"""Find what a job stores for a function, and what an own worker has to serve in order to run it.

A worker imports functions, so it must find this one under its module and name. A script's own functions are in
``__main__``: a worker imports the script as a module, from its directory.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import inspect
import os
import site
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jobqueue.errors import TaskNotFound, UsageError
from jobqueue.producing import catalog
from jobqueue.producing.importing import why_not_imported
from jobqueue.tasks import BUILTIN

MAIN = "__main__"
BUILTIN_TASKS = "jobqueue.tasks"


class Reference(NamedTuple):
    """A task by name: what a job stores, and the least that a worker has to serve for it ("" for built-in tasks)."""

    name: str
    serves: str


def refer(task: str | Callable[..., Any]) -> Reference:
    """Return how a worker finds the task. Raises UsageError, TaskNotFound with one sentence that says what to do."""
    if isinstance(task, str):
        return _of_text(task)
    if not callable(task):
        raise UsageError(f"{task!r} is not a function, nor the name of one.")
    module, qualname = _place(task)
    found = _found(module, qualname)
    if found is not task and not (inspect.ismethod(task) and found == task):
        raise UsageError(
            f"{module}.{qualname} is not this function: a worker would import another. Is it decorated or replaced?"
        )
    if module == MAIN:
        module = main_module(qualname)
    return Reference(f"{module}.{qualname}", _least(module, qualname))


def _of_text(task: str) -> Reference:
    name = catalog.dotted_name(task)
    if task in BUILTIN:
        return Reference(name, "")
    if ":" in task:
        module, _, qualname = task.partition(":")
    else:
        module, _, qualname = name.rpartition(".")
    return Reference(name, _least(module, qualname))


def _place(task: Callable[..., Any]) -> tuple[str, str]:
    """Return the module and the name of a function. Raises UsageError for one that cannot be imported."""
    if isinstance(task, functools.partial):
        raise UsageError("A partial has no name by which a worker could import it: submit its function and arguments.")
    owner = getattr(task, "__self__", None)
    if owner is not None and not inspect.isclass(owner) and not inspect.ismodule(owner):
        raise UsageError(
            f"{getattr(task, '__qualname__', task)} is a method of an object, and a worker has no such object: "
            "submit a function of a module and give it what it needs as arguments."
        )
    if not (inspect.isroutine(task) or inspect.isclass(task)):
        raise UsageError(f"An object of type {type(task).__name__} has no name by which a worker could import it.")
    if getattr(task, "__module__", None) != MAIN:
        catalog.dotted_name(task)  # raises for lambdas and inner functions
    elif "<" in task.__qualname__:
        what = "A lambda" if "<lambda>" in task.__qualname__ else f"{task.__name__}, which is inside a function,"
        raise UsageError(f"{what} has no name by which a worker could import it: use a function of a module.")
    return task.__module__, task.__qualname__


def _found(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for bit in qualname.split("."):
        found = getattr(found, bit, None)
    return found


def main_module(qualname: str = "it") -> str:
    """Return the name by which others can import this program's script. Raises UsageError if it has none."""
    name = main_module_name()
    if name is None:
        raise UsageError(
            f"{qualname} is defined in __main__, and this is not a script that a worker could import (an interactive "
            "session, or a file whose name is not a module name): move it into a module."
        )
    return name


def main_module_name() -> str | None:
    main = sys.modules.get(MAIN)
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m; of a directory or an archive only __main__ can be imported
        return None if spec.name == MAIN else str(spec.name)
    file = getattr(main, "__file__", None)
    stem = Path(file).stem if file else ""
    return stem if stem.isidentifier() and str(file).endswith(".py") else None


# -- what has to be served, and where it is found -------------------------------------------------------------------


def _least(module: str, qualname: str) -> str:
    """Return what to serve for a function. A module of the caller's own is served whole, as with -I, because its
    functions are meant to be run. Of other modules (the standard library, installed packages) only this function is:
    ``os.getpid`` must not bring ``os.system``."""
    if module == BUILTIN_TASKS or module.startswith(f"{BUILTIN_TASKS}."):
        return ""
    return f"{module}:{qualname}" if _is_foreign(module) else module


def _is_foreign(module: str) -> bool:
    if module.partition(".")[0] in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and any(Path(file).is_relative_to(root) for root in installed())


@functools.cache
def installed() -> tuple[Path, ...]:
    """Return the directories of the standard library and of installed packages."""
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(Path(path) for path in {*found, *site.getsitepackages(), site.getusersitepackages()})


def check_served(serves: str) -> None:
    """Raise TaskNotFound for what a worker with this program's search path could not import: a worker that was told to
    serve it would not start. A module that this program has not imported is tried in another process."""
    module, _, function = serves.partition(":")
    if module not in sys.modules and module != main_module_name():
        if not _there(module):
            raise TaskNotFound(f"There is no module {module!r}.")
        if why := why_not_imported([serves], env={**os.environ, "PYTHONPATH": search_path()}, quiet=True):
            raise TaskNotFound(f"{serves} cannot be imported: {why}.")
    elif function and module in sys.modules and not callable(_found(module, function)):
        raise TaskNotFound(f"The module {module!r} has no function {function!r}.")


def _there(name: str) -> bool:
    top = name.partition(".")[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        return importlib.machinery.PathFinder.find_spec(top, [os.getcwd()]) is not None
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a parent package does not exist, or is not a package
        return False
    except Exception:  # a parent package that cannot be imported: the worker's message says why
        return True


def search_path() -> str:
    """Return the PYTHONPATH by which a worker finds the modules that this program finds."""
    own = [os.path.abspath(path) for path in sys.path]
    own = [path for path in own if os.path.isdir(path) and not any(Path(path).is_relative_to(i) for i in installed())]
    return os.pathsep.join(dict.fromkeys([*own, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
