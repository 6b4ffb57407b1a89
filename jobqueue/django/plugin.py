"""The plugin that takes care of Django's database connections around each job. It imports Django only where it is
active."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from jobqueue.clock import monotonic
from jobqueue.plugins import Plugin, RunningJob


class DjangoPlugin(Plugin):
    """Active where Django is installed and its settings are known. Without it, a connection that the database has
    closed while the worker was idle would fail the next job."""

    name = "django"

    def __init__(self) -> None:
        self._thread = threading.local()  # ended: when this thread's last job ended
        self._lock = threading.Lock()
        self._running = 0  # jobs in this process

    def why_inactive(self) -> str:
        try:
            from django.conf import settings
            from django.core.exceptions import ImproperlyConfigured
        except ImportError:
            return "Django is not installed"
        try:
            settings.DATABASES  # noqa: B018  this imports the settings
        except ImproperlyConfigured:
            return "Django's settings are not known: DJANGO_SETTINGS_MODULE is not set"
        return ""

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        from jobqueue.django import database

        alone = self._count(1) == 1
        try:
            idle = monotonic() - getattr(self._thread, "ended", monotonic())
            database.make_ready(idle)
            self._in_async_thread(alone, database.make_ready, idle)
            before = database.in_transaction()
            try:
                return call_next()
            finally:
                database.put_away(before)
        finally:
            alone = self._count(-1) == 0
            self._in_async_thread(alone, database.put_away, frozenset())
            self._thread.ended = monotonic()

    def thread_stop(self) -> None:
        from jobqueue.django import database

        database.close_all()

    def _count(self, change: int) -> int:
        with self._lock:
            self._running += change
            return self._running

    def _in_async_thread(self, alone: bool, call: Callable[..., object], *args: Any) -> None:
        """Do it in the thread in which Django's database code runs for coroutines too, if there is one. It is one for
        the whole process, so leave it while other jobs run; what is submitted there is done in order."""
        from asgiref.sync import SyncToAsync

        executor = getattr(SyncToAsync, "single_thread_executor", None)
        if alone and getattr(executor, "_threads", None):
            executor.submit(call, *args)  # type: ignore[union-attr]
