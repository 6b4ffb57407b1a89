"""What jobq promises inside of a Django process, run by `manage.py test`: against a real store and a real database."""

import pickle
from datetime import UTC, datetime

from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from rq import Callback
from rq.queue import Queue as RqQueue

from jobqueue import NoSuchJob, NotSerializable, UsageError
from jobqueue.django import enqueue, get_connection, get_queue, get_queues, get_worker
from jobqueue.django.addresses import identity, url_of
from jobqueue.django.command_line import prepared
from jobqueue.django.priorities import level_of
from jobqueue.django.queues import DjangoQueue
from jobqueue.django.settings import queue_settings, served_modules
from shop import tasks
from shop.models import Order

STORE = settings.JOBQ["URL"]


class EmptyStore:
    def setUp(self):
        super().setUp()
        get_connection().flushall()

    def waiting(self, name="default"):
        return get_queue(name).job_ids


class Transactions(EmptyStore, TransactionTestCase):
    def test_jobs_are_sent_at_the_commit(self):
        queue = get_queue()
        with transaction.atomic():
            order = Order.objects.create(what="tea")
            jobs = [
                enqueue(tasks.count),
                tasks.count.delay(),
                queue.enqueue(tasks.count, job_id="mine"),
                queue.enqueue(tasks.count, on_success=Callback("shop.tasks.count")),
                *queue.enqueue_many(tasks.count, *[[] for _ in range(0)]),
            ]
            late = queue.enqueue_at(datetime(2030, 1, 1, tzinfo=UTC), tasks.count)
            mail = tasks.send.delay(order.pk)
            many = queue.enqueue_many([RqQueue.prepare_data("shop.tasks.count")])
            repeated = queue.schedule(tasks.count, every=60)
            self.assertEqual((self.waiting(), self.waiting("mail")), ([], []))
            self.assertEqual(get_connection().dbsize(), 0)
        self.assertEqual(self.waiting(), [job.id for job in (*jobs, *many)])
        self.assertEqual(self.waiting("mail"), [mail.id])
        self.assertEqual(queue.scheduled_job_registry.get_job_ids(), [late.id])
        self.assertTrue(repeated)
        self.assertEqual(mail.timeout, 30)

    def test_a_rollback_sends_nothing(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            enqueue(tasks.count)
            raise ZeroDivisionError
        with transaction.atomic():
            with self.assertRaises(ZeroDivisionError), transaction.atomic():
                enqueue(tasks.count)
                raise ZeroDivisionError
        self.assertEqual(self.waiting(), [])

    def test_what_is_wrong_is_raised_at_the_call(self):
        with transaction.atomic():
            with self.assertRaises(NotSerializable):
                enqueue(tasks.count, {1, 2})
            with self.assertRaises(UsageError):
                get_queue().map(tasks.count, [1])
            with self.assertRaises(NoSuchJob):
                enqueue(tasks.count).result(20)

    def test_it_can_be_switched_off(self):
        with transaction.atomic():
            ours = [get_queue(on_commit=False), get_queue(commit_mode="auto"), get_queue(autocommit=True)]
            with override_settings(JOBQ={**settings.JOBQ, "ON_COMMIT": False}):
                ours.append(get_queue())
            jobs = [queue.enqueue(tasks.count) for queue in ours]
            self.assertEqual(self.waiting(), [job.id for job in jobs])

    def test_another_database_counts_if_it_is_named(self):
        with self.assertRaises(Exception) as raised, transaction.atomic():
            get_queue(on_commit="nosuch").enqueue(tasks.count)
        self.assertIn("nosuch", str(raised.exception))

    def test_rqs_worker_in_this_process(self):
        order = Order.objects.create(what="tea")
        job = tasks.send.delay(order.pk)
        get_worker("mail", worker_class="jobqueue.rq.SimpleWorker").work(burst=True)
        self.assertEqual(job.result(1), "sent tea")


class InATestCase(EmptyStore, TestCase):
    """TestCase keeps a transaction open around each test."""

    def test_callbacks_of_the_commit_send(self):
        with self.captureOnCommitCallbacks(execute=True):
            jobs = [enqueue(tasks.count), get_queue().enqueue(tasks.count, job_id="mine")]
            self.assertEqual(self.waiting(), [])
        self.assertEqual(self.waiting(), [job.id for job in jobs])

    def test_a_worker_leaves_the_transaction_of_the_test_alone(self):
        order = Order.objects.create(what="tea")
        with self.captureOnCommitCallbacks(execute=True):
            job = tasks.send.delay(order.pk)
        get_worker("mail", worker_class="jobqueue.rq.SimpleWorker").work(burst=True)
        self.assertEqual(job.result(1), "sent tea")
        self.assertTrue(connection.in_atomic_block)
        self.assertEqual(Order.objects.count(), 1)


class Settings(EmptyStore, SimpleTestCase):
    databases = frozenset({"default"})

    def test_queues_and_their_settings(self):
        ours = {"URL": STORE, "DEFAULT_TIMEOUT": 60, "QUEUES": {"a": {}, "b": {"DEFAULT_TIMEOUT": 5, "ASYNC": False}}}
        with override_settings(JOBQ={**ours, "DEFAULT_RESULT_TTL": 77}):
            self.assertEqual(get_queue("a")._default_timeout, 60)
            self.assertEqual((get_queue("b")._default_timeout, get_queue("b").is_async), (5, False))
            for job in (get_queue("a").enqueue(tasks.count), get_queue("a").enqueue(tasks.count, job_id="x")):
                self.assertEqual((job.result_ttl, job.timeout), (77, 60))
            self.assertEqual(get_queue("a").enqueue(tasks.count, result_ttl=5).result_ttl, 5)
            self.assertEqual([queue.name for queue in get_queues("a", "b")], ["a", "b"])
            with self.assertRaisesMessage(ImproperlyConfigured, "There is no queue 'default' in the settings: a, b."):
                enqueue(tasks.count)

    def test_wrong_settings_are_found_by_check(self):
        for wrong, said in [
            ({"QUEUE": {}}, "JOBQ has no setting 'QUEUE'. Did you mean QUEUES?"),
            ({"QUEUES": {"a": {"TIMEOUT": 5}}}, "JOBQ['QUEUES']['a'] has no setting 'TIMEOUT'."),
            ({"MODULES": "shop"}, "JOBQ['MODULES'] is a list"),
            ({"QUEUES": {"a": {"SENTINELS": [("x", 1)]}}}, "SENTINELS goes with MASTER_NAME"),
        ]:
            with self.subTest(said), override_settings(JOBQ=wrong):
                found = [error.msg for error in run_checks()]
                self.assertTrue(any(said in text for text in found), found)
        self.assertEqual(run_checks(), [])

    def test_settings_of_django_rq(self):
        queues = {"default": {"URL": STORE, "DEFAULT_TIMEOUT": 9, "DEFAULT_RESULT_TTL": 8}, "low": {"URL": STORE}}
        with override_settings(JOBQ=None, RQ_QUEUES=queues, RQ={"DEFAULT_RESULT_TTL": 7}):
            job = enqueue(pickle.dumps, {1, 2})
            self.assertEqual((job.timeout, job.result_ttl), (9, 8))
            self.assertEqual(get_queue("low").enqueue(tasks.count).result_ttl, 7)
            self.assertEqual(prepared(["worker", "low"])[-2:], ["--accept=json,pickle", "low"])
            self.assertTrue(queue_settings("low").on_commit)
        with override_settings(JOBQ=None, RQ_QUEUES=queues, RQ={"COMMIT_MODE": "auto"}):
            self.assertFalse(queue_settings("low").on_commit)
        with override_settings(JOBQ=None, RQ_QUEUES=queues, RQ={"COMMIT_MODE": "request_finished"}):
            with self.assertRaisesMessage(ImproperlyConfigured, "jobq has no commit mode 'request_finished'"):
                get_queue("low")

    def test_classes_of_the_projects_own(self):
        class Mine(DjangoQueue):
            pass

        self.assertIsInstance(get_queue(queue_class=Mine), Mine)
        self.assertIs(type(get_queue(queue_class="rq.Queue")), RqQueue)
        self.assertEqual(get_queue(queue_class="rq.Queue").enqueue(tasks.count).origin, "default")

    def test_addresses(self):
        sentinels = {"SENTINELS": [("a", 1), ("b", 2)], "MASTER_NAME": "main", "PASSWORD": "p/w", "DB": 2}
        for config, url in [
            ({}, None),
            ({"HOST": "h", "PORT": 1, "DB": 2}, "redis://h:1/2"),
            ({"HOST": "::1", "USERNAME": "u", "PASSWORD": "p@:"}, "redis://u:p%40%3A@[::1]:6379/0"),
            ({"HOST": "h", "SSL": True, "SSL_CERT_REQS": None}, "rediss://h:6379/0?ssl_cert_reqs=none"),
            ({"HOST": "h", "REDIS_CLIENT_KWARGS": {"ssl_ca_certs": "/x"}}, "redis://h:6379/0?ssl_ca_certs=%2Fx"),
            ({"URL": "redis://h/3", "DB": 1}, "redis://h/3"),
            ({"URL": "redis://h", "DB": 1}, "redis://h?db=1"),
            ({"UNIX_SOCKET_PATH": "/run/s", "DB": 1}, "unix:///run/s?db=1"),
            (sentinels, "redis+sentinel://:p%2Fw@a:1,b:2/main/2"),
            ({**sentinels, "SENTINEL_KWARGS": {"password": "q"}, "PASSWORD": ""},
             "redis+sentinel://a:1,b:2/main/2?sentinel_password=q"),
        ]:  # fmt: skip
            self.assertEqual(url_of(config), url)
        same = ["redis://localhost", "redis://localhost:6379/0", "redis://localhost:6379?db=0"]
        self.assertEqual(len({identity(url) for url in same}), 1)
        self.assertEqual(len({identity(url) for url in ("redis://a/1", "redis://a/2", "unix:///a", None)}), 4)
        with override_settings(CACHES={"c": {"LOCATION": "redis://cache/1"}}):
            self.assertEqual(url_of({"USE_REDIS_CACHE": "c"}), "redis://cache/1")

    def test_levels_of_priorities(self):
        levels = (50, 10, 0, -10)
        found = [level_of(priority, levels) for priority in (100, 50, 49, 10, 9, 0, -9, -10, -100)]
        self.assertEqual(found, [50, 50, 10, 10, 0, 0, 0, -10, -10])

    def test_the_command(self):
        self.assertEqual(served_modules(), ("shop.tasks",))
        found = prepared(["worker", "--settings", "config", "-n", "2", "--pythonpath=/x", "mail"])
        self.assertEqual(found[-4:], ["--import=shop.tasks", "-n", "2", "mail"])
        self.assertEqual(found[:2], ["worker", found[1]])
        self.assertEqual(prepared(["worker", "-I", "x"])[-2:], ["-I", "x"])
        call_command("jobq", "info")
        with self.assertRaises(CommandError):
            call_command("jobq", "nosuch")
