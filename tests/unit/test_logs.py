"""The worker's log: formats, and what a user's set-up of logging cannot do to it."""

from __future__ import annotations

import json
import logging
import logging.config
from collections.abc import Iterator

import pytest

from jobqueue.workers.shared.logs import set_up_logging


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
