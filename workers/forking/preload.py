"""Import the modules that a worker serves, once, before the first job, in the process from which children are forked,
and make what children share."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rq.job import Job
from rq.queue import Queue
from rq.serializers import resolve_serializer
from rq.utils import import_attribute

from jobqueue.errors import NotServed
from jobqueue.plugins.finding import CannotLoad, Found, PluginChoice, find_plugins
from jobqueue.plugins.plugin import WorkerInfo
from jobqueue.plugins.preparing import around_imports
from jobqueue.producing.importing import module_of
from jobqueue.protocol.lua import packed_head
from jobqueue.store.connection import Address
from jobqueue.workers.child.child import Clients, clients_of
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.limits import PASSING
from jobqueue.workers.running.monkey_patches import why_no_worker
from jobqueue.workers.running.resource_limits import resource_limits
from jobqueue.workers.running.runner import checked_callable
from jobqueue.workers.shared.copies import end_copy_of
from jobqueue.workers.shared.logs import protect_logging
from jobqueue.workers.shared.messages import FromChild, ToChild, know
from jobqueue.workers.shared.served import dotted
from jobqueue.workers.shared.settings import Settings

_MODULE = re.compile(r"{0}(:{0})?".format(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"))
CHILDS_SCRIPTS = ("cycle", "start_mark", "give_back", "reconcile")
_BASES = {"--job-class": Job, "--queue-class": Queue}


def preload(
    modules: tuple[str, ...],
    handlers: tuple[str, ...] = (),
    classes: Mapping[str, str] | None = None,
    plugins: PluginChoice | None = None,
    worker: WorkerInfo | None = None,
    on_import: Callable[[str], object] = lambda name: None,
) -> list[Found]:
    """Import the served modules, the exception handlers, the worker's own classes (``classes``: by flag) and then the
    plugins; return the plugins, active or not. ``plugins`` None: none at all.

    Raises whatever the modules raise, and ImportError with the flag that is wrong. Each job begins with the context
    (PEP 567) as it is afterwards. A copy of this process that a module forks exits here. ``on_import`` is called with
    the name of each module before its import.
    """
    original = os.getpid()
    if "" not in sys.path:
        sys.path.insert(0, "")
    resource_limits.watch()
    try:
        with around_imports(plugins, on_import):
            _import(modules, handlers, classes or {}, on_import)
        found = _plugins(plugins, worker, on_import) if plugins is not None else []
        after_imports.capture()
        resource_limits.keep()
        return found
    finally:
        end_copy_of(original)


def import_all(settings: Settings, on_import: Callable[[str], object] = lambda name: None) -> list[Found]:
    """Import all that these settings name; return the plugins. Raises what ``preload`` raises."""
    return preload(
        settings.modules,
        settings.exception_handlers,
        settings.own_classes,
        settings.wanted_plugins,
        settings.worker_info,
        on_import,
    )


def _import(
    modules: tuple[str, ...],
    handlers: tuple[str, ...],
    classes: Mapping[str, str],
    on_import: Callable[[str], object],
) -> None:
    for name in modules:
        if name.endswith(".py"):
            raise ImportError(_of_a_file(name))
        if not _MODULE.fullmatch(name):
            raise ImportError(f"{name!r} is not a module's name: -I takes a dotted name such as shop.tasks, not a file")
        module, _, function = name.partition(":")
        on_import(module)
        _import_module(module, name)
        _check_what_it_left(module)
        if function:
            try:
                checked_callable(import_attribute(dotted(name)), name)
            except (ValueError, NotServed) as e:  # RQ's text names neither the module nor the flag
                raise ImportError(f"-I {name}: {module} has no function {function}") from e
    for name in handlers:
        on_import(name)
        try:
            checked_callable(import_attribute(name), name)
        except (ValueError, NotServed) as e:  # RQ's text is "Invalid attribute name" also for a module that is missing
            raise ImportError(f"--exception-handler {name}: {e}") from e
        _check_what_it_left(name)
    for flag, name in classes.items():
        on_import(name)
        _check_class(flag, name)
        _check_what_it_left(name)


def _plugins(wanted: PluginChoice, worker: WorkerInfo | None, on_import: Callable[[str], object]) -> list[Found]:
    try:
        found = find_plugins(wanted, worker, on_import)
    except CannotLoad as e:
        raise ImportError(str(e)) from e
    _check_what_it_left("a plugin")
    return found


def _check_what_it_left(name: str) -> None:
    if why := why_no_worker(name):
        raise ImportError(why)


def _of_a_file(path: str) -> str:
    if name := module_of(path):
        return f"-I takes a module's name: {name}, not {path}"
    return f"-I takes the name of a module that can be imported from here, not a file: start in the directory of {path}"


def make_shared(address: Address) -> Clients:
    """Make here what each child would make for itself, so that children share its memory: the scripts, our loggers,
    the types of messages, and the clients, which are returned. It connects to nothing."""
    protect_logging(PASSING)
    know(ToChild, FromChild)
    for script in CHILDS_SCRIPTS:
        packed_head(script, by_digest=True)
    return clients_of(address)


def _import_module(module: str, given: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as e:
        parent, _, last = module.rpartition(".")
        if e.name == module and hasattr(sys.modules.get(parent), last):  # RQ's way to name a function
            raise ImportError(f"-I {given}: {parent} is a module and {last} is in it: give -I {parent}:{last}") from e
        raise


def _check_class(flag: str, name: str) -> None:
    try:
        found: Any = import_attribute(name)
    except ValueError as e:
        raise ImportError(f"{flag} {name}: {e}") from e
    if flag == "--serializer":
        try:
            resolve_serializer(found)
        except NotImplementedError:
            raise ImportError(f"{flag} {name}: a serializer has the functions dumps and loads") from None
        return
    base = _BASES[flag]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ImportError(f"{flag} {name}: it is no subclass of {base.__module__}.{base.__qualname__}")
    from jobqueue.workers.rq_finish.overrides import what_overrides  # few workers need it

    if what := what_overrides(found):
        instead = f"rq worker --worker-class jobqueue.rq.Worker {flag} {name}"
        raise ImportError(f"{flag} {name}: {what} is overridden, which jobq's engine would not call; use {instead}")
