"""Kinds of RQ jobs. Each function enqueues some jobs on a queue of its own name; their ids begin with that name.

``test_state_identity.py`` runs them all, once with RQ's worker and once with ours, and compares what is in the store.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import samples
import samples_rq
from rq import Callback, Queue, Repeat, Retry
from rq.group import Group
from rq.job import Dependency
from rq.rate_limit import RateLimit
from rq.webhook import Webhook

Kind = Callable[[Queue], object]
KINDS: dict[str, Kind] = {}
HOOK = ""  # where webhooks go; the test sets it


def kind(enqueue: Kind) -> Kind:
    KINDS[enqueue.__name__] = enqueue
    return enqueue


# -- plain -----------------------------------------------------------------------------------------------------------


@kind
def success(q: Queue) -> None:
    q.enqueue(samples.ok, 1, job_id="success")
    q.enqueue(samples.ok, {"a": [1, 2]}, job_id="success-named", description="with a name")
    q.enqueue(samples.ok, value={1, 2}, job_id="success-kwargs")


@kind
def returns_none(q: Queue) -> None:
    q.enqueue(samples.ok, job_id="returns_none")


@kind
def big(q: Queue) -> None:
    q.enqueue(samples.big, 300_000, job_id="big")
    q.enqueue(samples.ok, "y" * 5000, job_id="big-argument")


@kind
def coroutine(q: Queue) -> None:
    q.enqueue(samples.coroutine, 3, job_id="coroutine")


@kind
def methods(q: Queue) -> None:
    q.enqueue(samples_rq.Basket(3).add, 4, job_id="methods-instance")
    q.enqueue(samples_rq.Basket.what, job_id="methods-class")
    q.enqueue(samples_rq.Basket.double, 4, job_id="methods-static")
    q.enqueue(samples_rq.Greeter("hello"), "you", job_id="methods-callable")


@kind
def many(q: Queue) -> None:
    q.enqueue_many([Queue.prepare_data(samples.ok, (n,), job_id=f"many-{n}") for n in range(20)])


@kind
def at_front(q: Queue) -> None:
    q.enqueue(samples.ok, 1, job_id="at_front-1")
    q.enqueue(samples.ok, 2, job_id="at_front-2", at_front=True)


@kind
def unique(q: Queue) -> None:
    q.enqueue(samples.ok, 1, job_id="unique", unique=True)


@kind
def group(q: Queue) -> None:
    calls = [Queue.prepare_data(samples.ok, (n,), job_id=f"group-{n}") for n in range(2)]
    Group.create(q.connection, "them").enqueue_many(q, calls)


@kind
def meta(q: Queue) -> None:
    q.enqueue(samples_rq.report_progress, job_id="meta", meta={"who": "me"})
    q.enqueue(samples_rq.leave_meta_unsaved, job_id="meta-unsaved", meta={"who": "me"})


# -- how long things are kept ----------------------------------------------------------------------------------------


@kind
def result_ttl(q: Queue) -> None:
    for ttl in (0, 1000, -1):
        q.enqueue(samples.ok, 1, job_id=f"result_ttl{ttl}", result_ttl=ttl)
        q.enqueue(samples.fail, job_id=f"result_ttl{ttl}-failed", result_ttl=ttl)


@kind
def failure_ttl(q: Queue) -> None:
    for ttl in (0, 1000, -1):
        q.enqueue(samples.fail, job_id=f"failure_ttl{ttl}", failure_ttl=ttl)
        q.enqueue(samples.ok, 1, job_id=f"failure_ttl{ttl}-finished", failure_ttl=ttl)


@kind
def ttl(q: Queue) -> None:
    q.enqueue(samples.ok, 1, job_id="ttl", ttl=2000)
    q.enqueue(samples.fail, job_id="ttl-failed", ttl=2000)
    q.enqueue(samples.ok, 1, job_id="ttl-and-result_ttl", ttl=2000, result_ttl=1000)
    q.enqueue(samples_rq.fail_first, 1, job_id="ttl-retried", ttl=2000, retry=Retry(max=1))


@kind
def changed_by_itself(q: Queue) -> None:
    q.enqueue(samples_rq.keep_result_for, 1000, job_id="changed_by_itself")
    q.enqueue(samples_rq.repeat_myself, job_id="changed_by_itself-repeated")


# -- failures and retries --------------------------------------------------------------------------------------------


@kind
def failure(q: Queue) -> None:
    q.enqueue(samples.fail, "no", job_id="failure")
    q.enqueue(samples.leave, 3, job_id="failure-exit")
    q.enqueue("samples.there_is_no_such", job_id="failure-no-function")


@kind
def timeout(q: Queue) -> None:
    q.enqueue(samples.spin, 60, job_id="timeout", job_timeout=1)


@kind
def retry(q: Queue) -> None:
    q.enqueue(samples_rq.fail_first, 1, job_id="retry", retry=Retry(max=2))
    q.enqueue(samples_rq.fail_first, 9, job_id="retry-in-vain", retry=Retry(max=2))
    q.enqueue(samples_rq.fail_first, 1, job_id="retry-later", retry=Retry(max=2, interval=[300, 600]))
    q.enqueue(samples_rq.fail_first, 1, job_id="retry-at-front", retry=Retry(max=1, enqueue_at_front=True))
    q.enqueue(samples_rq.retries_left, job_id="retry-unused", retry=Retry(max=1))


@kind
def returned_retry(q: Queue) -> None:
    q.enqueue(samples_rq.retry_first, 1, 2, job_id="returned_retry")
    q.enqueue(samples_rq.retry_first, 9, 2, job_id="returned_retry-in-vain")
    q.enqueue(samples_rq.retry_first, 1, 2, 300, job_id="returned_retry-later")


# -- dependencies ----------------------------------------------------------------------------------------------------


@kind
def dependent(q: Queue) -> None:
    parent = q.enqueue(samples.ok, 1, job_id="dependent-parent")
    q.enqueue(samples_rq.result_of_parent, job_id="dependent-child", depends_on=parent)
    q.enqueue(samples.ok, 2, job_id="dependent-sibling", depends_on=Dependency([parent], enqueue_at_front=True))


@kind
def chain(q: Queue) -> None:
    one = q.enqueue(samples.ok, 1, job_id="chain-1")
    two = q.enqueue(samples.ok, 2, job_id="chain-2", depends_on=one)
    q.enqueue(samples.ok, 3, job_id="chain-3", depends_on=[one, two])


@kind
def dependent_on_failure(q: Queue) -> None:
    parent = q.enqueue(samples.fail, job_id="dependent_on_failure-parent")
    q.enqueue(samples.ok, 1, job_id="dependent_on_failure-waits", depends_on=parent)
    q.enqueue(
        samples.ok, 1, job_id="dependent_on_failure-runs", depends_on=Dependency(jobs=[parent], allow_failure=True)
    )


@kind
def dependent_on_retried(q: Queue) -> None:
    parent = q.enqueue(samples_rq.fail_first, 1, job_id="dependent_on_retried-parent", retry=Retry(max=1))
    q.enqueue(samples.ok, 1, job_id="dependent_on_retried-child", depends_on=parent)


@kind
def dependent_on_lost_result(q: Queue) -> None:
    parent = q.enqueue(samples.ok, 1, job_id="dependent_on_lost_result-parent", result_ttl=0)
    q.enqueue(samples.ok, 1, job_id="dependent_on_lost_result-child", depends_on=parent, result_ttl=1000)


# -- callbacks, repeats, limits, webhooks ----------------------------------------------------------------------------


@kind
def callbacks(q: Queue) -> None:
    both = {"on_success": Callback(samples.on_success), "on_failure": Callback(samples.on_failure, timeout=30)}
    q.enqueue(samples.ok, 1, job_id="callbacks-success", **both)
    q.enqueue(samples.fail, "no", job_id="callbacks-failure", **both)
    q.enqueue(samples.ok, 1, job_id="callbacks-bad", on_success=Callback(samples.bad_callback))
    q.enqueue(samples.ok, 1, job_id="callbacks-unused", on_failure=Callback(samples.on_failure))


@kind
def repeat(q: Queue) -> None:
    q.enqueue(samples.ok, 1, job_id="repeat", repeat=Repeat(times=2))
    q.enqueue(samples.ok, 1, job_id="repeat-later", repeat=Repeat(times=2, interval=[300, 600]))
    q.enqueue(samples.fail, job_id="repeat-failed", repeat=Repeat(times=2))


@kind
def rate_limit(q: Queue) -> None:
    for n in range(3):
        q.enqueue(samples.ok, n, job_id=f"rate_limit-{n}", rate_limit=RateLimit("api", 1))
    q.enqueue(samples.fail, job_id="rate_limit-failed", rate_limit=RateLimit("api", 1))
    q.enqueue(samples.ok, 4, job_id="rate_limit-last", rate_limit=RateLimit("api", 1))


@kind
def webhooks(q: Queue) -> None:
    hooks = [Webhook(HOOK, "finished", method="POST"), Webhook(HOOK, "failed", method="POST")]
    q.enqueue(samples.ok, 1, job_id="webhooks-finished", webhooks=hooks)
    q.enqueue(samples.fail, "no", job_id="webhooks-failed", webhooks=hooks)


# -- ended or postponed by somebody else -----------------------------------------------------------------------------


@kind
def canceled(q: Queue) -> None:
    job = q.enqueue(samples.ok, 1, job_id="canceled")
    q.enqueue(samples.ok, 1, job_id="canceled-child", depends_on=job)
    job.cancel()
    job = q.enqueue(samples.ok, 1, job_id="canceled-loudly")
    q.enqueue(samples.ok, 1, job_id="canceled-loudly-child", depends_on=Dependency([job], allow_failure=True))
    job.cancel(enqueue_dependents=True)


@kind
def deleted(q: Queue) -> None:
    q.enqueue(samples.ok, 1, job_id="deleted").delete()
    q.connection.delete(q.enqueue(samples.ok, 1, job_id="deleted-hash-only").key)


@kind
def by_itself(q: Queue) -> None:
    q.enqueue(samples_rq.delete_myself, job_id="by_itself-deleted")
    q.enqueue(samples_rq.cancel_myself, job_id="by_itself-canceled")
    q.enqueue(samples_rq.enqueue_another, "by_itself-child", job_id="by_itself-parent")


@kind
def scheduled(q: Queue) -> None:
    q.enqueue_in(timedelta(hours=1), samples.ok, 1, job_id="scheduled")


@kind
def requeued(q: Queue) -> None:
    """Enqueue jobs that have failed before and were requeued."""
    job = q.enqueue(samples.ok, 1, job_id="requeued")
    q.remove(job)
    job.set_status("failed")  # type: ignore[arg-type]
    q.failed_job_registry.add(job, 1000, exc_string="it failed before")
    q.failed_job_registry.requeue(job)
