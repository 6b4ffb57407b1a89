"""Failed jobs are reported to Sentry: the real SDK, with a transport that writes down what it would send."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
import sentry_sdk
from conftest import Start
from helpers import eventually, lines, status
from rq import Retry
from sentry_sdk.transport import Transport

from jobqueue.plugins.sentry import SentryPlugin
from jobqueue.producing.queue import Queue


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sent"
    monkeypatch.setenv("SENT", str(path))
    return path


def events(sent: Path, kind: str = "event") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in lines(sent)]
    return [it for it in found if it["kind"] == kind]


SERVE = ("samples", "samples_sentry")


def test_a_job_that_fails_for_good_is_one_event(
    start: Start, queue: Queue, store: redis.Redis, sent: Path, mode: str
) -> None:
    job = queue.enqueue("samples_sentry.fail", "my secret", retry=Retry(1))
    assert start("-b", "-n", "1", mode=mode, serve=SERVE).wait() == 0
    assert status(store, job.id) == "failed"
    (event,) = events(sent)
    error = event["exception"]["values"][-1]
    assert (error["type"], error["value"]) == ("KeyError", "'no such thing'")
    assert error["mechanism"] == {"type": "jobq", "handled": False}
    assert error["stacktrace"]["frames"][-1]["function"] == "fail"
    known = event["contexts"]["job"]
    assert (known["id"], known["queue"], known["task"], known["attempt"]) == (
        job.id,
        "default",
        "samples_sentry.fail",
        2,
    )
    assert event["tags"]["jobq.task"] == "samples_sentry.fail"
    assert "args" not in known
    assert "my secret" not in json.dumps(event["contexts"])


def test_each_attempt_is_an_event_if_asked_for(start: Start, queue: Queue, sent: Path) -> None:
    queue.enqueue("samples_sentry.fail", retry=Retry(2))
    assert start("-b", "-n", "1", serve=SERVE, JOBQ_SENTRY_RETRIES="1").wait() == 0
    assert [event["contexts"]["job"]["attempt"] for event in events(sent)] == [1, 2, 3]


def test_arguments_are_sent_where_the_sdk_allows_it(start: Start, queue: Queue, sent: Path) -> None:
    queue.enqueue("samples_sentry.fail", "my secret")
    assert start("-b", "-n", "1", serve=SERVE, PII="1").wait() == 0
    assert events(sent)[0]["contexts"]["job"]["args"] == ["my secret"]


def test_what_rqs_code_logs_is_no_second_event(start: Start, queue: Queue, sent: Path) -> None:
    queue.enqueue("samples_sentry.fail", retry=Retry(1))
    assert start("-b", "-n", "1", serve=SERVE, DEFAULTS="1").wait() == 0
    assert len(events(sent)) == 1


def test_nothing_of_one_job_is_in_the_event_of_another(start: Start, queue: Queue, sent: Path) -> None:
    queue.enqueue_many("samples_sentry.tagged", range(100))
    assert start("-b", "-n", "16", mode="thread", serve=SERVE).wait() == 0
    found = events(sent)
    assert sorted(int(event["user"]["id"]) for event in found) == list(range(1, 100, 2))
    for event in found:
        number = event["user"]["id"]
        assert [tag for tag in event["tags"] if tag.startswith("tag-")] == [f"tag-{number}"]
        assert [crumb["message"] for crumb in event["breadcrumbs"]["values"]] == [f"crumb {number}"]
        assert event["exception"]["values"][-1]["value"] == f"number {number}"
    assert len(events(sent, "transaction")) == 100


def test_a_death_is_reported(start: Start, queue: Queue, sent: Path, tmp_path: Path, mode: str) -> None:
    job = queue.enqueue("samples.kill_itself", str(tmp_path / "died"))
    assert start("-b", "-n", "1", mode=mode, serve=SERVE).wait() == 0
    (event,) = events(sent)
    (error,) = event["exception"]["values"]
    assert error["type"] == "ChildKilled"
    assert "was killed by SIGKILL" in error["value"]
    assert event["contexts"]["job"]["id"] == job.id
    assert event["contexts"]["job"]["task"] == "samples.kill_itself"


def test_a_time_limit_is_reported(start: Start, queue: Queue, sent: Path, mode: str) -> None:
    queue.enqueue("samples.nap", 60, job_timeout=1)
    assert start("-b", "-n", "2", mode=mode, serve=SERVE).wait() == 0
    (event,) = events(sent)
    assert "limit" in json.dumps(event["exception"])


def test_a_job_that_cannot_be_decoded_is_reported(start: Start, queue: Queue, sent: Path) -> None:
    queue.enqueue("nowhere.to_be_found")
    assert start("-b", "-n", "1", serve=SERVE).wait() == 0
    (event,) = events(sent)
    assert event["exception"]["values"][-1]["type"] == "NotServed"


def test_a_trace_goes_on_in_the_job(start: Start, store: redis.Redis, sent: Path) -> None:
    class Nowhere(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            pass

    client = sentry_sdk.Client(
        dsn="https://key@sentry.invalid/1",
        transport=Nowhere,
        traces_sample_rate=1.0,
        auto_enabling_integrations=False,  # that for RQ would patch its classes for all later tests of this process
    )
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(client)
        with sentry_sdk.start_transaction(name="a request") as transaction:
            trace = transaction.trace_id
            job = Queue(connection=store).enqueue("samples.ok", 1)
    client.close()
    assert start("-b", "-n", "1", serve=SERVE).wait() == 0
    assert job.result(1) == 1
    (made,) = events(sent, "transaction")
    assert made["contexts"]["trace"]["trace_id"] == trace
    assert made["contexts"]["trace"]["op"] == "queue.task.jobq"
    assert made["transaction"] == "samples.ok"
    assert made["contexts"]["trace"]["data"]["messaging.destination.name"] == "default"


@pytest.mark.parametrize("flag", ["sentry", "all"])
def test_it_can_be_switched_off(start: Start, queue: Queue, sent: Path, flag: str) -> None:
    queue.enqueue("samples_sentry.fail")
    assert start("-b", "-n", "1", "--no-plugin", flag, serve=SERVE).wait() == 0
    assert events(sent) == []


class Sentry(HTTPServer):
    """A server that takes envelopes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[bytes] = []
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        import gzip

        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    server = Sentry()
    yield server
    server.shutdown()
    server.server_close()


