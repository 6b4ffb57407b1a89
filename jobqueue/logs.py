"""The fields by which log records name the job that runs: ``job``, ``queue``, ``task``, ``worker``, ``attempt``.

A worker gives them to every record that is logged inside a job, by a context variable. ``JobFields`` is for a formatter
that prints them: it makes sure that the fields are there in records from outside of jobs too.

    "filters": {"job": {"()": "jobqueue.logs.JobFields"}},
    "formatters": {"line": {"format": "%(levelname)s [%(job)s %(task)s] %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["job"], "formatter": "line"}},
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

FIELDS = ("job", "queue", "task", "worker", "attempt")
OF_ENDS = ("seconds", "outcome")  # the worker's own lines about the end of a job have these too

running: ContextVar[Any] = ContextVar("jobq_running", default=None)  # what a worker has claimed, and runs here


def _nothing(_job: Any) -> Mapping[str, Any]:
    return {}


_describe: Callable[[Any], Mapping[str, Any]] = _nothing  # set by ``describe_with``


def describe_with(describe: Callable[[Any], Mapping[str, Any]]) -> None:
    """(workers) Say how the fields of what stands in ``running`` are found. ``describe`` must not raise."""
    global _describe
    _describe = describe


def fields_of_job() -> Mapping[str, Any]:
    """Return the fields of the job in whose context this is called; empty outside of jobs."""
    job = running.get()
    return _describe(job) if job is not None else {}


def add_fields(record: logging.LogRecord) -> None:
    """Give the record the fields of the job that runs. What the record has already, from ``extra=`` say, stays."""
    if running.get() is not None:
        for name, value in fields_of_job().items():
            record.__dict__.setdefault(name, value)


class JobFields(logging.Filter):
    """A filter for handlers: it lets all records pass, and gives each of them all FIELDS, "" where no job runs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields."""
        add_fields(record)
        for name in FIELDS:
            record.__dict__.setdefault(name, "")
        return True
