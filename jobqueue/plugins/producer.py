"""Call ``before_enqueue`` in a process that submits jobs.

Queue(plugins=[...])   these and no others; [] for none
Queue()                those of JOBQ_PLUGINS and of installed packages, loaded once per process at the first enqueue,
                       and those that ship with jobq, once their library is imported
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from jobqueue.plugins.calls import Plugins, described, name_of
from jobqueue.plugins.finding import BUILT_IN, BUILT_IN_SOURCE, PluginChoice, active, find_plugins, load_plugin
from jobqueue.plugins.plugin import NewJob, Plugin

log = logging.getLogger(__name__)


class ProducerPlugins:
    """The plugins of one queue. Any thread may call it."""

    def __init__(self, given: Sequence[str | Plugin] | None) -> None:
        """given: the plugins to use; None: those of the process. Nothing is loaded before the first call."""
        self._given = given
        self._signs: tuple[bool, ...] = ()
        self._plugins: Plugins | None = None

    def listening(self) -> Plugins | None:
        """Return the plugins that override before_enqueue; None if there are none. Raises UsageError for one that was
        asked for and cannot be loaded."""
        if self._given is not None:
            if self._plugins is None:
                self._plugins = Plugins([load_plugin(target) for target in self._given])
        else:
            signs = tuple([built_in.is_imported for built_in in BUILT_IN])
            if self._plugins is None or signs != self._signs:
                built_in = [load_plugin(it.target) for it, sign in zip(BUILT_IN, signs, strict=True) if sign]
                self._plugins, self._signs = Plugins([*_of_process(), *built_in]), signs
        return self._plugins if self._plugins.has("before_enqueue") else None


def announce(plugins: Plugins, jobs: Iterable[NewJob], taken: Mapping[str, Any]) -> dict[str, bytes]:
    """Call before_enqueue for each of the jobs that one request sends; return the fields that plugins add. Fields whose
    names are ``taken`` stay as they are."""
    added: dict[str, bytes] = {}
    for job in jobs:
        for plugin in plugins.with_method("before_enqueue"):
            plugins.call_one(plugin, "before_enqueue", job)
            _check_fields(plugin, job)
        added |= job.fields
    return {name: value for name, value in added.items() if name not in taken and name not in OF_RQ}


def _check_fields(plugin: Plugin, job: NewJob) -> None:
    """Make bytes of the fields that a plugin has added; leave out those that cannot be sent, and log them by the
    plugin's name."""
    fields = getattr(job, "fields", None)
    if not isinstance(fields, dict):
        log.error("plugin %s: before_enqueue left no dict in job.fields: what is there is not sent", name_of(plugin))
        job.fields = {}
        return
    for name, value in list(fields.items()):
        if isinstance(value, bytes) and isinstance(name, str) and name.isascii():  # as a rule: seen before
            continue
        del fields[name]
        try:
            if not isinstance(name, str):
                raise TypeError(f"its name is a {type(name).__name__}, not a str")
            name.encode()
            fields[name] = str(value).encode()
        except Exception as e:
            log.error("plugin %s: before_enqueue: a field of the job is not sent: %s", name_of(plugin), described(e))


# The fields of RQ's jobs that each has of its own.
OF_RQ = frozenset({"data", "description", "created_at", "enqueued_at", "status", "origin"})


@cache
def _of_process() -> list[Plugin]:
    """Return the plugins of JOBQ_PLUGINS and of packages. Those that ship with jobq look at each enqueue whether their
    library is set up."""
    return active(it for it in find_plugins(PluginChoice()) if it.source != BUILT_IN_SOURCE)
