"""Settings of the project for tests: its store and its PostgreSQL are named by the environment."""

import os

import django

SECRET_KEY = "for tests"
USE_TZ = True
INSTALLED_APPS = ["jobqueue.django", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": os.environ.get("SHOP_DB_USER", ""),
        "HOST": os.environ.get("SHOP_DB", ""),
        "CONN_MAX_AGE": None if os.environ.get("SHOP_DB_AGE") == "None" else 0,
    }
    if os.environ.get("SHOP_DB")
    else {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("SHOP_FILE", ":memory:")}
}
JOBQ = {"URL": os.environ.get("SHOP_STORE", "redis://localhost"), "QUEUES": ["default", "mail"]}
if django.VERSION >= (6,):
    TASKS = {
        "default": {
            "BACKEND": "jobqueue.django.backend.JobqBackend",
            "QUEUES": ["default", "mail"],
            "OPTIONS": {"PRIORITIES": [50, 10, 0, -10]},
        }
    }
