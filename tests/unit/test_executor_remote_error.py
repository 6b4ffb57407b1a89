"""Rebuild exceptions from a traceback: of the same class with the same text, or not at all."""

from __future__ import annotations

import decimal
import errno
import sys
import threading
import traceback
from collections.abc import Callable

import pytest

from jobqueue.errors import JobCanceled, JobFailed, TimeLimitExceeded
from jobqueue.executor.remote_error import RemoteTraceback, rebuild, remote_error


class Plain(Exception):
    pass


class WithTwo(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class Decorated(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(f"error {code}")


class Bomb(Exception):
    def __init__(self, text: str) -> None:
        raise SystemError("never make me")


class Unfriendly(Exception):
    """An exception class whose constructor calls ``unfriendly``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        unfriendly()


class UnfriendlyWords(Exception):
    def __str__(self) -> str:
        unfriendly()
        return "x"


def unfriendly() -> None:
    """Do nothing; tests replace this function."""


class Inside:
    class Error(ValueError):
        pass


def text_of(error: BaseException) -> str:
    """Return the traceback of a raised exception, as a worker writes it."""
    try:
        raise error
    except BaseException as e:
        return "".join(traceback.format_exception(e))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        ValueError(),
        ValueError("several\nlines\n  of it\n\nTraceback (most recent call last):\n  fake\nKeyError: 1"),
        ValueError("a: b"),
        ValueError("two", 2),
        KeyError("x"),
        KeyError(1),
        KeyError(("a", 1)),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x'y"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        OSError("only words"),
        ZeroDivisionError("division by zero"),
        Plain("words"),
        Inside.Error("words"),
        decimal.InvalidOperation("words"),
        TimeLimitExceeded("The job ran longer than 1 s."),
        StopIteration("x"),
    ],
    ids=repr,
)
def test_an_exception_is_rebuilt_with_class_and_text(error: Exception) -> None:
    again = rebuild(text_of(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    if isinstance(error, OSError):
        assert isinstance(again, OSError)
        assert (again.errno, again.filename) == (error.errno, error.filename)


@pytest.mark.parametrize("because", [True, False])
def test_of_a_chain_of_exceptions_the_last_one_is_rebuilt(because: bool) -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as e:
            if because:
                raise ValueError("second") from e
            raise ValueError("second")  # noqa: B904  # that is the case here
    except ValueError as e:
        text = "".join(traceback.format_exception(e))
    assert text.count("Traceback (most recent call last)") == 2
    assert repr(rebuild(text)) == "ValueError('second')"


def test_a_message_that_quotes_a_chain_is_not_taken_for_the_end() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise IndexError("i")  # noqa: B904  # that is the case here
    except IndexError as e:
        quoted = "".join(traceback.format_exception(e))
    assert rebuild(text_of(RuntimeError(f"remote said:\n\n{quoted}"))) is None


class Elsewhere(Exception):
    __module__ = "a_module_that_nobody_has_imported"


@pytest.mark.parametrize(
    "error",
    [
        WithTwo(1, "x"),
        Decorated("4"),  # made from its message it would say "error error 4"
        Elsewhere("x"),
        SystemExit(3),  # would end this program, too
        KeyboardInterrupt(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
        ExceptionGroup("several", [ValueError("a"), ValueError("b")]),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_exception_that_would_differ_is_not_rebuilt(error: BaseException) -> None:
    assert rebuild(text_of(error)) is None


def test_an_exception_whose_class_raises_is_not_rebuilt() -> None:
    assert rebuild(f"Traceback (most recent call last):\n  File\n{__name__}.Bomb: tick") is None


def raises(kind: type[BaseException]) -> Callable[[], None]:
    def unfriendly() -> None:
        raise kind

    return unfriendly


@pytest.mark.parametrize("name", ["Unfriendly", "UnfriendlyWords"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, ValueError])
def test_a_class_that_raises_anything_when_it_is_made_does_no_harm(
    name: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "unfriendly", raises(kind))
    text = f"Traceback (most recent call last):\n  File\n{__name__}.{name}: x"
    failed = JobFailed("Job a failed", "a", text)
    assert remote_error(failed) is failed
    assert isinstance(failed.__cause__, RemoteTraceback)


@pytest.mark.parametrize("name", ["Unfriendly", "UnfriendlyWords"])
def test_a_class_that_never_returns_is_waited_for_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The constructor is waited for once, for a limited time, and is not called again."""
    may, asked = threading.Event(), []

    def wait() -> None:
        asked.append(1)
        may.wait(60)

    monkeypatch.setitem(globals(), "unfriendly", wait)
    monkeypatch.setattr("jobqueue.executor.remote_error.MAKING", 0.2)
    monkeypatch.setattr("jobqueue.executor.remote_error._slow", set())
    text = f"Traceback (most recent call last):\n  File\n{__name__}.{name}: x"
    try:
        assert rebuild(text) is None
        assert rebuild(text) is None
        assert asked == [1]
    finally:
        may.set()


def test_rebuilding_imports_no_module() -> None:
    assert "antigravity" not in sys.modules
    assert rebuild("Traceback (most recent call last):\n  File\nantigravity.Error: x") is None
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ChildKilled: SIGKILL",
        "Traceback (most recent call last):\n",
        "Traceback (most recent call last):\n  File",
        "Traceback (most recent call last):\n  File\nbuiltins.print: x",
        "Traceback (most recent call last):\n  File\nos.system: x",
        "Traceback (most recent call last):\n  File\n: x",
    ],
)
def test_texts_that_name_no_exception_are_not_rebuilt(text: str) -> None:
    assert rebuild(text) is None


# -- what a future gets ----------------------------------------------------------------------------------------------


def test_the_remote_traceback_is_the_cause_of_the_error() -> None:
    text = text_of(ValueError("bad"))
    error = remote_error(JobFailed("Job a failed: ValueError: bad", "a", text))
    assert repr(error) == "ValueError('bad')"
    assert isinstance(error.__cause__, RemoteTraceback)
    shown = "".join(traceback.format_exception(error))
    assert text in shown
    assert "direct cause of the following exception" in shown


def test_an_error_that_cannot_be_rebuilt_is_raised_as_the_jobs_failure() -> None:
    failed = JobFailed("Job a failed: WithTwo: 1: x", "a", text_of(WithTwo(1, "x")))
    assert remote_error(failed) is failed
    assert isinstance(failed.__cause__, RemoteTraceback)
    killed = JobFailed("Job a failed: ChildKilled: SIGKILL", "a")
    assert remote_error(killed) is killed
    canceled = JobCanceled("Job a was canceled.", "a")
    assert remote_error(canceled) is canceled
