"""Runs a job as RQ's worker would: its serializer, any function, its sentence for what the format cannot carry."""

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
    """Decodes and encodes with RQ's serializer, and finds functions as RQ does."""

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
        """A callback, in RQ's words if it is not there."""
        found: Callable[..., Any] = import_attribute(name)
        return found

    def returned(self, value: Any, call: DecodedCall) -> Ending:
        """As RQ's Result.serialize: what cannot be carried is replaced by a sentence that says so."""
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
    """As in RQ's Job.restore."""
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


def _function(name: str) -> Callable[..., Any]:
    """As RQ's import_attribute; quick for what is imported already."""
    home, _, attribute = name.rpartition(".")
    found: Any = getattr(sys.modules.get(home), attribute, None) or import_attribute(name)
    function: Callable[..., Any] = found
    return function
