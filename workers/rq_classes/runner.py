"""Run a job as RQ's worker does: its serializer, any function, its text for results that cannot be encoded."""

from __future__ import annotations

import base64
import sys
import zlib
from collections.abc import Callable
from typing import Any

from rq.defaults import UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
from rq.exceptions import DeserializationError
from rq.utils import import_attribute

from jobqueue.protocol.outcomes import RETURNED
from jobqueue.workers.running.limits import PASSING
from jobqueue.workers.running.own_classes import OwnRunner
from jobqueue.workers.running.runner import DecodedCall, Ending


class RQRunner(OwnRunner):
    """Decode and encode with RQ's serializer, and find functions as RQ does."""

    name = "?"  # of what was decoded last, for the log
    on_decoded: Callable[[Any], None] = staticmethod(lambda call: None)  # told name and arguments; None: no call

    def decode(self, data: bytes) -> DecodedCall:
        self.name = "?"
        try:
            name, instance, args, kwargs = self.reads.loads(_decompressed(data))
        except PASSING:
            raise
        except Exception as e:
            self.on_decoded(None)
            raise DeserializationError() from e
        self.name = name
        self.on_decoded((name, args, kwargs))
        return DecodedCall(getattr(instance, name) if instance else _function(name), args, kwargs, "rq", name)

    def _resolve(self, name: str) -> Callable[..., Any]:
        """Return a callback; raise RQ's error if it does not exist."""
        found: Callable[..., Any] = import_attribute(name)
        return found

    def returned(self, value: Any, call: DecodedCall) -> Ending:
        """Encode a result as RQ's Result.serialize does: RQ's text replaces a result that cannot be encoded."""
        if value is None:
            return Ending(RETURNED, b"", None)
        try:
            encoded = self.reads.dumps(value)
        except PASSING:
            raise
        except Exception:
            encoded = self.reads.dumps(UNSERIALIZABLE_RETURN_VALUE_PAYLOAD)
        return Ending(RETURNED, base64.b64encode(encoded), value)


def _decompressed(data: bytes) -> bytes:
    """Decompress the data as RQ's Job.restore does."""
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


def _function(name: str) -> Callable[..., Any]:
    """Find a function as RQ's import_attribute does, but faster if its module is imported already."""
    home, _, attribute = name.rpartition(".")
    found: Any = getattr(sys.modules.get(home), attribute, None) or import_attribute(name)
    function: Callable[..., Any] = found
    return function
