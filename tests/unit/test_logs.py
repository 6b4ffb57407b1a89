"""The worker's log: formats, and what a user's set-up of logging cannot do to it."""

from __future__ import annotations

import json
import logging
import logging.config
from collections.abc import Callable, Iterator

import pytest

from jobqueue.workers.shared.logs import logging_guarded, set_up_logging


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger, root = logging.getLogger("jobqueue.workers"), logging.getLogger()
    before = logger.handlers[:], logger.level, logger.propagate, root.handlers[:], root.level
    others = [it for it in logging.root.manager.loggerDict.values() if isinstance(it, logging.Logger)]
    enabled = [it for it in others if not it.disabled]
    yield
    for it in enabled:  # dictConfig has disabled all that it did not know
        it.disabled = False
    logger.handlers[:], logger.level, logger.propagate, root.handlers[:], root.level = before
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    "name", ["jobqueue.workers", "jobqueue.workers.child.slot", "jobqueue.workers.rq_finish.finish"]
)
def test_a_users_configuration_does_not_silence_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("text", verbose=False)
    logging.config.dictConfig({"version": 1, "root": {"level": "ERROR"}})
    logging.disable(logging.CRITICAL)
    logging.getLogger(name).warning("job %s failed", 1)
    logging.getLogger(name).debug("not this")
    text = capsys.readouterr().err
    assert text.endswith("warning: job 1 failed\n")
    assert text.count("\n") == 1


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json", verbose=True)
    logging.getLogger("jobqueue.workers.child.slot").debug("job %s", 1)
    entry = json.loads(capsys.readouterr().err)
    assert (entry["level"], entry["logger"], entry["message"]) == ("debug", "jobqueue.workers.child.slot", "job 1")


class Limit(BaseException):
    """As what we raise in the code of a user's."""


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
def test_a_users_record_factory_costs_no_line(
    factory: Callable[..., None], capsys: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    set_up_logging("text", verbose=False)
    factory(broken(error))
    logging.getLogger("jobqueue.workers.child.slot").warning("job %s failed", 1, extra={"queue": "q"})
    assert capsys.readouterr().err.endswith("warning: job 1 failed\n")


def test_rqs_lines_are_guarded_while_it_lasts(factory: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
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
        ("test_rqs_lines_are_guarded_while_it_lasts", "test_logs")
    }


def test_an_exception_that_cannot_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
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
