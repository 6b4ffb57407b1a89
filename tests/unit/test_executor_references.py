"""Find the name by which a worker can import a function, and the smallest set of functions that it has to serve."""

from __future__ import annotations

import functools
import os
import sys
import time
import types
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import samples

from jobqueue.errors import TaskNotFound, UsageError
from jobqueue.executor import references
from jobqueue.executor.references import Reference, installed, refer, search_path


class Shop:
    @staticmethod
    def open(value: Any) -> Any:
        return value

    @classmethod
    def make(cls) -> None: ...

    def sell(self) -> None: ...

    def __call__(self) -> None: ...


def original(value: Any) -> Any:
    return value


replaced: Callable[..., Any] = original


def original(value: Any) -> Any:  # type: ignore[no-redef]  # what a decorator does that returns another
    return value


@pytest.mark.parametrize(
    ("task", "name", "serves"),
    [
        (samples.ok, "samples.ok", "samples"),
        (Shop.open, f"{__name__}.Shop.open", __name__),
        (Shop.make, f"{__name__}.Shop.make", __name__),
        (Shop, f"{__name__}.Shop", __name__),
        ("samples:ok", "samples.ok", "samples"),
        ("samples.ok", "samples.ok", "samples"),
        ("shop.prices:Table.get", "shop.prices.Table.get", "shop.prices"),
        ("square", "jobqueue.tasks.cpu.square", ""),
        ("jobqueue.tasks:sleep", "jobqueue.tasks.sleep", ""),
        (pow, "builtins.pow", "builtins:pow"),
        (time.sleep, "time.sleep", "time:sleep"),
        (os.path.basename, f"{os.path.__name__}.basename", f"{os.path.__name__}:basename"),
        ("os:getpid", "os.getpid", "os:getpid"),
        (pytest.main, f"{pytest.main.__module__}.main", f"{pytest.main.__module__}:main"),
    ],
)
def test_the_name_and_the_module_of_functions_that_a_worker_can_import(task: Any, name: str, serves: str) -> None:
    found = refer(task)
    if task == "square":  # wherever the built-in tasks live
        assert found.name.endswith(".square")
        assert found.serves == serves
    else:
        assert found == Reference(name, serves)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (lambda: 1, "A lambda has no name"),
        (Shop().sell, "is a method of an object"),
        ([].append, "is a method of an object"),
        (Shop(), "An object of type Shop has no name"),
        (functools.partial(samples.ok, 1), "A partial has no name"),
        (datetime.now, "has no name"),
        (replaced, "is not this function"),
        (3, "is not a function"),
        ("no task", "There is no task"),
    ],
)
def test_functions_that_a_worker_cannot_import_are_refused(task: Any, said: str) -> None:
    with pytest.raises((UsageError, TaskNotFound), match=said):
        refer(task)


def test_a_function_defined_in_a_function_is_refused() -> None:
    def inner() -> None: ...

    with pytest.raises(UsageError, match="defined inside a function"):
        refer(inner)


# -- __main__ --------------------------------------------------------------------------------------------------------


def in_main(monkeypatch: pytest.MonkeyPatch, file: str | None, spec: str | None = None) -> Any:
    """Make a ``__main__`` module, as if a program was started from there, with functions in it."""
    main = types.ModuleType("__main__")
    main.__file__ = file
    main.__spec__ = None if spec is None else types.SimpleNamespace(name=spec)  # type: ignore[assignment]
    exec("def resize(n): return n\nlambda_ = lambda: 1", main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    return main


@pytest.mark.parametrize(
    ("file", "spec", "name"),
    [
        ("/somewhere/photos.py", None, "photos"),
        ("photos.py", None, "photos"),
        ("/somewhere/shop/photos.py", "shop.photos", "shop.photos"),
        ("/somewhere/shop/__main__.py", "shop.__main__", "shop.__main__"),
    ],
)
def test_functions_of_a_script_are_named_by_its_module(
    monkeypatch: pytest.MonkeyPatch, file: str, spec: str | None, name: str
) -> None:
    main = in_main(monkeypatch, file, spec)
    assert refer(main.resize) == Reference(f"{name}.resize", name)
    with pytest.raises(UsageError, match="A lambda has no name"):
        refer(main.lambda_)


@pytest.mark.parametrize(
    ("file", "spec"), [(None, None), ("my-photos.py", None), ("photos", None), ("app.zip/__main__.py", "__main__")]
)
def test_functions_of_a_main_that_cannot_be_imported_are_refused(
    monkeypatch: pytest.MonkeyPatch, file: str | None, spec: str | None
) -> None:
    main = in_main(monkeypatch, file, spec)
    with pytest.raises(UsageError, match="resize is defined in __main__"):
        refer(main.resize)


# -- where a worker looks --------------------------------------------------------------------------------------------


def test_the_search_path_leaves_out_installed_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "own"), *map(str, installed()), str(tmp_path / "gone"), ""])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "own"), "/else/where"]))
    assert search_path().split(os.pathsep) == [str(tmp_path / "own"), os.getcwd(), "/else/where"]


def test_modules_that_count_as_installed() -> None:
    assert references._is_foreign("pytest")
    assert references._is_foreign("concurrent.futures")
    assert not references._is_foreign("samples")
