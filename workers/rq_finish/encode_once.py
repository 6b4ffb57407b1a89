"""Serializers for a job that is being finished, which run as little of the user's code as the record needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobqueue.workers.running.limits import OURS


class EncodedOnce:
    """The job's own serializer, except for the result: that was encoded within the job's time limit already."""

    def __init__(self, serializer: Any) -> None:
        self._serializer = serializer
        self._value: Any = None
        self._encoded = b""

    def has(self, value: Any, encoded: bytes) -> Any:
        """Keep a result that is encoded already. Return the object that stands for it: the value, if it is known."""
        self._value, self._encoded = self if value is None else value, encoded
        return self._value

    def dumps(self, value: Any) -> bytes:
        if value is None:  # RQ encodes a result of None, and then does not write it
            return b""
        if value is self._value:
            return self._encoded
        encoded: bytes = _called(self._serializer.dumps, value)
        return encoded

    def loads(self, data: bytes) -> Any:
        return _called(self._serializer.loads, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._serializer, name)


def _called(code: Callable[[Any], Any], value: Any) -> Any:
    """Call the job's own code. An exception such as SystemExit becomes a ValueError: it fails the job and does not end
    the process."""
    try:
        return code(value)
    except (Exception, *OURS):
        raise
    except BaseException as e:
        raise ValueError(f"the serializer met {type(e).__name__}") from e


class Sealed:
    """A serializer that reads nothing: RQ leaves data that it cannot read as it is in the store."""

    def dumps(self, _value: Any) -> bytes:
        return b""

    def loads(self, _data: bytes) -> Any:
        raise ValueError("this is recorded without the job's serializer")
