"""Set up the libraries that plugins of jobq are for, before a worker imports the modules that it serves."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from jobqueue.plugins.calls import described
from jobqueue.plugins.finding import BUILT_IN, PluginChoice, why_left_out


@contextmanager
def around_imports(wanted: PluginChoice | None, on_import: Callable[[str], object]) -> Iterator[None]:
    """Inside, the served modules are imported: before and after do what the plugins of jobq need for that, where their
    library is set up by the environment. Raises ImportError with the reason."""
    with ExitStack() as stack:
        for built_in in BUILT_IN:
            left_out = why_left_out(built_in.name, built_in.target, wanted or PluginChoice())
            if not built_in.around_imports or left_out or built_in.why_not_looked_at(None):
                continue
            on_import(built_in.name)
            module, _, function = built_in.around_imports.partition(":")
            try:
                stack.enter_context(getattr(importlib.import_module(module), function)())
            except Exception as e:
                hint = f"--no-plugin {built_in.name} does without"
                raise ImportError(f"{built_in.name} cannot be set up: {described(e)} ({hint})") from e
        yield
