"""The serializers of a job that is being finished: as little of the user's code as the record needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobqueue.workers.running.limits import OURS


class EncodedOnce:
    """The job's own serializer, but for the result, which was encoded within the job's time limit."""

    def __init__(self, serializer: Any) -> None:
        self._serializer = serializer
        self._value: Any = None
        self._encoded = b""

    def has(self, value: Any, encoded: bytes) -> Any:
        """Return what stands for a result that is encoded already: the value itself, where it is at hand."""
        self._value, self._encoded = self if value is None else value, encoded
        return self._value

    def dumps(self, value: Any) -> bytes:
        if value is None:  # RQ encodes also what it leaves out
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
    """What the job's own code raises there is the job's failure, and ends no process."""
    try:
        return code(value)
    except (Exception, *OURS):
        raise
    except BaseException as e:
        raise ValueError(f"the serializer met {type(e).__name__}") from e


class Sealed:
    """Opens nothing: RQ keeps what it could not read as it is."""

    def dumps(self, _value: Any) -> bytes:
        return b""

    def loads(self, _data: bytes) -> Any:
        raise ValueError("this is recorded without the job's serializer")
