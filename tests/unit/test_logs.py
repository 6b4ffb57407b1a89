"""The worker's log: its formats; a user's logging configuration does not stop it."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import re
from collections.abc import Callable, Iterator

import pytest

from jobqueue.logs import FIELDS, OF_ENDS
from jobqueue.workers.shared import log_stream
from jobqueue.workers.shared.logs import BELOW, logging_guarded, set_up_logging


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger, root = logging.getLogger("jobqueue.workers"), logging.getLogger()
    below = [logging.getLogger(name) for name in BELOW]
    before = logger.handlers[:], logger.level, logger.propagate, root.handlers[:], root.level
    last_resort = logging.lastResort
    others = [it for it in logging.root.manager.loggerDict.values() if isinstance(it, logging.Logger)]
    enabled = [it for it in others if not it.disabled]
    of_rq = logging.getLogger("rq.worker")  # a worker of RQ's in this process may have set it up
    set_up = of_rq.level, of_rq.propagate, of_rq.disabled
    of_rq.setLevel(logging.NOTSET)
    of_rq.propagate, of_rq.disabled = True, False
    yield
    of_rq.setLevel(set_up[0])
    of_rq.propagate, of_rq.disabled = set_up[1:]
    for it in enabled:  # dictConfig has disabled all loggers that it did not name
        it.disabled = False
    logger.handlers[:], logger.level, logger.propagate, root.handlers[:], root.level = before
    for it in below:
        it.handlers.clear()
    logging.lastResort = last_resort
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    "name", ["jobqueue.workers", "jobqueue.workers.child.slot", "jobqueue.workers.rq_finish.finish"]
)
def test_a_users_logging_configuration_does_not_silence_the_worker(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging("text", verbose=False)
    logging.config.dictConfig({"version": 1, "root": {"level": "ERROR"}})
    logging.disable(logging.CRITICAL)
    logging.getLogger(name).warning("job %s failed", 1)
    logging.getLogger(name).debug("not this")
    text = capsys.readouterr().err
    assert text.endswith("warning: job 1 failed\n")
    assert text.count("\n") == 1


def test_the_log_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json", verbose=True)
    logging.getLogger("jobqueue.workers.child.slot").debug("job %s", 1)
    entry = json.loads(capsys.readouterr().err)
    assert (entry["level"], entry["logger"], entry["message"]) == ("debug", "jobqueue.workers.child.slot", "job 1")


def test_json_lines_have_the_fields_of_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json", verbose=False, worker="w-1")
    log = logging.getLogger("jobqueue.workers.child.slot")
    log.warning("a", extra={"job": "j", "queue": "q", "task": "m.f", "attempt": 2, "outcome": "failed", "seconds": 1.5})
    log.warning("b", extra={"job": "j", "other": 1, "queue": object()})
    full, some = map(json.loads, capsys.readouterr().err.splitlines())
    assert {name: full[name] for name in (*FIELDS, *OF_ENDS)} == {
        "job": "j",
        "queue": "q",
        "task": "m.f",
        "worker": "w-1",
        "attempt": 2,
        "outcome": "failed",
        "seconds": 1.5,
    }
    assert (some["job"], some["queue"][:7], "other" in some, "task" in some) == ("j", "<object", False, False)


def test_text_lines_are_as_without_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("text", verbose=False, worker="w-1")
    logging.getLogger("jobqueue.workers.child.slot").warning("job j failed", extra={"job": "j", "outcome": "failed"})
    assert re.fullmatch(r"\d\d:\d\d:\d\d slot\[\d+\]: warning: job j failed\n", capsys.readouterr().err)


def test_records_for_which_nobody_has_a_handler_are_json_lines_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    set_up_logging("json", verbose=False)
    logging.getLogger("shop.orders").warning("late")
    logging.getLogger("shop.orders").info("not this")
    assert json.loads(capsys.readouterr().err)["message"] == "late"


class Limit(BaseException):
    """An exception like those that we raise in a user's code."""


def broken(error: type[BaseException]) -> Callable[..., logging.LogRecord]:
    def make(*_: object, **__: object) -> logging.LogRecord:
        raise error("no")

    return make


@pytest.fixture
def factory() -> Iterator[Callable[..., None]]:
    before = logging.getLogRecordFactory()
    yield logging.setLogRecordFactory
    logging.setLogRecordFactory(before)


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_a_failing_record_factory_loses_no_line(
    factory: Callable[..., None], capsys: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    set_up_logging("text", verbose=False)
    factory(broken(error))
    logging.getLogger("jobqueue.workers.child.slot").warning("job %s failed", 1, extra={"queue": "q"})
    assert capsys.readouterr().err.endswith("warning: job 1 failed\n")


def test_lines_of_rq_are_guarded_within_the_block(
    factory: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    log, own = logging.getLogger("rq.worker"), logging.getLogger("users.own")
    with logging_guarded((Limit,), own):
        log.warning("job %s", 1)
        factory(broken(SystemExit))
        log.warning("job %s", 2, extra={"queue": "q"})
        own.warning("job 3")
        factory(broken(Limit))
        with pytest.raises(Limit):
            log.warning("job 4")
    assert type(log) is type(own) is logging.Logger
    assert [record.getMessage() for record in caplog.records] == ["job 1", "job 2", "job 3"]
    assert {(record.funcName, record.module) for record in caplog.records} == {
        ("test_lines_of_rq_are_guarded_within_the_block", "test_logs")
    }


def test_an_exception_that_cannot_be_printed_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    class Closed(Exception):
        def __getattribute__(self, name: str) -> object:
            raise SystemExit(7)

    set_up_logging("text", verbose=False)
    try:
        raise Closed
    except Closed:
        logging.getLogger("jobqueue.workers.child.child").exception("a slot failed")
    said = capsys.readouterr().err
    assert "error: a slot failed\n" in said
    assert "raise Closed" in said


@pytest.mark.parametrize("can_open", [True, False])
def test_lines_that_nobody_reads_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch, can_open: bool) -> None:
    """Lines are dropped even if the pipe belongs to another user and cannot be opened again."""
    if not can_open:
        monkeypatch.setattr(log_stream, "_opened_once_more", lambda number: -1)
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as source, open(writer, "w") as sink:
        monkeypatch.setattr("sys.stderr", sink)
        set_up_logging("text", verbose=False)
        log = logging.getLogger("jobqueue.workers")
        for _ in range(100):
            log.info("%s", 3000 * "x")
        log.info("%s", 20_000 * "y")  # a line that fits in no free page
        whole, size = source.read(1 << 20).decode(), 1
        while size:
            log.info("after that")
            more = source.read(1 << 20).decode()
            whole, size = whole + more, "missing here" not in whole
        assert os.get_blocking(writer)
    lines = whole.splitlines()
    kept = [line for line in lines if line.endswith(3000 * "x")]
    (said,) = [line for line in lines if "missing here" in line]
    assert f" {100 - len(kept) + 1} lines are missing here" in said
    assert lines[-1].endswith("after that")


def test_of_other_loggers_only_warnings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("text", verbose=True)
    log = logging.getLogger("rq.worker")
    log.setLevel(logging.INFO)  # as RQ does
    try:
        log.info("cleaning registries")
        log.warning("a callback failed")
    finally:
        log.setLevel(logging.NOTSET)
    said = capsys.readouterr().err
    assert "a callback failed" in said
    assert "cleaning" not in said
