"""The fence around RQ's own finish: pipelines that commit under the job's token.

RQ cleans the execution up in the one transaction that records the outcome; before its EXEC a fenced pipeline

    WATCHes rq:jobq:fin:ID    set by us for this finish, deleted by RESCUE
    checks the token          gone: OwnershipLost, and nothing is written
    adds to the same MULTI    ZREM own, DEL fin, LREM intermediate, DEL first_seen
"""

from __future__ import annotations

from typing import Any

import redis
from redis.client import Pipeline

from jobqueue import keys
from jobqueue.errors import OwnershipLost


class Fence:
    """The token of the job that is being finished, and what a commit must clean up with it."""

    def __init__(self, owner: str, job_id: str, claim: int, queue: str) -> None:
        self.own = keys.own(owner)
        self.job_id = job_id
        self.claim = claim
        self.queue = queue
        self.committed = False

    def check(self, score: float | None) -> None:
        if score is None or int(score) != self.claim:
            raise OwnershipLost(f"job {self.job_id} was taken from this worker; its outcome is not recorded")

    def clean_up(self, pipe: Any) -> None:
        intermediate = keys.intermediate(self.queue)
        pipe.zrem(self.own, self.job_id)
        pipe.delete(keys.fin(self.job_id), f"{intermediate}:first_seen:{self.job_id}")
        pipe.lrem(intermediate, 1, self.job_id)


class FencedPipeline(Pipeline):
    """A pipeline that commits under the token if it is the one that records the outcome. What RQ reads before that,
    what it does afterwards, and what a callback does on its connection, is not fenced and settles nothing."""

    fence: Fence
    records = False

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        fence = self.fence
        if not self.records or fence.committed or not self.command_stack:
            return super().execute(raise_on_error)
        commands, self.command_stack = self.command_stack, []
        self.explicit_transaction = False  # so that the next two commands are sent at once
        self.watch(keys.fin(fence.job_id))  # type: ignore[no-untyped-call]
        fence.check(self.zscore(fence.own, fence.job_id))
        self.multi()
        self.command_stack = commands
        wanted = len(commands)
        fence.clean_up(self)
        replies = super().execute(raise_on_error)
        fence.committed = True
        return replies[:wanted]


class FencedRedis(redis.Redis):
    """A client over an existing pool whose pipelines are fenced while a finish is under way."""

    fence: Fence

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        pipe = FencedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipe.fence = self.fence
        return pipe
