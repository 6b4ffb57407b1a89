"""Fence RQ's own finish: pipelines that record an outcome only while the job's token stands.

RQ records the outcome and removes the execution in one transaction. Before the EXEC of that one, a fenced pipeline

    WATCHes rq:jobq:fin:ID    which BEGIN FINISH sets and RESCUE deletes; and the job's hash, as the job may be canceled
    checks the token          gone, or the job is canceled: it raises OwnershipLost and writes nothing
    adds to the transaction   the job's dependents move to a key of their own, with an entry in ENDED that stands until
                              ENQUEUE DEPENDENTS, sent by any process, has enqueued them all;
                              ZREM own, DEL fin, LREM intermediate, DEL first_seen, an expiry where RQ sets none
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from redis.client import Pipeline
from redis.exceptions import WatchError

from jobqueue.errors import OwnershipLost
from jobqueue.protocol import keys
from jobqueue.workers.rq_finish.limits import FinishLimits

MOST_LOSSES = 3  # lost connections after which one attempt ends, and the store counts as away
_OF_ONE_CONNECTION = {"MULTI", "SELECT", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR", "CLIENT REPLY"}
ENDS = {b"finished": "finished", b"failed": "failed", b"stopped": "failed"}  # status → RQ's registry


class Fence:
    """The token of the job that is being finished, and what the transaction does besides RQ's part."""

    def __init__(
        self, owner: str, job_id: str, claim: int, queue: str, on_commit: Callable[[str], None] = lambda outcome: None
    ) -> None:
        self.own = keys.own(owner)
        self.job_id = job_id
        self.claim = claim
        self.queue = queue
        self.outcome = ""  # finished, failed or stopped; "": the job runs again
        self.rate_limit = ""  # the rate limit in which the job's place becomes free
        self.failure_ttl: int | None = None  # seconds for which a failure's record is kept; RQ keeps it for ever
        self.sent = False  # the transaction was sent: it may be committed also where its reply was lost
        self.committed = False
        self.losses = 0  # of the connection, in the middle of a commit
        self.callback_losses = 0  # of a success callback's connection
        self.error: BaseException | None = None  # why it was not committed; RQ logs such an error and continues
        self.on_commit = on_commit

    def check(self, score: Any, status: bytes | None) -> None:
        if score is None or int(float(score)) != self.claim:
            raise OwnershipLost(f"job {self.job_id} was taken from this worker; its outcome is not recorded")
        if status == b"canceled":
            raise OwnershipLost(f"job {self.job_id} was canceled while it ran; its outcome is not recorded")

    def leave_registry(self, pipe: Any, status: bytes | None) -> None:
        """Take the job out of the registry in which an earlier run put it: only the last run's outcome counts."""
        if status in ENDS:
            pipe.zrem(keys.registry(ENDS[status], self.queue), self.job_id)

    def hand_over(self, pipe: Any, has_dependents: bool) -> None:
        """Put the dependents aside and note them in ENDED. This comes before RQ's commands, which may delete the job
        with all its keys."""
        if self.outcome and has_dependents:
            waiting, dependents = keys.waiting_for(self.job_id), keys.dependents(self.job_id)
            pipe.sunionstore(waiting, waiting, dependents)
            pipe.delete(dependents)
        if (self.outcome and has_dependents) or self.rate_limit:
            pipe.hset(keys.ENDED, self.job_id, f"{self.outcome or 'again'} {self.rate_limit}".rstrip())

    def clean_up(self, pipe: Any) -> None:
        intermediate = keys.intermediate(self.queue)
        pipe.zrem(self.own, self.job_id)
        pipe.delete(keys.fin(self.job_id), f"{intermediate}:first_seen:{self.job_id}")
        pipe.lrem(intermediate, 1, self.job_id)
        if self.failure_ttl is not None and self.failure_ttl >= 0:
            pipe.expire(keys.results(self.job_id), self.failure_ttl)
        if self.failure_ttl == 0 and self.outcome:
            pipe.zrem(keys.registry("failed", self.queue), self.job_id)


class FencedPipeline(Pipeline):
    """A pipeline that checks the token if it records the outcome. Not fenced: what RQ reads before and writes after
    that, and what a callback does on its job's connection."""

    fence: Fence
    limits: FinishLimits
    records = False

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        with self.limits.paused():
            return super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with self.limits.paused():
            return self._execute(raise_on_error)

    def _execute(self, raise_on_error: bool) -> list[Any]:
        if not self.records or self.fence.committed or not self.command_stack:
            return super().execute(raise_on_error)
        commands, rq_repeats = self.command_stack, self.watching
        while True:
            try:
                return self._commit(commands, raise_on_error)
            except WatchError as e:  # its start was marked meanwhile, or the reply was lost: check the token again
                if not str(e).startswith("Watched variable changed"):  # redis-py's word for a lost connection
                    self._lost(e)
                if rq_repeats:
                    raise
            except Exception as e:
                self.fence.error = e
                raise

    def _lost(self, error: WatchError) -> None:
        """Count a lost connection. The commit is tried again at once, up to MOST_LOSSES times: the store may close the
        connection because of what is sent."""
        self.fence.losses += 1
        if self.fence.losses % MOST_LOSSES == 0:
            self.fence.error = redis.ConnectionError(str(error))
            raise self.fence.error from error

    def _commit(self, commands: list[Any], raise_on_error: bool) -> list[Any]:
        fence = self.fence
        self.command_stack = []
        self.explicit_transaction = False  # so that the next commands are sent at once
        job, dependents = keys.job(fence.job_id), keys.dependents(fence.job_id)
        self.watch(keys.fin(fence.job_id), job, dependents)  # type: ignore[no-untyped-call]
        score, status, has_dependents = self._look(
            ("ZSCORE", fence.own, fence.job_id), ("HGET", job, "status"), ("EXISTS", dependents)
        )
        fence.check(score, status)
        self.multi()
        fence.leave_registry(self, status)
        fence.hand_over(self, bool(has_dependents))
        first, wanted = len(self.command_stack), len(commands)
        self.command_stack += commands
        fence.clean_up(self)
        fence.sent = True
        replies = super().execute(raise_on_error)
        fence.committed = True
        fence.on_commit(fence.outcome)
        self.limits.close()
        return replies[first : first + wanted]

    def _look(self, *commands: tuple[str, ...]) -> list[Any]:
        """Send several commands at once, and read their replies."""
        connection: Any = self.connection
        try:
            for command in commands:
                connection.send_command(*command)
            return [connection.read_response() for _ in commands]
        except BaseException:  # unread replies would be taken for those of the next command
            connection.disconnect()
            self.watching = False
            raise


class FencedRedis(redis.Redis):
    """A client on an existing pool, whose pipelines are fenced. RQ's code and callbacks get it during a finish."""

    fence: Fence
    limits: FinishLimits

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if args and str(args[0]).upper() in _OF_ONE_CONNECTION:
            raise redis.RedisError(
                f"{args[0]} would stay behind on a connection of the pool: use a pipeline, or a client"
            )
        with self.limits.paused():
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        pipe = FencedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipe.fence, pipe.limits = self.fence, self.limits
        return pipe
