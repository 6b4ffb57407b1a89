"""Write the worker's log to stderr: one line per event, as text for people or as JSON for machines."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jobqueue.logs import FIELDS, OF_ENDS
from jobqueue.workers.shared.log_stream import StderrHandler

PACKAGE = "jobqueue.workers"
GUARDED = ("jobqueue", "rq")  # loggers whose lines are written between two jobs, where no user code is expected
BELOW = (
    "jobqueue.store",
    "jobqueue.network",
    "jobqueue.django",
    "jobqueue.plugins",
    "rq.worker",
)  # these libraries log in our processes too, and must not wait either


class Text(logging.Formatter):
    """``12:00:00 worker: text``, the level only when it is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f" {record.levelname.lower()}:" if record.levelno > logging.INFO else ""
        text = f"{clock} {record.name.rpartition('.')[2]}[{record.process}]:{level} {record.getMessage()}"
        return f"{text}\n{_traceback(self, record.exc_info)}" if record.exc_info else text


class Json(logging.Formatter):
    """One object per line: time, level, logger, pid, worker, message, the fields of the job that it is about, and the
    traceback if there is one."""

    def __init__(self, worker: str = "") -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if self._worker:
            entry["worker"] = self._worker
        known = record.__dict__
        entry |= {name: known[name] for name in (*FIELDS, *OF_ENDS) if name in known}
        if record.exc_info:
            entry["traceback"] = _traceback(self, record.exc_info)
        return json.dumps(entry, default=ascii)  # a record of others may have anything under these names


def _traceback(formatter: logging.Formatter, exc_info: Any) -> str:
    try:
        return formatter.formatException(exc_info)
    except GuardedLogger.passes:
        raise
    except BaseException:  # printing it runs code of its class
        return "".join((*traceback.format_tb(exc_info[2]), "(the exception itself cannot be printed)"))


class GuardedLogger(logging.Logger):
    """A logger that returns whatever user code in a record factory, filter, handler or formatter does: a lost line is
    better than a lost job."""

    passes: tuple[type[BaseException], ...] = ()  # exceptions that we, or signal handlers, raise in user code

    def _log(
        self,
        level: int,
        msg: object,
        args: Any,
        exc_info: Any = None,
        extra: Any = None,
        stack_info: bool = False,
        stacklevel: int = 1,
    ) -> None:
        try:
            super()._log(level, msg, args, exc_info, extra, stack_info, stacklevel + 1)  # this frame is not the caller
        except GuardedLogger.passes:
            raise
        except BaseException:
            pass

    def makeRecord(
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        extra: Any = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        """Make a record by the user's factory if there is one; by Python's own where that fails."""
        try:
            return super().makeRecord(name, level, fn, lno, msg, args, exc_info, func, extra, sinfo)
        except GuardedLogger.passes:
            raise
        except BaseException:
            record = logging.LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)
            record.__dict__.update(extra or {})
            return record


class WorkerLogger(GuardedLogger):
    """A logger that the user's configuration of logging does not silence: ``logging.config.dictConfig`` disables all
    loggers that it does not name, and a served module may call it at its import, or a job while it runs."""

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def isEnabledFor(self, level: int) -> bool:
        """Check the level as the base class does, but without ``logging.disable``, which is meant for the user's own
        loggers."""
        return level >= self.getEffectiveLevel()


def protect_logging(passes: tuple[type[BaseException], ...], *more: logging.Logger) -> dict[logging.Logger, type]:
    """Keep failures of user code in log lines of ours or RQ's from ending the code that logs; only exceptions of
    ``passes`` are let through. Returns the loggers whose class was replaced, and their old classes."""
    global _protected
    now = (passes, len(logging.root.manager.loggerDict))
    if now == _protected and not more:  # done before the fork: looking at each logger would copy its memory
        return {}
    _protected, GuardedLogger.passes = now, passes
    names = [name for name in list(logging.root.manager.loggerDict) if name.partition(".")[0] in GUARDED]
    loggers = (*map(logging.getLogger, ["rq.worker", *names]), *more)
    changed = {
        logger: type(logger)
        for logger in loggers
        if isinstance(logger, logging.Logger) and not isinstance(logger, GuardedLogger)
    }
    for logger, cls in changed.items():
        with contextlib.suppress(TypeError):  # a class of the user's with __slots__
            logger.__class__ = _guarded(cls)
    return changed


_protected: tuple[object, int] | None = (
    None  # what protect_logging has last let through, and the number of loggers then
)


@contextlib.contextmanager
def logging_guarded(passes: tuple[type[BaseException], ...], *more: logging.Logger) -> Iterator[None]:
    """Do the same within the block, in a process that is not ours."""
    global _protected
    _protected = None
    before, changed = GuardedLogger.passes, protect_logging(passes, *more)
    try:
        yield
    finally:
        _protected, GuardedLogger.passes = None, before
        for logger, cls in changed.items():
            logger.__class__ = cls


def _guarded(cls: type[logging.Logger]) -> type[logging.Logger]:
    return type(cls.__name__, (GuardedLogger, cls), {})


@cache
def make_loggers() -> None:
    """Give this package's loggers their class, also those of modules that are imported later. A process does it once,
    or a process from which it is forked."""
    home = Path(__file__).parents[1]
    modules = (path.relative_to(home).with_suffix("").parts for path in home.rglob("*.py"))
    for parts in ((), *modules):
        logging.getLogger(".".join((PACKAGE, *parts))).__class__ = WorkerLogger


def set_up_logging(log_format: str, verbose: bool, worker: str = "") -> None:
    """Send the log of this package to stderr, whatever served modules do to the rest of logging. With the format json,
    records of loggers for which nobody has set up a handler become JSON lines too. May be called twice."""
    make_loggers()
    handler, of_others = StderrHandler(sys.stderr), StderrHandler(sys.stderr)
    for each in (handler, of_others):
        each.setFormatter(Json(worker) if log_format == "json" else Text())
    of_others.setLevel(logging.WARNING)  # as Python does for loggers without a handler
    if log_format == "json":
        logging.lastResort = of_others
    for name in BELOW:
        logging.getLogger(name).handlers[:] = [of_others]
    logger = logging.getLogger(PACKAGE)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
