"""``jobq status``, ``jobq result`` and ``jobq info``: read only."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from jobqueue.cli.numbers import Number
from jobqueue.cli.options import Id, json_option, opened, url_option
from jobqueue.cli.render import ago, json_line
from jobqueue.cli.tables import table, wide_option
from jobqueue.protocol import bounds
from jobqueue.words import duration, escaped, one_line

if TYPE_CHECKING:
    from jobqueue.errors import NoSuchJob
    from jobqueue.model import JobView, Overview
    from jobqueue.store.connection import redis


@contextlib.contextmanager
def connected(url: str | None) -> Iterator[redis.Redis]:
    """Open the store and yield a client; turn what redis-py raises into a StoreError, whose message is one line."""
    from jobqueue.errors import NoSuchJob
    from jobqueue.store.connection import explain, redis

    with opened(url) as store, store.client(patient=True) as client:
        try:
            try:
                yield client
            except NoSuchJob as e:
                raise or_a_schedule(client, e) from None
        except redis.RedisError as e:
            raise explain(e, store.address) from e


def or_a_schedule(client: redis.Redis, error: NoSuchJob) -> NoSuchJob:
    """Return the error; if the id is that of a schedule, one that says so."""
    if not error.job_id or not _is_schedule(client, error.job_id):
        return error
    text = f"{error.job_id} is a schedule, not a job: jobq schedule list shows it"
    return type(error)(f"{text}, jobq schedule delete ends it.", error.job_id)


def _is_schedule(client: redis.Redis, name: str) -> bool:
    from jobqueue.protocol import keys

    member = name.encode(errors="surrogateescape")
    return any(client.zscore(key, member) is not None for key in (keys.SCHEDULES, keys.CRON_ENTRIES))


ENDED = ("finished", "failed", "stopped", "canceled")


@click.command()
@click.argument("job_id", type=Id(), metavar="ID")
@json_option
@url_option
def status(job_id: str, as_json: bool, url: str | None) -> None:
    """Show all there is to know of a job, its traceback included."""
    from jobqueue.admin.inspector import Inspector

    with connected(url) as client:
        job = Inspector(client).job(job_id)
    if as_json:
        print(json_line(dataclasses.asdict(job)))
        return
    for name, value in _lines(job):
        print(f"{name + ':':<13} {value}")
    if job.traceback:
        print(f"\n{escaped(job.traceback.rstrip())}")


def _lines(job: JobView) -> Iterator[tuple[str, str]]:
    yield "job", escaped(job.id)
    yield "status", _status(job)
    yield "call", one_line(job.description)
    yield "queue", one_line(job.queue) + (f", {job.position} before it" if job.position is not None else "")
    yield "format", job.format
    for name in ("created_at", "enqueued_at", "started_at", "ended_at", "scheduled_for"):
        moment = getattr(job, name)
        if moment is not None:
            yield name.removesuffix("_at").replace("_", " "), ago(moment)
    if job.started_at and job.ended_at:
        yield "took", duration((job.ended_at - job.started_at).total_seconds())
    if job.worker:
        yield "worker", one_line(job.worker)
    yield "time limit", "none" if job.timeout == -1 else duration(job.timeout) if job.timeout else "the worker's"
    for name, number in (
        ("retries left", job.retries_left),
        ("crashes", job.crashes),
        ("redelivered", job.redelivered),
    ):
        if number:
            yield name, str(number)
    if job.on_crash:
        yield "on crash", one_line(job.on_crash)
    if job.depends_on:
        yield "depends on", one_line(", ".join(job.depends_on))
    if job.status == "deferred":
        yield "waits for", one_line(_what_it_waits_for(job))
    if job.meta is not None:
        yield "meta", json_line(job.meta)
    if job.expires_in is not None:
        yield "forgotten", f"in {duration(job.expires_in)}"
    if job.has_result:
        readable = job.format == "json" or job.result is not None
        yield "result", json_line(job.result) if readable else "(pickled; not opened here)"


def _what_it_waits_for(job: JobView) -> str:
    """Return what has to happen before a deferred job runs, and whether that happens by itself."""
    final = {"stopped", "canceled"} | (set() if job.allow_failure else {"failed"})
    ended = [f"{job_id} ({state})" for job_id, state in job.waits_for.items() if state in final]
    if ended:
        to_do = "jobq failed requeue ID runs what failed again"
        if "canceled" in job.waits_for.values():
            to_do = f"what was canceled cannot be requeued: jobq cancel {escaped(job.id)}, and submit it anew"
        return f"{', '.join(ended)}: it does not run by itself; {to_do}"
    done = ("finished", "gone", "failed")
    others = [f"{job_id} ({state})" for job_id, state in job.waits_for.items() if state not in done]
    return ", ".join(others) or "nothing any more: jobq doctor --fix puts it into its queue"


def _status(job: JobView) -> str:
    if job.status == "queued" and job.position is None:
        return "queued (held by a worker)"
    return one_line(job.status)


@click.command()
@click.argument("job_id", type=Id(), metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until the job has ended.")
@click.option("--timeout", metavar="S", type=Number(bounds.DELAY), help="Wait no longer than S seconds.")
@json_option
@url_option
def result(job_id: str, wait: bool, timeout: float | None, as_json: bool, url: str | None) -> None:
    """Print a job's result as JSON. A job that failed is an error, and so is one that has not ended without --wait."""
    from jobqueue.admin.inspector import Inspector
    from jobqueue.errors import JobError
    from jobqueue.results.waiter import Waiter

    with connected(url) as client:
        job = Inspector(client).job(job_id)
        if job.status not in ENDED and not wait and timeout is None:
            raise JobError(f"Job {job_id} is {job.status} and has no result yet; --wait waits for it.", job_id)
        try:
            (outcome,) = Waiter(client, loads=_loads_json, say=_say).outcomes([job_id], timeout)
        except KeyboardInterrupt:
            print(f"\njobq: interrupted. Job {job_id} goes on.", file=sys.stderr)
            sys.exit(130)
    if outcome.error is not None:  # the text may come from the job, so it is escaped
        print(f"jobq: {one_line(str(outcome.error))}", file=sys.stderr)
        sys.exit(outcome.error.exit_code)
    value = outcome.value
    print(json_line({"id": job_id, "result": value} if as_json else value))


