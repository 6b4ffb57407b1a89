"""The worker's log on stderr: one line per event, as text for people or as JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

PACKAGE = "jobqueue.workers"


class Text(logging.Formatter):
    """``12:00:00 worker: text``, the level only when it is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f" {record.levelname.lower()}:" if record.levelno > logging.INFO else ""
        text = f"{clock} {record.name.rpartition('.')[2]}[{record.process}]:{level} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Json(logging.Formatter):
    """One object per line: time, level, logger, pid, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class WorkerLogger(logging.Logger):
    """A logger that the user's set-up of logging does not silence: ``logging.config.dictConfig`` disables all loggers
    that it does not know, and a served module may call it at its import, or a job while it runs."""

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def isEnabledFor(self, level: int) -> bool:
        """As in the base class, but without ``logging.disable``, which is meant for the user's own loggers."""
        return level >= self.getEffectiveLevel()


def set_up_logging(log_format: str, verbose: bool) -> None:
    """Send the log of this package to stderr, whatever served modules do to the rest of logging. Twice is once."""
    home = Path(__file__).parents[1]
    modules = (path.relative_to(home).with_suffix("").parts for path in home.rglob("*.py"))
    for parts in ((), *modules):  # also those of modules that are imported later
        logging.getLogger(".".join((PACKAGE, *parts))).__class__ = WorkerLogger
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if log_format == "json" else Text())
    logger = logging.getLogger(PACKAGE)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