def test_with_a_dsn_in_the_environment_nothing_else_is_needed(
    start: Start, queue: Queue, sentry: Sentry, mode: str
) -> None:
    """The event that the last job makes is sent before the worker leaves."""
    queue.enqueue("samples.fail", "the last one")
    dsn = f"http://key@127.0.0.1:{sentry.server_port}/1"
    assert start("-b", "-n", "1", mode=mode, SENTRY_DSN=dsn).wait() == 0
    told = [body for body in sentry.bodies if b"the last one" in body]
    assert len(told) == 1
    assert b'"jobq.task":"samples.fail"' in told[0].replace(b" ", b"")


def test_a_sentry_that_does_not_answer_keeps_nothing(start: Start, queue: Queue, mode: str) -> None:
    job = queue.enqueue("samples.ok", 1)
    queue.enqueue("samples.fail")
    assert start("-b", "-n", "1", mode=mode, SENTRY_DSN="http://key@127.0.0.1:9/1").wait() == 0
    assert job.result(1) == 1


def test_rqs_worker_class_reports_too(start_rq: Start, queue: Queue, sentry: Sentry) -> None:
    queue.enqueue("samples.fail", "the last one")
    flags = ("--burst", "-S", "jobqueue.serializers.Auto", "default")
    dsn = f"http://key@127.0.0.1:{sentry.server_port}/1"
    tree = start_rq("Worker", *flags, JOBQ_PLUGINS="sentry", SENTRY_DSN=dsn)
    assert tree.wait() == 0
    eventually(lambda: any(b"the last one" in body for body in sentry.bodies))


def test_without_the_library_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jobqueue.plugins.sentry.find_spec", lambda name: None)
    assert SentryPlugin().why_inactive() == "sentry-sdk is not installed: pip install 'jobq[sentry]'"
    assert "pip install 'jobq[sentry]'" in caplog.text
