"""jobq in a Django project: queues from settings, clean database connections, `manage.py jobq`, and `django.tasks`.

    INSTALLED_APPS = [..., "jobqueue.django"]

The names of django-rq are here too: get_queue, get_queues, get_connection, get_worker, enqueue, job.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name → module, imported at the first use: this file is imported where Django is not installed, too.
_HOME = {
    "DjangoQueue": "jobqueue.django.queues",
    "enqueue": "jobqueue.django.queues",
    "get_connection": "jobqueue.django.queues",
    "get_queue": "jobqueue.django.queues",
    "get_queues": "jobqueue.django.queues",
    "get_worker": "jobqueue.django.workers",
    "job": "jobqueue.django.decorators",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jobqueue.django' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOME)
