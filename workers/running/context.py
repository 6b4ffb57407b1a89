"""Run each job, callback and exception handler in its own copy of the context (PEP 567) as it was after the imports.

A value that a job sets in a ``contextvars.ContextVar`` (the user it acts for, a tenant) is gone after the job, in both
modes. A value that a module sets while it is imported (``app.app_context().push()``) is seen by every job in every
thread, also where a job was the first to import that module.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, ContextVar, copy_context
from importlib.abc import FileLoader, MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_ABSENT = object()
_DECIMAL = "decimal_context"  # the module decimal's variable: its value is mutable, and copies would share it


def _own(var: ContextVar[Any], value: Any) -> Any:
    return value.copy() if var.name == _DECIMAL else value


class ImportedContext:
    """The context after the imports of this process. Any thread may call the methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[ContextVar[Any], Any] = {}  # set by modules that were imported after ``capture``
        self._context = Context()  # replaced as a whole and never entered, so that copying needs no lock
        self._decimal: ContextVar[Any] | None = None

    def capture(self) -> None:
        """Take the calling thread's context as it is now, with the values that later imports have set."""
        with self._lock:
            self._replace(copy_context(), {})

    def copy(self) -> Context:
        """Return a new copy of the context."""
        context = self._context.copy()
        if self._decimal is not None:
            context.run(self._decimal.set, _own(self._decimal, context[self._decimal]))
        return context

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in a new copy of the context."""
        return self.copy().run(function, *args, **kwargs)

    def apart(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function so wrapped that each call runs in a new copy of the context."""

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.run(function, *args, **kwargs)

        return call

    @contextlib.contextmanager
    def watching_imports(self) -> Iterator[None]:
        """While inside, keep the values that modules set when they are imported, in whatever job or thread."""
        watch = _ImportWatch(self)
        sys.meta_path.insert(0, watch)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(watch)

    def execute_module(self, execute: Callable[[ModuleType], object], module: ModuleType) -> None:
        """Execute a module's code in a copy of the context. The values that it sets are set here and in later jobs."""
        context = self._context.copy()
        before = context.copy()
        context.run(execute, module)
        changed = {var: value for var, value in context.items() if before.get(var, _ABSENT) is not value}
        if changed:
            for var, value in changed.items():
                var.set(_own(var, value))
            with self._lock:
                self._kept.update(changed)
                self._replace(self._context.copy(), changed)

    def catch_up(self) -> None:
        """Set the values in the caller's context that imports have set since that copy was made: another job may have
        imported the module of the caller's function meanwhile."""
        if not self._kept:
            return
        for var, value in list(self._kept.items()):
            if var.get(_ABSENT) is _ABSENT:
                var.set(_own(var, value))

    def _replace(self, context: Context, changes: dict[ContextVar[Any], Any]) -> None:
        for var, value in {**{v: x for v, x in self._kept.items() if v not in context}, **changes}.items():
            context.run(var.set, value)
        self._decimal = next((var for var in context if var.name == _DECIMAL), None)
        self._context = context


class _ImportWatch(MetaPathFinder):
    """A finder that asks the other finders, and lets ``execute_module`` execute the modules that they find."""

    def __init__(self, imported: ImportedContext) -> None:
        self._imported = imported

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            if (spec := finder.find_spec(name, path, target)) is not None:
                return self._watched(spec)
        return None

    def _watched(self, spec: ModuleSpec) -> ModuleSpec:
        """Change the spec's loader, if it was made for this module alone. Other loaders are shared, and load built-in
        modules, which run no code of the user's."""
        if isinstance(loader := spec.loader, (FileLoader, ExtensionFileLoader)):
            execute = functools.partial(self._imported.execute_module, loader.exec_module)
            loader.exec_module = execute  # type: ignore[method-assign]
        return spec


after_imports = ImportedContext()
