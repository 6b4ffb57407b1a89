"""Pickle an executor's arguments and results, with the names of what a script defines translated both ways.

A script's own classes are in ``__main__`` in this process and in a module of the script's name in a worker.
"""

from __future__ import annotations

import importlib
import io
import pickle
from typing import Any

from jobqueue.errors import NotSerializable
from jobqueue.executor.references import MAIN, main_module, main_module_name


class Pickle:
    """A serializer for jobs. Reading a pickle runs code of whoever wrote it: use it only on a store that nobody else
    writes to."""

    @staticmethod
    def dumps(value: Any, /) -> bytes:
        """Return the value pickled. Raises NotSerializable, UsageError."""
        buffer = io.BytesIO()
        try:
            _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as e:  # pickle raises all of these
            raise NotSerializable(f"pickle cannot carry these arguments: {e}.") from None
        return buffer.getvalue()

    @staticmethod
    def loads(data: bytes, /) -> Any:
        return _Unpickler(io.BytesIO(data)).load()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        named = isinstance(value, type) or hasattr(value, "__code__")
        if named and getattr(value, "__module__", None) == MAIN and "<" not in value.__qualname__:
            return _import, (main_module(value.__qualname__), value.__qualname__)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(MAIN if module == main_module_name() else module, name)


def _import(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for bit in qualname.split("."):
        found = getattr(found, bit)
    return found
