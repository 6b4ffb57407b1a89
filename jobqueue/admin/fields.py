"""Turn the fields of hashes, as workers and producers wrote them, into the views of ``jobqueue.model``.

Nothing is unpickled, and a field with an invalid value counts as missing: reading must not fail because of what was
written into the store.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jobqueue.model import JobView, WaitingJob, WorkerView
from jobqueue.serializers import decompress, format_of

Fields = Mapping[bytes, bytes]


def waiting_job(job_id: str, queue: str, position: int, fields: Any) -> WaitingJob:
    description, enqueued_at = fields if isinstance(fields, list) else (None, None)
    text = description.decode(errors="replace") if description is not None else "(no such job: workers pass over it)"
    return WaitingJob(job_id, queue, position, time_of(enqueued_at), text)


def job_view(
    job_id: str, status: str, queue: str, fields: Fields, ttl: int, entries: Any, position: Any, scheduled: Any
) -> JobView:
    format_: str = format_of(decompress(fields[b"data"]))
    function, args, kwargs = call_of(fields[b"data"])
    if format_ == "json" and function is None:
        format_ = "unknown"
    returned = entries[0][1].get(b"return_value") if entries and entries[0][1].get(b"type") == b"1" else None
    return JobView(
        id=job_id,
        status=status,
        queue=queue,
        description=text_of(fields, b"description") or "",
        format=format_,
        function=function,
        args=args,
        kwargs=kwargs,
        position=position,
        worker=text_of(fields, b"worker_name") or None,
        created_at=time_of(fields.get(b"created_at")),
        enqueued_at=time_of(fields.get(b"enqueued_at")),
        started_at=time_of(fields.get(b"started_at")),
        ended_at=time_of(fields.get(b"ended_at")),
        last_heartbeat=time_of(fields.get(b"last_heartbeat")),
        scheduled_for=None if scheduled is None else datetime.fromtimestamp(scheduled, UTC),
        expires_in=ttl / 1000 if ttl >= 0 else None,
        timeout=_int(fields, b"timeout"),
        ttl=_int(fields, b"ttl"),
        result_ttl=_int(fields, b"result_ttl"),
        failure_ttl=_int(fields, b"failure_ttl"),
        retries_left=_int(fields, b"retries_left"),
        on_crash=text_of(fields, b"jobq_on_crash"),
        crashes=_int(fields, b"jobq_crashes") or 0,
        redelivered=_int(fields, b"jobq_redelivered") or 0,
        depends_on=_names(_json(fields.get(b"dependency_ids"))),
        allow_failure=(text_of(fields, b"allow_dependency_failures") or "") in ("1", "True"),
        meta=_json(fields.get(b"meta")),
        has_result=bool(entries) and status == "finished",
        result=_returned(returned) if returned and status == "finished" else None,
        traceback=traceback_of(fields.get(b"exc_info"), entries) if status in ("failed", "stopped") else None,
    )


def worker_view(name: str, fields: Fields, running: Any) -> WorkerView:
    heartbeat = time_of(fields.get(b"last_heartbeat"))
    return WorkerView(
        name=name,
        state=text_of(fields, b"state") or "?",
        queues=(text_of(fields, b"queues") or "").split(","),
        hostname=text_of(fields, b"hostname"),
        pid=_int(fields, b"pid"),
        running=running if isinstance(running, int) else 0,
        done=_int(fields, b"successful_job_count") or 0,
        failed=_int(fields, b"failed_job_count") or 0,
        working_time=_float(fields, b"total_working_time"),
        heartbeat_age=(datetime.now(UTC) - heartbeat).total_seconds() if heartbeat else None,
        slots=_int(fields, b"jobq_slots"),
    )


def call_of(packed: bytes) -> tuple[str | None, list[Any] | None, dict[str, Any] | None]:
    """Return function, args and kwargs of a job's data; None for each where it is not JSON."""
    data = decompress(packed)
    call = _json(data) if format_of(data) == "json" else None
    if not isinstance(call, list) or len(call) != 4:
        return None, None, None
    return call[0], call[2], call[3]


def traceback_of(exc_info: bytes | None, entries: Any) -> str | None:
    packed = entries[0][1].get(b"exc_string") if entries else None
    if packed:
        try:
            return zlib.decompress(base64.b64decode(packed)).decode(errors="replace")
        except (ValueError, zlib.error):
            return "(its traceback cannot be read)"
    return decompress(exc_info).decode(errors="replace") if exc_info else None


def _json(data: bytes | None) -> Any:
    """Return the value; None for what is not JSON, because a pickle is not opened only to look at it."""
    try:
        return json.loads(data) if data else None
    except ValueError:
        return None


def _names(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _returned(value: bytes) -> Any:
    try:
        return _json(base64.b64decode(value))
    except ValueError:
        return None


def text_of(fields: Fields, name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode(errors="replace")


def _float(fields: Fields, name: bytes) -> float:
    try:
        return float(fields.get(name) or 0)
    except ValueError:
        return 0.0


def counts(replies: list[Any]) -> list[int]:
    """Return the numbers; 0 for a key of a wrong type, which holds none of what is counted. Raises any other error."""
    for reply in replies:
        if isinstance(reply, Exception) and "WRONGTYPE" not in str(reply):
            raise reply
    return [0 if isinstance(reply, Exception) else reply for reply in replies]


def _int(fields: Fields, name: bytes) -> int | None:
    """Return the number; None for a missing field or one that is not a number."""
    try:
        return int(fields.get(name) or b"")
    except ValueError:
        return None


def time_of(value: bytes | None) -> datetime | None:
    """Return the aware time; None for a missing field or one that is not a time."""
    try:
        moment = datetime.fromisoformat((value or b"").decode())
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
