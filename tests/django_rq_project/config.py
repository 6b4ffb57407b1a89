"""A project on django-rq, written after its README."""

import os

SECRET_KEY = "for tests"
ROOT_URLCONF = "polls.urls"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django_rq", "polls"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SHOP_FILE"]}}

RQ_QUEUES = {
    "default": {"URL": os.environ["SHOP_STORE"], "DB": 0, "DEFAULT_TIMEOUT": 360, "DEFAULT_RESULT_TTL": 800},
    "high": {"UNIX_SOCKET_PATH": os.environ["SHOP_STORE"].removeprefix("unix://"), "DB": 0, "DEFAULT_TIMEOUT": 500},
    "low": {"URL": os.environ["SHOP_STORE"]},
}
RQ = {"DEFAULT_RESULT_TTL": 5000}
RQ_EXCEPTION_HANDLERS = ["polls.handlers.note"]
