from __future__ import annotations

import decimal
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from pathlib import Path

import pytest

from jobqueue.workers.running.context import ImportedContext

who: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture
def imported() -> Iterator[ImportedContext]:
    made = ImportedContext()
    made.capture()
    with made.watching_imports():
        yield made


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write a package ``lately`` with two modules, each of which sets a variable that the other does not."""
    (tmp_path / "lately").mkdir()
    (tmp_path / "lately/__init__.py").write_text("from contextvars import ContextVar\napp = ContextVar('app')\n")
    (tmp_path / "lately/pushing.py").write_text("from lately import app\nimport lately.nested\napp.set('pushed')\n")
    (tmp_path / "lately/nested.py").write_text("from lately import app\napp.set('nested')\nhere = app.get()\n")
    (tmp_path / "lately/failing.py").write_text("from lately import app\napp.set('failed')\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "lately"]:
        del sys.modules[name]


def import_and_look(name: str) -> str:
    importlib.import_module(name)
    from lately import app  # type: ignore[import-not-found]

    return str(app.get("nothing"))


def test_context_variables_of_one_run_are_not_seen_by_the_next(imported: ImportedContext) -> None:
    assert [imported.run(lambda: (who.get(), who.set("me"))[0]) for _ in range(2)] == ["nobody"] * 2
    assert imported.apart(who.get)() == "nobody"
    assert who.get() == "nobody"


def test_a_run_may_contain_another(imported: ImportedContext) -> None:
    """A run within a run, as of a callback in a job, sees the same variables; an exception passes through."""

    def job() -> str:
        who.set("job")
        return f"{imported.run(who.get)} {who.get()}"

    assert imported.run(job) == "nobody job"
    with pytest.raises(ZeroDivisionError):
        imported.run(divmod, 1, 0)


def test_context_variables_that_a_module_sets_at_import_are_seen_by_all_runs(
    imported: ImportedContext, package: Path
) -> None:
    """The importing job and later runs see the module's values, in the order of the imports; not what the importing job
    had set."""

    def job() -> tuple[str, str]:
        who.set("job")
        return import_and_look("lately.pushing"), who.get()

    assert imported.run(job) == ("pushed", "job")
    assert imported.run(import_and_look, "lately.pushing") == "pushed"
    assert imported.run(who.get) == "nobody"
    assert sys.modules["lately.nested"].here == "nested"
    assert copy_context().get(sys.modules["lately"].app) is None


def test_a_module_whose_import_fails_leaves_no_context_variable(imported: ImportedContext, package: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        imported.run(import_and_look, "lately.failing")
    assert imported.run(import_and_look, "lately") == "nothing"


def test_a_new_capture_keeps_what_was_imported(imported: ImportedContext, package: Path) -> None:
    """A new capture does not import the module again."""
    imported.run(import_and_look, "lately.pushing")
    imported.capture()
    assert imported.run(import_and_look, "lately.pushing") == "pushed"


def test_imported_modules_have_pythons_own_loaders(imported: ImportedContext, package: Path) -> None:
    """The loaders of modules are Python's own, and Python's own modules are imported as before."""
    module = importlib.import_module("lately.nested")
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert importlib.util.find_spec("lately.pushing").origin.endswith("pushing.py")  # type: ignore[union-attr]
    assert importlib.util.find_spec("lately.nowhere") is None
    importlib.import_module("_bisect")
    importlib.reload(module)


def test_the_import_hook_is_removed(package: Path) -> None:
    before = list(sys.meta_path)
    with ImportedContext().watching_imports():
        assert len(sys.meta_path) == len(before) + 1
    assert sys.meta_path == before


def test_each_run_has_its_own_decimal_context() -> None:
    """Each run gets a copy of the decimal context, whose value can be changed in place."""
    old = decimal.getcontext().copy()
    try:
        decimal.getcontext().prec = 7
        imported = ImportedContext()
        imported.capture()

        def job() -> int:
            before = decimal.getcontext().prec
            decimal.getcontext().prec = 50
            return before

        assert [imported.run(job) for _ in range(2)] == [7, 7]
        assert decimal.getcontext().prec == 7
    finally:
        decimal.setcontext(old)
