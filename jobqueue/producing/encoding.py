"""Encode jobs for the request that enqueues them: the fields that a chunk shares, and each job's own part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from rq.job import Retry
from rq.queue import EnqueueArgs

from jobqueue.errors import NotSerializable, UsageError
from jobqueue.protocol import keys, resp
from jobqueue.serializers import JSON, compress, decompress, refuse_what_json_changes

LARGEST = 512 * 2**20  # bytes that a Redis server accepts in one value, unless configured otherwise
SOON_GONE = 60  # seconds; a job that is kept for less may be gone when a repeated request checks whether it exists
_LONGEST_ARGUMENT = 75  # characters of an argument in a description, as in RQ


class EncodedCall(NamedTuple):
    """A job's own part of a chunk: its id, its data as it is stored, its description."""

    id: str
    data: bytes
    description: bytes


def encode_call(serializer: Any, job_id: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> EncodedCall:
    """Encode one call. Raises NotSerializable, for JSON with the path to the value that it cannot carry."""
    try:
        data = serializer.dumps((name, None, args, kwargs))
    except NotSerializable:
        if serializer is not JSON:
            raise
        with suppress(RecursionError):  # for a value that contains itself, the first error is right
            refuse_what_json_changes(list(args), "args")  # raises again, with the path in the caller's terms
            refuse_what_json_changes(kwargs, "kwargs")
        raise
    except RecursionError:
        raise NotSerializable("The arguments are nested too deeply for this format.") from None
    return EncodedCall(job_id, not_too_large(compress(data)), description_of(name, args, kwargs))


def decoded_call(serializer: Any, call: EncodedCall) -> tuple[str, Sequence[Any], Mapping[str, Any]]:
    """Return the name and the arguments of a call that was encoded with this serializer."""
    name, _, args, kwargs = serializer.loads(decompress(call.data))
    return name, args, kwargs


@dataclass(frozen=True)
class SharedFields:
    """What jobs with the same options have in common: hash fields, end of the queue, time to live in it."""

    fields: Mapping[str, bytes]
    at_front: bool = False
    ttl: int | None = None

    def with_fields(self, more: Mapping[str, bytes]) -> SharedFields:
        """Return the same with more fields."""
        return replace(self, fields={**self.fields, **more}) if more else self

    @cached_property
    def packed(self) -> bytes:
        """Return the arguments of SUBMIT that all jobs share, packed: arguments 3 to 7, and the fields."""
        fields = [part for name, value in self.fields.items() for part in (name.encode(), value)]
        kept = [int(self.fields[name]) for name in ("result_ttl", "failure_ttl") if name in self.fields]
        packed = (
            keys.job("").encode(),
            b"LPUSH" if self.at_front else b"RPUSH",
            b"" if self.ttl is None else b"%d" % self.ttl,
            b"1" if any(0 <= seconds <= SOON_GONE for seconds in kept) else b"",
            b"%d" % len(fields),
        )
        return resp.strings((*packed, *fields))

    def all_fields(self, call: EncodedCall, stamp: bytes) -> dict[str, bytes]:
        """Return a job's whole hash."""
        own = {"created_at": stamp, "enqueued_at": stamp, "data": call.data, "description": call.description}
        return {**self.fields, **own}


def option_fields(spec: EnqueueArgs, on_crash: str | None, serializer: Any) -> dict[str, bytes]:
    """Return the hash fields for enqueue's plain options, as RQ writes them. Numbers are within bounds. Raises
    UsageError."""
    fields = {"status": b"queued"}
    for name, seconds in (("result_ttl", spec.result_ttl), ("failure_ttl", spec.failure_ttl), ("ttl", spec.ttl)):
        if seconds is not None:
            fields[name] = b"%d" % seconds
    if spec.meta:
        fields["meta"] = serializer.dumps(spec.meta)
    if spec.retry:
        fields |= _retry_fields(as_retry(spec.retry))
    if on_crash is not None:
        fields["jobq_on_crash"] = on_crash_field(on_crash)
    return fields


def as_retry(retry: Any) -> Any:
    """Return a Retry for a number of retries; return a Retry, or no retries, unchanged."""
    return Retry(max=retry) if retry and isinstance(retry, int) else retry


def _retry_fields(retry: Retry) -> dict[str, bytes]:
    fields = {"retries_left": b"%d" % retry.max, "retry_intervals": json.dumps(retry.intervals).encode()}
    return fields | {"enqueue_at_front_on_retry": b"1"} if retry.enqueue_at_front else fields


def on_crash_field(what: str) -> bytes:
    """Return the value of the hash field for on_crash. Raises UsageError."""
    if what not in ("retry", "fail"):
        raise UsageError(f"on_crash is 'retry' or 'fail', not {what!r}.")
    return what.encode()


def description_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return the call as text, as RQ writes it."""
    texts = [_short(_shown(value)) for value in args]
    if kwargs:
        texts += sorted(f"{key}={_short(_shown(value))}" for key, value in kwargs.items())
    return f"{name}({', '.join(texts)})".encode(errors="backslashreplace")


def _shown(value: Any) -> str:
    """Return the value's repr. That is user code: one that raises must not keep a job from being enqueued."""
    try:
        return repr(value)
    except (Exception, SystemExit) as e:
        return f"<{type(value).__name__}: its repr raised {type(e).__name__}>"


def as_description(text: Any) -> bytes:
    """Return the caller's description as it is stored. Raises UsageError."""
    if not isinstance(text, str):
        raise UsageError(f"A job's description is a text, not of type {type(text).__name__}.")
    return text.encode(errors="backslashreplace")


def not_too_large(data: bytes) -> bytes:
    """Return a job's data. Raises NotSerializable if it is larger than a store accepts in one value: the store would
    hang up after a minute of sending."""
    if len(data) > LARGEST and len(compress(data)) > LARGEST:
        raise NotSerializable(
            f"The arguments take {len(data) / 2**20:,.0f} MB, and a store takes {LARGEST // 2**20} MB: "
            "put them into a file or another store and give the job its name."
        )
    return data


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_ARGUMENT else text[:_LONGEST_ARGUMENT] + "..."


def rq_now() -> bytes:
    """Return the present time as RQ writes it."""
    return b"%bZ" % datetime.now(UTC).isoformat(timespec="microseconds")[:26].encode()


def request(
    queue: str, shared: SharedFields, stamp: bytes, calls: Sequence[EncodedCall], mark: str, attempt: int
) -> tuple[int, bytes]:
    """Return the packed KEYS and ARGV of SUBMIT that follow the script, and the number of strings in them."""
    key, number = keys.queue(queue).encode(), b"%d" % attempt
    head = resp.strings((b"3", keys.submit(mark).encode(), key, keys.QUEUES.encode(), number, stamp))
    own = [b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % _sized(*call) for call in calls]
    return 11 + 2 * len(shared.fields) + 3 * len(calls), b"".join((head, shared.packed, *own))


def _sized(job_id: str, data: bytes, text: bytes) -> tuple[int, bytes, int, bytes, int, bytes]:
    name = job_id.encode()
    return len(name), name, len(data), data, len(text), text
