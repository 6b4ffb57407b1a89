"""Find and load plugins: those that were asked for, those of installed packages, those that ship with jobq.

    --plugin, JOBQ_PLUGINS, Queue(plugins=...)   asked for: what cannot be loaded is an error
    entry points jobq.plugins                    of installed packages: what cannot be loaded is logged and left out
    built in (sentry, ...)                       when their library is there and set up

``--no-plugin NAME`` leaves one out; ``--no-plugin all`` leaves out all that were not asked for.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jobqueue.errors import UsageError
from jobqueue.plugins.calls import METHODS, described, name_of, overrides
from jobqueue.plugins.plugin import Plugin, WorkerInfo

log = logging.getLogger(__name__)

GROUP = "jobq.plugins"  # of entry points
ALL = "all"
BUILT_IN_SOURCE = "built in"
ASKED_FOR = ("--plugin", "JOBQ_PLUGINS")


class CannotLoad(UsageError):
    """A plugin that was asked for cannot be loaded, or is none."""


@dataclass(frozen=True)
class BuiltIn:
    """A plugin that ships with jobq. It is imported only where a module of these is imported already, a variable of
    these is set in the environment, or its flag is given."""

    name: str
    target: str
    modules: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    flag: str = ""  # of jobq worker, which sets the field of this name in WorkerInfo
    around_imports: str = ""  # module:function, a context manager in which a worker imports the modules that it serves

    @property
    def is_imported(self) -> bool:
        """Whether a module of its library is imported already."""
        return not sys.modules.keys().isdisjoint(self.modules)  # quick: producers ask this at each enqueue

    def why_not_looked_at(self, worker: WorkerInfo | None) -> str:
        """Return why it is not even imported; "" if it is."""
        if self.flag:
            return "" if getattr(worker, self.flag, 0) else f"--{self.flag} is not given"
        if self.is_imported or any(map(os.environ.get, self.variables)):
            return ""
        signs = [f"{name} is not imported" for name in self.modules] + [f"{name} is not set" for name in self.variables]
        return ", ".join(signs)


BUILT_IN: tuple[BuiltIn, ...] = (
    BuiltIn("capture", "jobqueue.plugins.capture:CapturePlugin", flag="capture"),
    BuiltIn(
        "django",
        "jobqueue.django.plugin:DjangoPlugin",
        ("django",),
        ("DJANGO_SETTINGS_MODULE",),
        around_imports="jobqueue.django.setting_up:around_imports",
    ),
    BuiltIn("opentelemetry", "jobqueue.plugins.opentelemetry:OpenTelemetryPlugin", ("opentelemetry",)),
    BuiltIn("sentry", "jobqueue.plugins.sentry:SentryPlugin", ("sentry_sdk",), ("SENTRY_DSN",)),
)


@dataclass(frozen=True)
class PluginChoice:
    """Which plugins a process is to use: targets that were asked for, names that are to be left out."""

    asked_for: tuple[str | Plugin, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A plugin that was found: who named it, the plugin if it was loaded, and why it is inactive ("": it is active)."""

    name: str
    source: str
    target: str
    plugin: Plugin | None
    why_inactive: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it overrides."""
        plugin = self.plugin
        return () if plugin is None else tuple(name for name in METHODS if overrides(plugin, name))


def from_environment() -> tuple[str, ...]:
    """Return the targets in JOBQ_PLUGINS, which are separated by commas."""
    return tuple(filter(None, map(str.strip, os.environ.get("JOBQ_PLUGINS", "").split(","))))


def find_plugins(
    wanted: PluginChoice, worker: WorkerInfo | None = None, on_import: Callable[[str], object] = lambda name: None
) -> list[Found]:
    """Load all plugins that this process may use, active or not. ``on_import`` is called with each target before its
    import. Raises what the import of a plugin that was asked for raises, and CannotLoad."""
    found: list[Found] = []
    for source, target in _asked_for(wanted):
        name = target if isinstance(target, str) else name_of(target)
        if any(name == other.target for other in found):
            continue
        on_import(name)
        found.append(_checked(load_plugin(target, source), name, source, worker))
    for name, target in entry_points():
        why = why_left_out(name, target, wanted)
        found.append(_of_package(name, target, why, worker, on_import))
    for built_in in BUILT_IN:
        if not any(_is_a(other, built_in) for other in found):
            found.append(_built_in(built_in, wanted, worker))
    return found


def _is_a(found: Found, built_in: BuiltIn) -> bool:
    """Return whether this plugin takes the place of a built-in one: it is that, or derives from its class."""
    names = {f"{cls.__module__}:{cls.__qualname__}" for cls in type(found.plugin).__mro__}
    return built_in.target in names or built_in.name == found.target


def active(found: Iterable[Found]) -> list[Plugin]:
    """Return those that are active."""
    return [it.plugin for it in found if it.plugin is not None and not it.why_inactive]


def load_plugin(target: str | Plugin, source: str = "plugins=") -> Plugin:
    """Return the plugin that ``module:name`` names: a class, which is called without arguments, or an object. Raises
    CannotLoad, and what the import raises."""
    if isinstance(target, Plugin):
        return target
    names = {built_in.name: built_in.target for built_in in BUILT_IN}
    module, _, attribute = names.get(target, target).partition(":") if isinstance(target, str) else ("", "", "")
    if not module or not attribute:
        raise CannotLoad(f"{source} {target!r}: a plugin is named as module:Class{_or_built_in()}.")
    found: Any = _imported(module, f"{source} {target}")
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise CannotLoad(f"{source} {target}: {module} has no {attribute}.")
        found = getattr(found, part)
    plugin = found() if inspect.isclass(found) and issubclass(found, Plugin) else found
    if not isinstance(plugin, Plugin):
        raise CannotLoad(f"{source} {target}: it is no subclass of jobqueue.plugins.Plugin, and no object of one.")
    return plugin


def _imported(module: str, given: str) -> Any:
    here = os.getcwd()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        if not _is_missing(e, module):
            raise
    was_there = not {"", here}.isdisjoint(sys.path)
    if not was_there:  # `jobq submit`, the supervisor: last, as the user's modules must not stand in Python's own way
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        if not was_there:
            sys.path.remove(here)
        if not _is_missing(e, module):
            raise
        raise CannotLoad(f"{given}: there is no module {module} that can be imported from here.") from None


def _is_missing(error: ModuleNotFoundError, module: str) -> bool:
    """Return whether the module itself, or a package that it is in, was not found."""
    return error.name is not None and f"{module}.".startswith(f"{error.name}.")


def entry_points() -> Iterator[tuple[str, str]]:
    """Iterate over the names and targets that installed packages have registered."""
    from importlib.metadata import entry_points as registered  # a slow import, which producers without jobs do not need

    for point in registered(group=GROUP):
        yield point.name, point.value


def _or_built_in() -> str:
    return f", or {', '.join(built_in.name for built_in in BUILT_IN)}" if BUILT_IN else ""


def _asked_for(wanted: PluginChoice) -> Iterator[tuple[str, str | Plugin]]:
    for target in wanted.asked_for:
        yield "--plugin", target
    for name in from_environment():
        yield "JOBQ_PLUGINS", name


def why_left_out(name: str, target: str, wanted: PluginChoice) -> str:
    """Return the flag that leaves this plugin out; "" if none does."""
    for flag in wanted.left_out:
        if flag in (name, target, ALL):
            return f"--no-plugin {flag}"
    return ""


def _of_package(
    name: str, target: str, why: str, worker: WorkerInfo | None, on_import: Callable[[str], object]
) -> Found:
    source = f"entry point {name}"
    if why:
        return Found(name, source, target, None, why)
    try:
        on_import(target)
        return _checked(load_plugin(target, source), name, source, worker, target)
    except Exception as e:  # an installed package must keep no worker from starting
        log.error("plugin %s: it cannot be loaded and is left out: %s", name, described(e))
        return Found(name, source, target, None, f"it cannot be loaded: {described(e)}")


def _built_in(built_in: BuiltIn, wanted: PluginChoice, worker: WorkerInfo | None) -> Found:
    name, target = built_in.name, built_in.target
    if why := why_left_out(name, target, wanted) or built_in.why_not_looked_at(worker):
        return Found(name, BUILT_IN_SOURCE, target, None, why)
    return _checked(load_plugin(target, BUILT_IN_SOURCE), name, BUILT_IN_SOURCE, worker, target)


def _checked(plugin: Plugin, name: str, source: str, worker: WorkerInfo | None, target: str = "") -> Found:
    """Ask the plugin whether it is active."""
    plugin.name = plugin.name or name
    plugin.is_asked_for = source in ASKED_FOR
    plugin.worker = worker
    try:
        why = plugin.why_inactive()
    except Exception as e:
        log.error("plugin %s: why_inactive failed, so it is left out: %s", name, described(e))
        why = f"why_inactive failed: {described(e)}"
    return Found(plugin.name, source, target or name, plugin, why)


def wanted_by(plugins: Sequence[str | Plugin] | None) -> PluginChoice:
    """Return what ``Queue(plugins=...)`` asks for; None: nothing in particular."""
    return PluginChoice(tuple(plugins)) if plugins is not None else PluginChoice()