def _say(reason: str) -> None:
    print(f"jobq: {one_line(reason)}", file=sys.stderr)


def _loads_json(data: bytes) -> Any:
    from jobqueue.errors import NotServed
    from jobqueue.serializers import JSON, format_of

    if format_of(data) == "pickle":
        raise NotServed("it is pickled, and opening a pickle runs its code; read it in Python with jobqueue.Job.fetch")
    return JSON.loads(data)


@click.command()
@click.option("--watch", is_flag=True, help="Show it anew every second.")
@wide_option
@json_option
@url_option
def info(watch: bool, wide: bool, as_json: bool, url: str | None) -> None:
    """Show queues and workers. It changes nothing, unlike `rq info`, which cleans up while it counts."""
    with connected(url) as client:
        try:
            _show(*_read(client), as_json, wide)
            while watch:
                time.sleep(1.0)
                found = _read(client)
                if sys.stdout.isatty() and not as_json:
                    click.clear()
                _show(*found, as_json, wide)
        except KeyboardInterrupt:
            sys.exit(130)


def _read(client: redis.Redis) -> tuple[Overview, list[float]]:
    """Read queues and workers, and for each queue how long its oldest job has waited (seconds)."""
    from jobqueue.admin.demand import demands
    from jobqueue.admin.inspector import Inspector

    overview = Inspector(client).overview()
    return overview, [it.latency for it in demands(client, [queue.name for queue in overview.queues])]


def _show(overview: Overview, latencies: list[float], as_json: bool, wide: bool) -> None:
    if as_json:
        values = dataclasses.asdict(overview)
        for queue, latency in zip(values["queues"], latencies, strict=True):
            queue["latency"] = latency
        print(json_line(values), flush=True)
        return
    if overview.suspended:
        print("suspended: workers take nothing until `jobq resume`")
    counts = ("queued", "claimed", "started", "finished", "failed", "scheduled", "deferred", "canceled")
    rows = [
        [q.name, *(getattr(q, name) for name in counts), duration(latency) if q.queued else "-",
         "paused" if q.paused else "-"]
        for q, latency in zip(overview.queues, latencies, strict=True)
    ]  # fmt: skip
    last = ["canceled", "deferred", "scheduled", "finished", "claimed", "state", "latency", "failed", "started"]
    columns = ["queue", *counts, "latency", "state"]
    table(columns, rows, numbers=[*counts, "latency"], least_important=last, wide=wide)
    print()
    head = ["worker", "state", "queues", "running", "slots", "done", "failed", "heartbeat", "host", "pid"]
    workers = [
        [
            w.name,
            w.state,
            ", ".join(w.queues),
            w.running,
            w.slots,
            w.done,
            w.failed,
            None if w.heartbeat_age is None else f"{duration(max(0.0, w.heartbeat_age))} ago",
            w.hostname,
            w.pid,
        ]
        for w in overview.workers
    ]
    last = ["pid", "host", "failed", "done", "queues", "heartbeat", "slots", "running"]
    counted = ["running", "slots", "done", "failed", "pid"]
    table(head, workers, numbers=counted, can_be_cut=["queues"], least_important=last, wide=wide)
    sys.stdout.flush()
