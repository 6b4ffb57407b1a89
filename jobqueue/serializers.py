"""The formats of job data and results: strict JSON, and ``Auto``, which also reads what plain RQ pickled.

A result is written in the format of its job's data, so a program that uses JSON only never meets a pickle. Plain RQ
workers and readers can share a queue with jobq by ``-S jobqueue.serializers.Auto``.
"""

from __future__ import annotations

import enum
import io
import json
import pickle
import sys
import zlib
from collections.abc import Callable, Collection
from typing import Any, Literal

from jobqueue.errors import NotSerializable, NotServed

SMALLEST_ZIPPED = 512  # bytes; below, zlib costs more than it saves, and RQ's readers accept raw data too
_SCALARS = frozenset({str, int, float, bool, type(None)})  # types whose values JSON never changes
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


class JSON:
    """JSON that returns exactly what it was given, or raises: no data is changed silently.

    Tuples come back as lists, a subclass of text, numbers, lists and dicts as its base class. Refused, however deep
    inside: sets, bytes, NaN, objects, members of an enum and named tuples (json would write a member as its value and
    drop the names of a tuple's fields), and keys that are not text (json would turn the key 1 into "1").
    """

    @staticmethod
    def dumps(value: Any, /) -> bytes:
        """Return the value as compact UTF-8. Raises NotSerializable with a sentence that names type and place."""
        try:
            if type(value) is int:
                return repr(value).encode()
            if type(value) not in _SCALARS:
                refuse_what_json_changes(value)
            return _encode(value).encode()
        except UnicodeEncodeError:
            raise NotSerializable("JSON cannot carry text that is not valid Unicode (a lone surrogate).") from None
        except RecursionError:
            raise NotSerializable("JSON cannot carry a value that is nested too deeply or holds itself.") from None
        except ValueError as e:  # NaN, infinities, integers of more than 4300 digits
            raise NotSerializable(f"JSON cannot carry this value: {str(e).rstrip('.')}.") from None

    @staticmethod
    def loads(data: bytes, /) -> Any:
        """Return what ``json.loads`` returns. A call or a list in UTF-8 without space around it, which is what we
        write, is read without the steps of ``json.loads`` that it does not need."""
        if data[:1] == b"[" and data[1:2] != b"\0":  # by these two bytes it is no UTF-16 and no UTF-32
            text = data.decode("utf-8", "surrogatepass")
            try:
                value, end = _scan(text, 0)
            except StopIteration:
                pass
            else:
                if end == len(text):
                    return value
        return json.loads(data)


class Auto:
    """Reads JSON and pickle, told apart by the first byte; writes JSON.

    Reading a pickle runs code of whoever wrote it: use it only on a store that nobody else writes to.
    """

    dumps = JSON.dumps

    @staticmethod
    def loads(data: bytes, /) -> Any:
        return unpickled(data) if format_of(data) == "pickle" else JSON.loads(data)


class _Unpickler(pickle.Unpickler):
    """Refuses names of ``__main__`` where that is a program of jobq's: the pickle means the script that made it, whose
    names would be missing here, or mistaken for others."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__" and _main_is_ours():
            raise NotServed(
                f"{name} is defined in __main__, the script of the program that enqueued it, and a worker does not "
                "have that script: move it into a module that both import."
            )
        return super().find_class(module, name)


def _main_is_ours() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in ("jobqueue", "workers")


def unpickled(data: bytes) -> Any:
    """Read a pickle, which runs code of whoever wrote it. Raises NotServed for names in ``__main__``."""
    return _Unpickler(io.BytesIO(data)).load()


class OfJob:
    """The serializer for one job's meta and results: reads the formats that a worker accepts, writes that of the job's
    data.

    With ``accept`` json only, no pickle is ever opened, whatever the job holds; it raises NotServed then.
    """

    def __init__(self, kind: str, accept: Collection[str]) -> None:
        self._kind = kind
        self._accept = accept

    def dumps(self, value: Any, /) -> bytes:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL) if self._kind == "pickle" else JSON.dumps(value)

    def loads(self, data: bytes, /) -> Any:
        if (kind := format_of(data)) not in self._accept:
            raise NotServed(f"This is {kind}, which this worker does not read: start it with --accept json,{kind}.")
        return Auto.loads(data)


def refuse_what_json_changes(value: Any, path: str = "") -> None:
    """Raise NotSerializable if json would refuse the value or return another. path: where the value is, for the
    message."""
    kind = type(value)
    if kind is list or kind is tuple:
        for i, item in enumerate(value):
            if type(item) not in _SCALARS:
                refuse_what_json_changes(item, f"{path}[{i}]")
        return
    if isinstance(value, enum.Enum):
        raise NotSerializable(
            f"JSON cannot carry {_shown(value)}{_at(path)}, a member of an enum: give its .value or .name."
        )
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or isinstance(key, enum.Enum):
                raise NotSerializable(
                    f"JSON cannot carry a dict with the key {_shown(key)}{_at(path)}: keys must be text."
                )
            if type(item) not in _SCALARS:
                refuse_what_json_changes(item, f"{path}[{_shown(key)}]")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if type(item) not in _SCALARS:
                refuse_what_json_changes(item, f"{path}[{i}]")
    elif value is not None and not isinstance(value, (str, int, float)):
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        hint = ": it would lose the names of its fields; give a tuple or a dict" if isinstance(value, tuple) else ""
        raise NotSerializable(f"JSON cannot carry a value of type {name}{_at(path)}{hint}.")


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # the repr of a user's class
        return f"<{type(value).__name__}>"


def _at(path: str) -> str:
    return f" (at {path})" if path else ""


def format_of(data: bytes) -> Literal["json", "pickle"]:
    """Return the format of job data or of a result by its first byte.

    0x80 begins every pickle since protocol 2, and no JSON text.
    """
    return "pickle" if data[:1] == b"\x80" else "json"


def compress(data: bytes) -> bytes:
    """Return the data in a form that RQ's readers accept: zlib when that saves space, else raw."""
    return zlib.compress(data) if len(data) > SMALLEST_ZIPPED else data


def decompress(data: bytes) -> bytes:
    """Undo ``compress``, and RQ's own zlib.compress."""
    if data[:1] != b"x":  # every usual zlib header begins with x, no JSON text and no pickle does
        return data
    try:
        return zlib.decompress(data)
    except zlib.error:  # raw data of an unknown format; RQ's Job.restore does the same
        return data
