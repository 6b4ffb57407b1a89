"""Read what ``settings.py`` says of queues: ``JOBQ``, else django-rq's ``RQ_QUEUES`` and ``RQ``.

    JOBQ = {"URL": "redis://...", "QUEUES": {"default": {}, "mail": {"DEFAULT_TIMEOUT": 60}}, "MODULES": ["shop.tasks"]}

What stands beside QUEUES is the default of each queue. Settings are read at each use, so that override_settings has an
effect.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from rq.serializers import DefaultSerializer, JSONSerializer, PickleSerializer, resolve_serializer

from jobqueue.django.addresses import ADDRESS, BadAddress, url_of
from jobqueue.errors import UsageError
from jobqueue.serializers import JSON

OF_A_QUEUE = frozenset(
    {"DEFAULT_TIMEOUT", "DEFAULT_RESULT_TTL", "ASYNC", "SERIALIZER", "QUEUE_CLASS", "JOB_CLASS", "ON_COMMIT", *ADDRESS}
)
OF_ALL = frozenset({"QUEUES", "MODULES"})
TASK_MODULES = ("tasks", "jobs")  # of the installed apps, served by `manage.py jobq worker`
_COMMIT_MODES = {"on_db_commit": True, "auto": False}


class BadSettings(UsageError, ImproperlyConfigured):
    """The settings of the project are wrong."""


@dataclass(frozen=True)
class QueueSettings:
    """What the settings say of one queue. Times are seconds; None: not said."""

    name: str
    url: str | None  # None: the environment's, as without Django
    timeout: int | None = None
    result_ttl: int | None = None
    is_async: bool = True
    serializer: Any = JSON
    queue_class: Any = None
    job_class: Any = None
    on_commit: bool | str = True  # a text: the database whose commit counts


def queue_settings(name: str) -> QueueSettings:
    """Return the settings of a queue. Raises BadSettings for one that the settings do not name, and for wrong ones."""
    known = all_queues()
    if name not in known:
        raise BadSettings(f"There is no queue {name!r} in the settings: {', '.join(known)}.")
    return known[name]


def all_queues() -> dict[str, QueueSettings]:
    """Return the settings of all queues, in their order. Raises BadSettings."""
    ours = _ours()
    if "QUEUES" in ours or not getattr(settings, "RQ_QUEUES", None):
        return _of_jobq(ours)
    return _of_django_rq(settings.RQ_QUEUES, getattr(settings, "RQ", None) or {})


def format_written(serializer: Any) -> str:
    """Return what a queue with this serializer writes: json, pickle, or the dotted name of another serializer."""
    kind = resolve_serializer(serializer)
    if kind in (JSON, JSONSerializer):
        return "json"
    if kind in (DefaultSerializer, PickleSerializer):
        return "pickle"
    if not isinstance(kind, type):
        raise BadSettings(f"The serializer {serializer!r} is no class that a worker could import by its name.")
    return f"{kind.__module__}.{kind.__qualname__}"


def served_modules() -> tuple[str, ...]:
    """Return the modules that `manage.py jobq worker` serves: those of JOBQ["MODULES"], else the modules ``tasks`` and
    ``jobs`` of the installed apps. Imports none of these. Raises BadSettings."""
    named = _ours().get("MODULES")
    if named is None:
        return tuple(_modules_of_apps())
    if isinstance(named, str) or not all(isinstance(name, str) for name in named):
        raise BadSettings("JOBQ['MODULES'] is a list of modules' names, such as ['shop.tasks'].")
    return tuple(named)


def exception_handlers() -> tuple[str, ...]:
    """Return django-rq's RQ_EXCEPTION_HANDLERS, as dotted names."""
    return tuple(getattr(settings, "RQ_EXCEPTION_HANDLERS", ()))


def worker_class() -> Any:
    """Return django-rq's RQ["WORKER_CLASS"]: a class, its dotted name, or None."""
    return (getattr(settings, "RQ", None) or {}).get("WORKER_CLASS")


def _modules_of_apps() -> Iterable[str]:
    for app in apps.get_app_configs():
        for name in TASK_MODULES:
            if importlib.util.find_spec(f"{app.name}.{name}") is not None and not app.name.startswith("django."):
                yield f"{app.name}.{name}"


def _ours() -> dict[str, Any]:
    ours = getattr(settings, "JOBQ", None) or {}
    if not isinstance(ours, dict):
        raise BadSettings(f"JOBQ is a dict, not an object of type {type(ours).__name__}.")
    _check_names("JOBQ", ours, OF_ALL | OF_A_QUEUE)
    return ours


def _of_jobq(ours: dict[str, Any]) -> dict[str, QueueSettings]:
    queues = ours.get("QUEUES", ["default"])
    if not isinstance(queues, dict | list | tuple) or not queues:
        raise BadSettings("JOBQ['QUEUES'] is a dict from queues' names to their settings, or a list of names.")
    by_name = queues if isinstance(queues, dict) else {name: {} for name in queues}
    shared = {name: value for name, value in ours.items() if name not in OF_ALL}
    found = {}
    for name, own in by_name.items():
        _check_names(f"JOBQ['QUEUES'][{name!r}]", own, OF_A_QUEUE)
        address = own if not ADDRESS.isdisjoint(own) else shared
        found[name] = _queue(name, {**shared, **own}, address, f"JOBQ['QUEUES'][{name!r}]")
    return found


def _of_django_rq(queues: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, QueueSettings]:
    """Return the queues of django-rq: pickle is the default there."""
    shared = {
        "SERIALIZER": "pickle",
        "ON_COMMIT": commit_mode(common.get("COMMIT_MODE"), common.get("AUTOCOMMIT")),
        **{name: common[name] for name in ("DEFAULT_RESULT_TTL", "QUEUE_CLASS", "JOB_CLASS") if name in common},
    }
    return {name: _queue(name, {**shared, **own}, own, f"RQ_QUEUES[{name!r}]") for name, own in queues.items()}


def commit_mode(mode: str | None, autocommit: bool | None = None) -> bool:
    """Return whether jobs wait for the commit, from django-rq's COMMIT_MODE or AUTOCOMMIT. Raises BadSettings."""
    if not mode:
        mode = "on_db_commit" if autocommit is None else "auto" if autocommit else "request_finished"
    if mode not in _COMMIT_MODES:
        raise BadSettings(
            f"jobq has no commit mode {mode!r}: use on_db_commit (jobs are sent when the transaction is committed) or "
            "auto (at once)."
        )
    return _COMMIT_MODES[mode]


def _queue(name: str, options: Mapping[str, Any], address: Mapping[str, Any], place: str) -> QueueSettings:
    try:
        url = url_of(address)
    except BadAddress as e:
        raise BadSettings(f"{place}: {e}") from None
    return QueueSettings(
        name,
        url,
        options.get("DEFAULT_TIMEOUT"),
        options.get("DEFAULT_RESULT_TTL"),
        options.get("ASYNC", True),
        JSON if options.get("SERIALIZER", "json") == "json" else options["SERIALIZER"],
        options.get("QUEUE_CLASS"),
        options.get("JOB_CLASS"),
        options.get("ON_COMMIT", True),
    )


def _check_names(place: str, given: Any, known: frozenset[str]) -> None:
    if not isinstance(given, dict):
        raise BadSettings(f"{place} is a dict, not an object of type {type(given).__name__}.")
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name).upper(), known, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise BadSettings(f"{place} has no setting {name!r}.{meant} There are {', '.join(sorted(known))}.")
