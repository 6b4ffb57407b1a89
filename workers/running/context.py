"""Keep context variables apart: each job, callback and handler runs in a copy of the context as it was after imports.

What a job sets in a ``contextvars.ContextVar`` (the user it acts for, a tenant) ends with it, in both modes. What a
module sets while it is imported (``app.app_context().push()``) is there in every job, in every thread; also when a job
is the first to import that module: the rest of the process's jobs would miss it otherwise.
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
_DECIMAL = "decimal_context"  # of the module decimal; its value is mutable, and copies would share it


def _own(var: ContextVar[Any], value: Any) -> Any:
    return value.copy() if var.name == _DECIMAL else value


class ImportedContext:
    """The context after the imports of this process. Any thread may run something in a copy of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[ContextVar[Any], Any] = {}  # what modules set that were imported later
        self._context = Context()  # replaced, never entered: copies need no lock
        self._decimal: ContextVar[Any] | None = None

    def capture(self) -> None:
        """Take the calling thread's context as it is now, and what late imports had set."""
        with self._lock:
            self._replace(copy_context(), {})

    def copy(self) -> Context:
        """Return a copy of the context that nobody else sees."""
        context = self._context.copy()
        if self._decimal is not None:
            context.run(self._decimal.set, _own(self._decimal, context[self._decimal]))
        return context

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in a copy of the context that nobody else sees."""
        return self.copy().run(function, *args, **kwargs)

    def apart(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function so that each call of it runs in a copy of its own."""

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.run(function, *args, **kwargs)

        return call

    @contextlib.contextmanager
    def watching_imports(self) -> Iterator[None]:
        """Keep what modules set that are imported inside, in whatever job or thread."""
        watch = _ImportWatch(self)
        sys.meta_path.insert(0, watch)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(watch)

    def execute_module(self, execute: Callable[[ModuleType], object], module: ModuleType) -> None:
        """Execute a module's code in a copy of the context; what it sets counts from now on, here and in later jobs."""
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
        """Set here what an import has set since the caller's copy was made: its function's module, for another job."""
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
    """Finds nothing itself: it asks the other finders, and has what they found executed by ``execute_module``."""

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
        """Only loaders that are made for one module: others are shared, and built-in modules run no code of users."""
        if isinstance(loader := spec.loader, (FileLoader, ExtensionFileLoader)):
            execute = functools.partial(self._imported.execute_module, loader.exec_module)
            loader.exec_module = execute  # type: ignore[method-assign]
        return spec


after_imports = ImportedContext()
