from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job

from jobqueue.errors import BadArguments, TaskNotFound, UsageError
from jobqueue.producing import catalog
from jobqueue.producing.queue import Queue
from jobqueue.serializers import JSON
from jobqueue.tasks import square


class Thing:
    @staticmethod
    def act(x: int) -> int:
        return x


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("square", "jobqueue.tasks.square"),
        ("jobqueue.tasks:square", "jobqueue.tasks.square"),
        ("jobqueue.tasks.square", "jobqueue.tasks.square"),
        ("mod:Class.method", "mod.Class.method"),
        (square, "jobqueue.tasks.square"),
        (Thing.act, f"{__name__}.Thing.act"),
    ],
)
def test_the_dotted_name_of_a_task(task: Any, name: str) -> None:
    assert catalog.dotted_name(task) == name


@pytest.mark.parametrize("task", ["", "nosuch", "a b:c", "mod:", ":f", "a..b", "mod:f:g", "1.2"])
def test_texts_that_name_no_task_are_refused(task: str) -> None:
    with pytest.raises(TaskNotFound, match="There is no task"):
        catalog.dotted_name(task)


def test_a_typing_error_gets_a_hint() -> None:
    with pytest.raises(TaskNotFound, match="Did you mean square"):
        catalog.dotted_name("sqaure")


def test_functions_that_no_worker_can_import_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nested() -> None: ...

    def of_main() -> None: ...

    of_main.__module__, of_main.__qualname__ = "__main__", "of_main"
    for task, words in ((nested, "inside a function"), (of_main, "__main__"), (lambda: 1, "lambda")):
        with pytest.raises(UsageError, match=words):
            catalog.dotted_name(task)
    with pytest.raises(UsageError, match="no name"):
        catalog.dotted_name(functools.partial(square, 1))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_modules_of_the_current_directory_are_found_and_leave_no_trace(here: Path, capsys: Any) -> None:
    (here / "mytask_a.py").write_text("print('importing')\ndef f(x): return x + 1\nclass C:\n  def g(): return 7\n")
    path = list(sys.path)
    assert catalog.resolve("mytask_a.f")(1) == 2
    assert catalog.resolve("mytask_a.C.g")() == 7
    assert sys.path == path
    assert capsys.readouterr() == ("", "importing\n")  # what a module prints does not mix with our output


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("1/0", "mytask_b.f", "cannot be imported: ZeroDivisionError"),
        ("def f(:", "mytask_b.f", "cannot be imported: SyntaxError"),
        ("import nosuchmodule", "mytask_b.f", "cannot be imported: No module named 'nosuchmodule'"),
        ("raise SystemExit(3)", "mytask_b.f", "cannot be imported: SystemExit"),
        ("x = 1", "mytask_b.f", "has no function 'f'"),
        ("f = 1", "mytask_b.f", "is not a function"),
        ("", "nosuchmodule.f", "no module 'nosuchmodule'"),
    ],
)
def test_tasks_that_cannot_be_imported_are_refused_with_the_reason(
    here: Path, text: str, name: str, words: str
) -> None:
    (here / "mytask_b.py").write_text(text)
    with pytest.raises(TaskNotFound, match=words):
        catalog.resolve(name)


def test_arguments_are_checked_against_the_signature() -> None:
    def f(a: int, b: int = 1, *, c: int = 2) -> None: ...

    check = catalog.ArgumentCheck("m:f", f)
    check((1,), {"c": 3})
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"d": 1})):
        with pytest.raises(BadArguments, match=r"m:f\(a: "):
            check(args, kwargs)


def test_a_function_without_a_signature_accepts_any_arguments() -> None:
    catalog.ArgumentCheck("m:f", max)((1, 2, 3, 4), {"nonsense": 1})


@functools.cache
def cached(x: int) -> int:
    return x


def with_session(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function("session", *args, **kwargs)

    return wrapper


@with_session
def injected(session: str, x: int) -> None: ...


def test_a_wrapper_may_add_an_argument() -> None:
    catalog.ArgumentCheck("m:injected", injected)((1,), {})


def test_a_cached_function_is_checked_like_the_function_itself() -> None:
    check = catalog.ArgumentCheck("m:cached", cached)
    check((1,), {})
    with pytest.raises(BadArguments, match="does not take these arguments"):
        check((1, 2), {})


class Caller:
    def __call__(self, x: int) -> int:
        return x

    def method(self, x: int) -> int:
        return x

    @classmethod
    def of_class(cls, x: int) -> int:
        return x


def test_queues_store_the_name_by_which_workers_find_the_function(store: Any) -> None:
    queue = Queue(connection=store)
    assert queue.enqueue(cached, 1).func_name == f"{__name__}.cached"
    assert queue.enqueue(Caller.of_class, 1).func_name == f"{__name__}.Caller.of_class"
    assert Job.fetch(queue.enqueue_many(cached, [1, 2])[0].id, store, JSON).func_name == f"{__name__}.cached"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (functools.partial(square, 1), "a partial: enqueue its function"),
        (Caller(), "an object of type Caller: enqueue a function of a module"),
        (Caller().method, "Caller.method, a method of an object"),
        (Caller, "Caller, a class"),
    ],
)
def test_callables_that_json_cannot_carry_are_refused_by_name(store: Any, task: Any, words: str) -> None:
    queue = Queue(connection=store)
    for enqueue in (queue.enqueue, queue.enqueue_call, queue.enqueue_many):
        with pytest.raises(UsageError, match=f"JSON cannot carry {words}"):
            enqueue(task, [1])
    assert store.keys() == []
