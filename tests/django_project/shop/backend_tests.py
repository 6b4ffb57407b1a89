"""The backend for django.tasks as a producer sees it, run by `manage.py test` on Django 6."""

import asyncio
from datetime import UTC, datetime

from django.core.checks import run_checks
from django.db import transaction
from django.tasks import TaskResultStatus, default_task_backend, task, task_backends
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued
from django.test import TransactionTestCase, override_settings
from rq.queue import Queue as RqQueue

from jobqueue.django import get_connection, get_queue, get_worker
from jobqueue.django.command_line import prepared
from shop import backend_tasks as tasks


class Backend(TransactionTestCase):
    def setUp(self):
        get_connection().flushall()

    def work(self, *queues):
        get_worker(*queues, worker_class="jobqueue.rq.SimpleWorker").work(burst=True, logging_level="WARNING")

    def test_a_task_and_its_result(self):
        heard = []
        task_enqueued.connect(lambda **said: heard.append(said["task_result"].id), weak=False)
        result = tasks.order.enqueue("tea", pieces=2)
        self.assertEqual(heard, [result.id])
        self.assertEqual((result.status, result.attempts, result.backend), (TaskResultStatus.READY, 0, "default"))
        self.assertEqual(get_queue().job_ids, [result.id])
        self.work()
        result.refresh()
        self.assertEqual(result.status, TaskResultStatus.SUCCESSFUL)
        self.assertEqual(result.return_value[1], {"pieces": 2})
        self.assertEqual((result.args, result.kwargs, result.attempts), (["tea"], {"pieces": 2}, 1))
        self.assertLessEqual(result.enqueued_at, result.started_at)
        self.assertLessEqual(result.started_at, result.finished_at)
        self.assertEqual(tasks.order.get_result(result.id).return_value, result.return_value)
        with self.assertRaises(TaskResultMismatch):
            tasks.fails.get_result(result.id)
        with self.assertRaises(TaskResultDoesNotExist):
            default_task_backend.get_result("nosuch")

    def test_a_failure(self):
        result = tasks.fails.enqueue()
        self.work()
        result.refresh()
        self.assertEqual(result.status, TaskResultStatus.FAILED)
        self.assertEqual(result.errors[0].exception_class_path, "shop.models.Order.DoesNotExist")
        self.assertIn("raise Order.DoesNotExist", result.errors[0].traceback)
        with self.assertRaises(ValueError):
            _ = result.return_value

    def test_coroutines_of_producers_and_tasks(self):
        result = asyncio.run(tasks.acount.aenqueue())
        self.work()
        asyncio.run(result.arefresh())
        self.assertEqual(result.return_value, 0)

    def test_the_context(self):
        result = tasks.context.using(priority=0).enqueue("hello")
        self.work("mail")
        result.refresh()
        self.assertEqual(result.return_value, ["hello", 1, result.id, "RUNNING", "default"])

    def test_run_after(self):
        moment = datetime(2040, 1, 1, tzinfo=UTC)
        result = tasks.order.using(run_after=moment).enqueue("tea")
        self.assertEqual(get_queue().scheduled_job_registry.get_job_ids(), [result.id])
        self.assertEqual(get_queue().scheduled_job_registry.get_scheduled_time(result.id), moment)
        found = default_task_backend.get_result(result.id)
        self.assertEqual((found.status, found.task.run_after), (TaskResultStatus.READY, moment))

    def test_priorities_are_queues(self):
        found = [tasks.context.using(priority=priority).enqueue("x").id for priority in (100, 10, 0, -50)]
        there = [key.decode().rpartition(":")[2] for key in get_connection().keys("rq:queue:*")]
        self.assertEqual(sorted(there), ["mail", "mail+10", "mail+50", "mail-10"])
        result = default_task_backend.get_result(found[0])
        self.assertEqual((result.task.priority, result.task.queue_name), (100, "mail"))
        queues = ["mail+50", "mail+10", "mail", "mail-10"]
        self.assertEqual(prepared(["worker", "mail"])[1:5], queues)
        self.assertEqual(prepared(["worker", "mail+50"])[1:3], ["mail+50", "--import=shop.tasks"])
        pickled = RqQueue("default", get_connection()).enqueue("shop.tasks.count")
        with self.assertRaises(TaskResultDoesNotExist):  # a pickle would run code
            default_task_backend.get_result(pickled.id)

    def test_a_transaction(self):
        with transaction.atomic():
            result = tasks.order.enqueue("tea")
            with self.assertRaises(TaskResultDoesNotExist):
                default_task_backend.get_result(result.id)
        self.assertEqual(default_task_backend.get_result(result.id).status, TaskResultStatus.READY)

    def test_what_it_refuses(self):
        for flag in ("defer", "async_task", "get_result", "priority"):
            self.assertTrue(getattr(default_task_backend, f"supports_{flag}"))
        with self.assertRaises(TypeError):
            tasks.order.enqueue({1, 2})
        backends = {
            "default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"},
            "jobq": {"BACKEND": "jobqueue.django.backend.JobqBackend"},
        }
        with override_settings(TASKS=backends):
            other = task(len_of)
            with self.assertRaisesMessage(InvalidTask, "decorate it with @task(backend='jobq')"):
                task_backends["jobq"].enqueue(other.using(backend="jobq"), [], {})
        wrong = {"default": {"BACKEND": "jobqueue.django.backend.JobqBackend", "QUEUES": ["nosuch"]}}
        with override_settings(TASKS=wrong):
            self.assertIn("There is no queue 'nosuch'", " ".join(error.msg for error in run_checks()))


def len_of(text):
    return len(text)
