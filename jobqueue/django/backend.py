"""A backend for django.tasks (Django 6): a task becomes a job that is named like the task's function.

TASKS = {"default": {"BACKEND": "jobqueue.django.backend.JobqBackend", "QUEUES": ["default", "mail"]}}

task.enqueue ──► JobqBackend.enqueue ──► DjangoQueue ──► a worker finds shop.tasks.resize, a JobqTask, and calls it
get_result   ──► JobqBackend.get_result ──► task_results.py, which reads the job
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.tasks import Task, TaskContext, TaskResult, TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.utils import timezone
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import get_current_job

from jobqueue.django.priorities import LEVELS, level_of, queue_of
from jobqueue.django.queues import connection_of, make_queue
from jobqueue.django.settings import BadSettings, queue_settings
from jobqueue.django.task_results import as_json, changed, error_of, meta_of, result_of, running_result
from jobqueue.job import Job


class JobqTask(Task):
    """What ``@task`` makes of a function: workers find it under the function's name, and call it."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """(in a worker) Run the task as Django asks: with its context if it takes one, and with Django's signals, whose
        receivers change no outcome."""
        job = get_current_job()
        if job is None:
            return self.call(*args, **kwargs)
        result = running_result(self, job, args, kwargs)
        task_started.send_robust(JobqBackend, task_result=result)
        try:
            first = (TaskContext(task_result=result),) if self.takes_context else ()
            value = as_json(self.call(*first, *args, **kwargs))
        except Exception as e:
            changed(result, status=TaskResultStatus.FAILED, finished_at=timezone.now(), errors=[error_of(e)])
            task_finished.send_robust(JobqBackend, task_result=result)
            raise
        changed(result, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)
        task_finished.send_robust(JobqBackend, task_result=result)
        return value


class JobqBackend(BaseTaskBackend):
    """Named by BACKEND in TASKS. OPTIONS may have PRIORITIES, the levels of priorities.py."""

    task_class = JobqTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self.levels = frozenset({0, *self.options.get("PRIORITIES", LEVELS)})

    def enqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Enqueue a task; in a transaction, at its commit, unless the settings of its queue have ON_COMMIT: False.

        Raises InvalidTask, TypeError for arguments that JSON cannot carry, and what DjangoQueue.enqueue raises.
        """
        self.validate_task(task)
        if not isinstance(task, JobqTask):
            raise InvalidTask(
                f"{task.module_path} is decorated for another backend, so a worker of jobq could not call it: "
                f"decorate it with @task(backend={self.alias!r})."
            )
        result = TaskResult(
            task=task,
            id="",
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=as_json(args),
            kwargs=as_json(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        changed(result, id=self._send(task, result).id)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Return what is known of a task. Raises TaskResultDoesNotExist: never enqueued, not committed yet, or expired
        (DEFAULT_RESULT_TTL of its queue)."""
        stores = {(said.url, said.serializer): said for said in map(queue_settings, sorted(self._queues()))}
        for said in stores.values():
            try:
                job = Job.fetch(str(result_id), connection=connection_of(said), serializer=said.serializer)
                if (result := result_of(job)) is not None:
                    return result
            except (NoSuchJobError, DeserializationError, ValueError):  # none, or one of another format: not a task's
                continue
        raise TaskResultDoesNotExist(result_id)

    def check(self, **_options: Any) -> list[CheckMessage]:
        """Check that each queue of this backend is one of the settings, and the levels, for `manage.py check`."""
        try:
            for name in self._queues():
                queue_settings(name)
        except BadSettings as e:
            return [Error(f"TASKS[{self.alias!r}]: {e}", id="jobq.E002")]
        if not all(isinstance(level, int) and -100 <= level <= 100 for level in self.levels):
            said = "PRIORITIES is a list of whole numbers from -100 to 100."
            return [Error(f"TASKS[{self.alias!r}]: {said}", id="jobq.E003")]
        return []

    def _queues(self) -> set[str]:
        return set(self.queues) or {"default"}

    def _send(self, task: Task, result: TaskResult) -> Any:
        name = queue_of(task.queue_name, level_of(task.priority, self.levels))
        queue = make_queue(queue_settings(task.queue_name), name)
        meta = meta_of(task, self.alias)
        if task.run_after is not None:
            return queue.enqueue_at(task.run_after, task.module_path, args=result.args, kwargs=result.kwargs, meta=meta)
        return queue.enqueue_call(task.module_path, result.args, result.kwargs, meta=meta)
