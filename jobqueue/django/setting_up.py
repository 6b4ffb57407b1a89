"""Set up Django in a process that imports the modules of a worker, before it imports them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PATH = "JOBQ_DJANGO_PATH"  # sys.path of the manage.py that started this, as JSON


@contextmanager
def around_imports() -> Iterator[None]:
    """Set up Django as DJANGO_SETTINGS_MODULE says; close at the end the database connections that the imports have
    opened, which processes that are forked later could not share. Do nothing without Django, and where it is imported
    and has no settings, as by a library that supports it. Raises what ``django.setup()`` raises."""
    use_path_of_manage_py()
    try:
        import django
        from django.apps import apps
        from django.conf import ENVIRONMENT_VARIABLE, settings
    except ModuleNotFoundError as e:
        if e.name != "django":
            raise
        yield
        return
    if not (settings.configured or os.environ.get(ENVIRONMENT_VARIABLE)):
        yield
        return
    if not apps.ready:
        django.setup()
    try:
        yield
    finally:
        from jobqueue.django.database import close_all

        close_all()


def use_path_of_manage_py() -> None:
    """Import from where the project's manage.py imports."""
    given = json.loads(os.environ.get(PATH) or "[]")
    if given:
        sys.path[:] = [*given, *(path for path in sys.path if path not in given)]


def keep_path() -> None:
    """Have the processes that are started from here import from where this one does."""
    os.environ[PATH] = json.dumps([os.path.abspath(path) if path else os.getcwd() for path in sys.path])
