"""Jobs that a dead child of RQ's worker left are ended in that worker's own format and job class."""

from __future__ import annotations

import base64

import pytest
import redis
import rq
import samples_rq
from rq.job import Job, JobStatus

from jobqueue.protocol import keys
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.rescue import ForRQ, Verdict
from jobqueue.workers.rq_classes.ending import finish_left
from jobqueue.workers.rq_classes.rq_roles import settings_for
from jobqueue.workers.rq_classes.worker import SimpleWorker
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.shared.deaths import LeftForRQ


@pytest.mark.parametrize("serializer", [rq.serializers.DefaultSerializer, samples_rq.Backwards])
def test_an_outcome_with_dependents_is_finished_in_the_workers_format(store: redis.Redis, serializer: type) -> None:
    queue = rq.Queue(connection=store, serializer=serializer)
    worker = SimpleWorker([queue], connection=store, serializer=serializer, job_class=samples_rq.OwnJob)
    first = queue.enqueue("samples.ok", 5, meta={"user": "ann"}, on_success=rq.Callback(samples_rq.tell))
    last = queue.enqueue("samples.ok", 1, depends_on=first)
    owner = f"{worker.name}:0.1"
    store.sadd(keys.OWNERS, owner)
    (claimed,) = Protocol(store).cycle(owner, worker.name, ["default"], [], want=1).jobs
    cause = base64.b64encode(serializer.dumps({"a": 5}))  # type: ignore[attr-defined]
    left = LeftForRQ(owner, worker.name, [ForRQ(claimed.id, claimed.claim, "default", Verdict.RETURNED, cause)])
    finish_left(left, worker, settings_for(worker, 10), store, FinishLimits(None))
    done = Job.fetch(first.id, store, serializer)
    assert (done.get_status(), done.return_value()) == (JobStatus.FINISHED, {"a": 5})
    assert queue.job_ids == [last.id]
    assert store.lrange(samples_rq.told(first.id), 0, -1) == [b"called back ann"]
