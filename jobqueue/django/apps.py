"""The Django app: its label, and its check of the settings."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, register

from jobqueue.django.settings import BadSettings, all_queues, served_modules


class JobqConfig(AppConfig):
    """Named by ``INSTALLED_APPS = ["jobqueue.django"]``."""

    name = "jobqueue.django"
    label = "jobq"
    verbose_name = "jobq"

    def ready(self) -> None:
        register(check_settings)


def check_settings(**_options: Any) -> list[CheckMessage]:
    """Read all of jobq's settings, for `manage.py check`. Connects to nothing."""
    try:
        all_queues()
        served_modules()
    except BadSettings as e:
        return [Error(str(e), id="jobq.E001")]
    return []
