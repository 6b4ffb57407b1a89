"""What django.tasks calls a result, read from a job."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from traceback import format_exception
from typing import Any

import rq.job
from django.conf import settings
from django.tasks import Task, TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.utils import timezone
from django.utils.json import normalize_json
from django.utils.module_loading import import_string
from rq.results import Result

from jobqueue.results.streams import last_line

META = "django_task"  # the key of the job's meta under which stands what the job does not say itself
_STATUS = {
    "started": "RUNNING",
    "finished": "SUCCESSFUL",
    "failed": "FAILED",
    "stopped": "FAILED",
    "canceled": "FAILED",
}
_CLASS = re.compile(r"[A-Za-z_][\w.]*")
_ENDS = {"stopped": "jobqueue.errors.JobStopped", "canceled": "jobqueue.errors.JobCanceled"}


def meta_of(task: Task, backend: str) -> dict[str, Any]:
    """Return the meta of a task's job."""
    after = None if task.run_after is None else task.run_after.isoformat()
    return {META: {"backend": backend, "queue": task.queue_name, "priority": task.priority, "run_after": after}}


def running_result(task: Task, job: rq.job.Job, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
    """Return the result of a task whose job runs in this process."""
    return _result(_as_enqueued(task, job), job, "RUNNING", args, kwargs)


def result_of(job: rq.job.Job) -> TaskResult | None:
    """Return the result of the task that a job has run or will run; None if its function is no task any more."""
    try:
        task = import_string(job.func_name or "")
    except ImportError:
        return None
    if not isinstance(task, Task) or META not in (job.meta or {}):
        return None
    status = job.get_status(refresh=False).value
    result = _result(_as_enqueued(task, job), job, _STATUS.get(status, "READY"), job.args or (), job.kwargs or {})
    if result.status == TaskResultStatus.SUCCESSFUL:
        changed(result, _return_value=job.return_value())
    elif result.status == TaskResultStatus.FAILED:
        changed(result, errors=[_error_in(status, job.latest_result())])
    return result


def as_json(value: Any) -> Any:
    """Return the value as JSON returns it. Django's tasks take whatever ``json.dumps`` takes, also members of an enum,
    which jobq's JSON refuses. Raises TypeError."""
    return json.loads(json.dumps(normalize_json(value)))


def changed(result: TaskResult, **fields: Any) -> None:
    """Change fields of a result, as Django's own backends do: it is frozen for its users."""
    for name, value in fields.items():
        object.__setattr__(result, name, value)


def error_of(error: BaseException) -> TaskError:
    """Return what django.tasks keeps of an exception."""
    kind = type(error)
    return TaskError(
        exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback="".join(format_exception(error))
    )


def _result(task: Task, job: rq.job.Job, status: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
    began = _time(job.started_at)
    tries = 1 + getattr(job, "crashes", 0) if job.worker_name else 0  # of a job whose process died, the last is known
    return TaskResult(
        task=task,
        id=job.id,
        status=TaskResultStatus[status],
        enqueued_at=_time(job.enqueued_at or job.created_at),
        started_at=began,
        last_attempted_at=began,
        finished_at=_time(job.ended_at),
        args=list(args),
        kwargs=dict(kwargs),
        backend=task.backend,
        errors=[],
        worker_ids=[job.worker_name] * tries,
    )


def _as_enqueued(task: Task, job: rq.job.Job) -> Task:
    """Return the task with what ``using`` has changed."""
    said = (job.meta or {}).get(META) or {}
    after = said.get("run_after")
    return task.using(
        backend=said.get("backend"),
        queue_name=said.get("queue"),
        priority=said.get("priority"),
        run_after=datetime.fromisoformat(after) if after else None,
    )


def _error_in(status: str, result: Result | None) -> TaskError:
    text = (result.exc_string if result is not None else None) or f"The task was {status}."
    if status in _ENDS:
        return TaskError(exception_class_path=_ENDS[status], traceback=text)
    found = _CLASS.match(last_line(text))
    path = found[0].rstrip(".") if found else ""
    return TaskError(exception_class_path=path if "." in path else f"builtins.{path}", traceback=text)


def _time(moment: datetime | None) -> datetime | None:
    """Return a time as Django has times: without a zone where USE_TZ is off."""
    if moment is None or settings.USE_TZ:
        return moment
    naive: datetime = timezone.make_naive(moment)
    return naive
