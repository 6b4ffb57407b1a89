"""Records that are logged inside a job have its fields, whatever a user has set up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextvars import copy_context

import pytest

from jobqueue import logs
from jobqueue.logs import FIELDS, JobFields, fields_of_job, running
from jobqueue.protocol.claims import Claimed, Features
from jobqueue.protocol.rescue import ForRQ, Verdict
from jobqueue.workers.child.log_fields import jobs_named_in_logs, name_jobs_in_logs

JOB = Claimed("j1", 5, "q", b'["shop.tasks.resize",null,[1],{}]', None, None, None, 0, Features(attempt=2))
KNOWN = {"job": "j1", "queue": "q", "task": "shop.tasks.resize", "worker": "w", "attempt": 2}


class Kept(logging.Handler):
    """Keeps all records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def fields(self) -> list[dict[str, object]]:
        return [{name: it.__dict__[name] for name in FIELDS if name in it.__dict__} for it in self.records]


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler, log = Kept(), logging.getLogger("shop")
    log.addHandler(handler)
    with jobs_named_in_logs("w"):
        yield handler
    log.removeHandler(handler)
    logs.describe_with(lambda job: {})


def inside(job: object, text: str = "x", **extra: object) -> None:
    def log() -> None:
        running.set(job)
        logging.getLogger("shop.orders").warning(text, extra=extra or None)

    copy_context().run(log)


def test_a_record_of_a_job(kept: Kept) -> None:
    inside(JOB)
    logging.getLogger("shop.orders").warning("outside")
    assert kept.fields() == [KNOWN, {}]


def test_what_a_record_has_already_stays(kept: Kept) -> None:
    """``extra`` may have the same names: in Python that is an error if the record had them before."""
    inside(JOB, queue="mine", task=7)
    assert kept.fields() == [{**KNOWN, "queue": "mine", "task": 7}]


def test_a_job_of_a_dead_owner_and_unreadable_data(kept: Kept) -> None:
    inside(ForRQ("j2", 6, "q", Verdict.FAIL, b""))
    inside(JOB._replace(data=b"\xff\x00"))
    assert kept.fields() == [{"job": "j2", "queue": "q", "worker": "w"}, {**KNOWN, "task": ""}]


def test_a_formatter_that_prints_the_fields(kept: Kept) -> None:
    """The filter makes sure that they are there, also in a program that is no worker."""
    seen = logging.Formatter("[%(job)s %(task)s %(attempt)s] %(message)s")
    kept.addFilter(JobFields())
    inside(JOB)
    logging.getLogger("shop").warning("outside")
    assert [seen.format(record) for record in kept.records] == ["[j1 shop.tasks.resize 2] x", "[  ] outside"]


def test_the_filter_alone_adds_what_is_known() -> None:
    record = logging.LogRecord("shop", logging.INFO, "", 0, "x", None, None)
    assert JobFields().filter(record)
    assert [record.__dict__[name] for name in FIELDS] == [""] * len(FIELDS)
    assert fields_of_job() == {}


def test_logging_is_as_before_afterwards() -> None:
    before = logging.Logger.handle
    with jobs_named_in_logs("w"):
        inner = logging.Logger.handle
        assert inner is not before
        name_jobs_in_logs("w")  # twice is once
        assert logging.Logger.handle is inner
    assert logging.Logger.handle is before
    with jobs_named_in_logs("w"):
        logging.Logger.handle = before  # type: ignore[method-assign]
    assert logging.Logger.handle is before
    logs.describe_with(lambda job: {})
