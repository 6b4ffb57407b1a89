"""The fence around RQ's own finish: pipelines that commit under the job's token.

RQ cleans the execution up in the one transaction that records the outcome; before its EXEC a fenced pipeline

    WATCHes rq:jobq:fin:ID    set by BEGIN FINISH, deleted by RESCUE; and the job, which somebody may cancel
    checks the token          gone, or the job is canceled: OwnershipLost, and nothing is written
    adds to the same MULTI    what this end owes to others: its dependents are put aside, with a mark (ENDED) that
                              stands until ENQUEUE DEPENDENTS has brought them on, whoever does that
                              ZREM own, DEL fin, LREM intermediate, DEL first_seen, an expiry for what RQ lets stand
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

MOST_LOSSES = 3  # of the connection in one attempt
_OF_ONE_CONNECTION = {"MULTI", "SELECT", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR", "CLIENT REPLY"}
ENDS = {b"finished": "finished", b"failed": "failed", b"stopped": "failed"}  # status → RQ's registry


class Fence:
    """The token of the job that is being finished, and what a commit must clean up with it."""

    def __init__(
        self, owner: str, job_id: str, claim: int, queue: str, on_commit: Callable[[], None] = lambda: None
    ) -> None:
        self.own = keys.own(owner)
        self.job_id = job_id
        self.claim = claim
        self.queue = queue
        self.ends = ""  # how the job ends with this commit: finished, failed or stopped; "": it runs again
        self.frees = ""  # the rate limit that has a free place then
        self.keeps: int | None = None  # for how many seconds the record of a failure is kept: RQ would for ever
        self.sent = False  # perhaps it was committed, and the reply was lost
        self.committed = False
        self.losses = 0  # of the connection, in the middle of it
        self.error: BaseException | None = None  # why it was not committed: RQ logs that and goes on
        self.on_commit = on_commit

    def check(self, score: Any, status: bytes | None) -> None:
        if score is None or int(float(score)) != self.claim:
            raise OwnershipLost(f"job {self.job_id} was taken from this worker; its outcome is not recorded")
        if status == b"canceled":
            raise OwnershipLost(f"job {self.job_id} was canceled while it ran; its outcome is not recorded")

    def leave_registry(self, pipe: Any, status: bytes | None) -> None:
        """Another run of the job ended before this one: it has one place, which is the last."""
        if status in ENDS:
            pipe.zrem(keys.registry(ENDS[status], self.queue), self.job_id)

    def hand_over(self, pipe: Any, has_dependents: bool) -> None:
        """Before RQ's own commands: they may delete the job with all that is its."""
        if self.ends and has_dependents:
            waiting, dependents = keys.waiting_for(self.job_id), keys.dependents(self.job_id)
            pipe.sunionstore(waiting, waiting, dependents)
            pipe.delete(dependents)
        if (self.ends and has_dependents) or self.frees:
            pipe.hset(keys.ENDED, self.job_id, f"{self.ends or 'again'} {self.frees}".rstrip())

    def clean_up(self, pipe: Any) -> None:
        intermediate = keys.intermediate(self.queue)
        pipe.zrem(self.own, self.job_id)
        pipe.delete(keys.fin(self.job_id), f"{intermediate}:first_seen:{self.job_id}")
        pipe.lrem(intermediate, 1, self.job_id)
        if self.keeps is not None and self.keeps >= 0:
            pipe.expire(keys.results(self.job_id), self.keeps)
        if self.keeps == 0 and self.ends:
            pipe.zrem(keys.registry("failed", self.queue), self.job_id)


class FencedPipeline(Pipeline):
    """A pipeline that commits under the token if it is the one that records the outcome. What RQ reads before that,
    what it does afterwards, and what a callback does on its connection, is not fenced and settles nothing."""

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
            except WatchError as e:  # the job's start was marked meanwhile, or the reply was lost: the token decides
                if not str(e).startswith("Watched variable changed"):  # redis-py's word for a lost connection
                    self._lost(e)
                if rq_repeats:
                    raise
            except Exception as e:
                self.fence.error = e
                raise

    def _lost(self, error: WatchError) -> None:
        """It is tried again at once, but not for ever: the store may not take what is sent."""
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
        fence.on_commit()
        self.limits.close()
        return replies[first : first + wanted]

    def _look(self, *commands: tuple[str, ...]) -> list[Any]:
        """Send several commands at once, and read their replies."""
        connection: Any = self.connection
        try:
            for command in commands:
                connection.send_command(*command)
            return [connection.read_response() for _ in commands]
        except BaseException:  # replies that nobody reads must not meet the next command
            connection.disconnect()
            self.watching = False
            raise


class FencedRedis(redis.Redis):
    """A client over an existing pool whose pipelines are fenced while a finish is under way."""

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
