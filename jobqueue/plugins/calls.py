"""Call the plugins of one process: each method of each plugin that overrides it, so that no plugin harms another."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from jobqueue.plugins.plugin import NewJob, Plugin, RunningJob
from jobqueue.words import one_line

log = logging.getLogger(__name__)

IN_PROCESSES = (
    *("process_start", "process_stop", "thread_start", "thread_stop"),
    *("around_job", "job_ended"),
)
METHODS = ("worker_start", "worker_stop", *IN_PROCESSES, "before_enqueue")
LONGEST = 300  # characters of an exception's text in the log


class Plugins:
    """The active plugins of this process, in the order in which they were named. Any thread may call it."""

    def __init__(self, plugins: Iterable[Plugin] = ()) -> None:
        self.all = tuple(plugins)
        self._by_method = {name: tuple(filter(partial(overrides, name=name), self.all)) for name in METHODS}
        self.with_traceback = False  # log the traceback of what a plugin raises, and not only the place
        self.passing: tuple[type[BaseException], ...] = (KeyboardInterrupt,)  # what a plugin must not keep
        self.end_copy: Callable[[], object] = lambda: None  # ends this process, if it is a copy that a plugin forked

    def with_method(self, method: str) -> tuple[Plugin, ...]:
        """Return the plugins that override this method."""
        return self._by_method[method]

    def has(self, *methods: str) -> bool:
        """Return whether any plugin overrides any of these methods."""
        return any(self._by_method[method] for method in methods)

    def call(self, method: str, *args: Any) -> None:
        """Call the method of each plugin that overrides it; those that clean up in the opposite order."""
        plugins = self._by_method[method]
        for plugin in reversed(plugins) if method.endswith("_stop") else plugins:
            self.call_one(plugin, method, *args)

    def call_one(self, plugin: Plugin, method: str, *args: Any) -> bool:
        """Call the method of one plugin; return whether it came back well. Log what it raises."""
        try:
            try:
                getattr(plugin, method)(*args)
            finally:
                self.end_copy()
            return True
        except self.passing:
            raise
        except BaseException as e:  # SystemExit too: a plugin does not end the process
            self._log(plugin, method, e, *args)
            return False

    def around(self, job: RunningJob, run: Callable[[], Any]) -> Any:
        """Run a job inside of the plugins' ``around_job``: the first plugin is the outermost."""
        call = run
        for plugin in reversed(self._by_method["around_job"]):
            call = partial(plugin.around_job, job, call)
        try:
            return call()
        finally:
            self.end_copy()

    def _log(self, plugin: Plugin, method: str, error: BaseException, *args: Any) -> None:
        of = f" of job {args[0].id}" if args and isinstance(args[0], RunningJob | NewJob) else ""
        what = f"plugin {name_of(plugin)}: {method}{of} failed"
        try:
            log.error(
                "%s: %s%s", what, described(error), _place(error), exc_info=error if self.with_traceback else None
            )
        except self.passing:
            raise
        except BaseException:  # the exception cannot be printed
            log.error("%s: %s", what, type(error).__name__)


def _place(error: BaseException) -> str:
    """Return where it was raised, in parentheses."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def overrides(plugin: Plugin, name: str) -> bool:
    """Return whether the plugin has a method of its own of this name."""
    return getattr(type(plugin), name) is not getattr(Plugin, name) or name in vars(plugin)


def name_of(plugin: Plugin) -> str:
    """Return the name by which the log calls a plugin."""
    kind = type(plugin)
    return plugin.name or f"{kind.__module__}:{kind.__qualname__}"


def described(error: BaseException) -> str:
    """Return an exception in one line."""
    text = one_line(str(error))[:LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
