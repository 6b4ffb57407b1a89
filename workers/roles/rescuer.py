"""Rescue: of our own dead children at once, of dead trees when their lease has stood still for long enough.

A tree is called dead when this process has itself seen the same lease value for the whole lease time of its own
monotonic clock over one unbroken connection, and three times: where a whole machine stood still, the first look after
it may come before the living have renewed. RESCUE carries that value and refuses if it has moved.

A store that was killed while its disk was slow, or one that took over from it, may have forgotten its last writes, and
among them a rescue: then the dead child's name stands there again, under the lease of our living tree, and nobody else
looks after it. So we remember whom we rescued, and do it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import redis

from jobqueue.protocol import keys
from jobqueue.protocol.outcomes import HAS_DEPENDENTS, RETURNED
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.rescue import ForRQ, Ruling
from jobqueue.store.error_texts import is_away
from jobqueue.workers.shared.clock import rq_time
from jobqueue.workers.shared.deaths import EXECUTION_TTL, DeathReport, LeftForRQ
from jobqueue.workers.shared.endings import encode_text
from jobqueue.workers.shared.journal import PULSE, SharedPage
from jobqueue.workers.shared.retry import replies_of
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

MOST_CRASHES = 3
SETTLE_AT_ONCE = 64
DEFAULT_LEASE = 10.0  # seconds
LONGEST_LEASE = 3600.0  # what JOBQ_LEASE may be; a longer one was written by somebody else
REMEMBERED = 128  # rescues of our own; a store forgets seconds, not hours
LOOK_EVERY = 2.0  # seconds, or a third of a short lease
ENOUGH_LOOKS = 3
BRING_ON = 0.5  # seconds at most in a row for dependents that somebody else has left
UNWATCHED = 5.0  # seconds between two looks after which the watch begins again


def text(reply: bytes | str) -> str:
    return reply.decode(errors="surrogateescape") if isinstance(reply, bytes) else reply


def _raw(key: str) -> bytes:
    """A key with a name in it that may be no text."""
    return key.encode(errors="surrogateescape")


class Seen(NamedTuple):
    """The lease of another tree: its value, since when we have seen it (monotonic seconds), and how often."""

    lease: str
    since: float
    looks: int


class Rescuer:
    """Runs in the roles thread."""

    def __init__(self, settings: Settings, client: redis.Redis, on_left: Callable[[LeftForRQ], None]) -> None:
        self.every = min(LOOK_EVERY, settings.lease / 3)
        self._settings = settings
        self._on_left = on_left
        self._client = client
        self._protocol = Protocol(client)
        self._rescued: dict[str, DeathReport] = {}  # our dead children's, the latest ones
        self._looked = 0.0  # monotonic seconds of the last look
        self._seen: dict[str, Seen] = {}  # by worker
        self._nameless: set[str] = set()  # workers of whom no name stands among the owners
        self._unreadable: set[str] = set()  # workers and jobs that could not be dealt with, and that was said

    # -- our own children ----------------------------------------------------------------------------------------------

    def rescue_own(self, death_report: DeathReport, final: bool = False) -> LeftForRQ | None:
        """Settle what it had finished, give back what it never started, judge what ran. Twice is once."""
        s = self._settings
        ran = {ruling.claim for ruling in death_report.running}
        noted = {o.claim: o for o in death_report.finished if o.by_rq and o.claim in ran}  # the others are recorded
        for_rq = [ForRQ(o.id, o.claim, o.queue, o.started_at, o.payload) for o in noted.values()]
        finished = [outcome for outcome in death_report.finished if not outcome.by_rq and outcome.claim not in noted]
        for at in range(0, len(finished), SETTLE_AT_ONCE):
            some = finished[at : at + SETTLE_AT_ONCE]
            acks = self._protocol.cycle(death_report.owner, s.worker, s.queues, some, want=0).acks
            for outcome, ack in zip(some, acks, strict=False):
                if ack == HAS_DEPENDENTS:
                    kind = "returned" if outcome.kind == RETURNED else "fail"
                    for_rq.append(ForRQ(outcome.id, outcome.claim, outcome.queue, kind, outcome.payload))
        done = {outcome.claim for outcome in finished} | noted.keys()
        running = [ruling for ruling in death_report.running if ruling.claim not in done]
        left = self._rescue(death_report.owner, s.worker, running, final=final, done=for_rq)
        left = left and left._replace(plain=death_report.plain)
        if left is None or not left.jobs:
            self._remember(death_report)
        self._bring_on_all()
        return left

    def rescue_unknown(self, owner: str) -> LeftForRQ | None:
        """The jobs of an earlier worker of our name, of whom nothing but the name is left."""
        cause = f"WorkerGone: The worker {self._settings.worker} that ran this job died, and another took its name."
        return self._rescue(owner, self._settings.worker, None, cause=cause)

    def close(self, left: LeftForRQ) -> None:
        """RQ's finish is over: end what it could not do, and strike the dead owner off."""
        last_words = [self._last_word(job) for job in left.jobs]
        policy = self._policy_of(left.worker)
        self._rescue(left.owner, left.worker, last_words, final=True, on_crash=policy, dead=left.dead)
        self._bring_on_all()
        if left.worker == self._settings.worker:
            self._remember(DeathReport(left.owner, [], last_words))

    def _remember(self, death_report: DeathReport) -> None:
        self._rescued[death_report.owner] = death_report
        if len(self._rescued) > REMEMBERED:
            self._rescued.pop(next(iter(self._rescued)), None)

    def _rescue_again(self, owners: list[str]) -> None:
        """Names of ours that stand in the store: those of dead children were forgotten to be struck off."""
        for owner in owners:
            if death_report := self._rescued.get(owner):
                left = self.rescue_own(death_report)
                if left and left.jobs:  # to be closed once more
                    self._rescued.pop(owner, None)
                    self._on_left(left)

    def _last_word(self, job: ForRQ) -> Ruling:
        if job.kind == "returned":  # it runs again, unless it may not
            return Ruling(job.claim, "interrupt", encode_text("RecordLost: It returned, and could not be recorded."))
        return Ruling(job.claim, job.kind, job.cause)

    def _rescue(
        self,
        owner: str,
        worker: str,
        running: list[Ruling] | None,
        *,
        final: bool = False,
        cause: str = "",
        lease: str = "",
        on_crash: str = "",
        done: list[ForRQ] | None = None,
        dead: str = "",
    ) -> LeftForRQ | None:
        now = time.time()
        done = done or []
        rescue = self._protocol.rescue(
            owner,
            worker,
            lease=lease,
            running=running,
            on_crash=on_crash or self._settings.on_crash,
            most=MOST_CRASHES,
            final=final,
            keep=[job.claim for job in done],
            ended_at=rq_time(now),
            ended=now,
            cause=encode_text(cause),
            dead=dead,
        )
        if rescue is None:
            return None
        if any(rescue[:4]):
            log.warning(
                "rescued the jobs of %s: %d given back, %d to run again, %d failed, %d of unknown start",
                owner,
                *rescue[:4],
            )
        return LeftForRQ(owner, worker, [*rescue.for_rq, *done], dead=dead)

    def stand_in(self, owner: str, page: SharedPage, pulse: int) -> None:
        """For a child that holds still at ``pulse``: mark what it runs, give back what waits behind it, settle what it
        finished.

        It may wake at any moment, and all this may be late: what it claims from here on is left alone, and what it has
        in hand it does not start before it has asked Redis.
        """
        newest = self._protocol.newest_claim()
        if page.get(PULSE) != pulse:
            return
        page.revoke()
        time.sleep(0.001)  # a slot that was about to begin has written its claim by now, or asks Redis
        now, monotonic = time.time(), time.monotonic()
        running = [(job.claim, rq_time(now - (monotonic - job.start))) for job in page.running()]
        try:
            finished = list(page.journal.read())
            if list(page.journal.read()) != finished or not page.revoked:  # so it does not hold still any more
                return
        except (ValueError, EOFError, TypeError):
            return
        s = self._settings
        done = [outcome.claim for outcome in finished if not outcome.by_rq]
        finished = [outcome for outcome in finished if not outcome.by_rq]
        self._protocol.stand_in(owner, s.worker, EXECUTION_TTL, newest, running, done)
        for at in range(0, len(finished), SETTLE_AT_ONCE):
            self._protocol.cycle(owner, s.worker, s.queues, finished[at : at + SETTLE_AT_ONCE], want=0)

    def claim_of(self, job_id: str, owners: list[str]) -> int | None:
        """Under which claim one of our children holds the job."""
        with self._client.pipeline(transaction=False) as pipe:
            for owner in owners:
                pipe.zscore(keys.own(owner), job_id)
            scores = replies_of(pipe) if owners else []
        return next((int(score) for score in scores if isinstance(score, float)), None)

    # -- other trees ---------------------------------------------------------------------------------------------------

    def step(self, now: float) -> list[str]:
        """Look at the leases of all other trees; rescue those whose lease stands still, and return their names. Rescue
        our own dead again where the store forgot them. Go on with the dependents of jobs whose end is recorded."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.smembers(keys.OWNERS)
            pipe.smembers(keys.WORKERS)
            pipe.hkeys(keys.ENDED)
            # one that is of another type, which jobq doctor names, must not keep us from what the others say
            owners, workers, ended = ([] if isinstance(it, Exception) else it for it in replies_of(pipe))
        self._bring_on(ended)
        trees = self._trees(owners, workers)
        self._rescue_again(trees.pop(self._settings.worker, []))
        if now - self._looked > UNWATCHED:  # we were stopped, perhaps with all others: that proves nothing
            self._seen.clear()
        self._looked = now
        leases = self._leases(list(trees))
        self._seen = {worker: seen for worker, seen in self._seen.items() if worker in leases}
        return [worker for worker, lease in leases.items() if self._look_at(worker, lease, trees[worker], now)]

    def _look_at(self, worker: str, lease: str, owners: list[str], now: float) -> bool:
        """Rescue the jobs of the tree if it is dead. What the store holds of one tree must not keep us from the
        others."""
        try:
            return self._is_dead(worker, lease, now) and self._rescue_tree(worker, owners)
        except Exception as e:  # a key of another type, a name that is no text: anybody may have written it
            if is_away(e):
                raise
            if worker not in self._unreadable:
                log.error("the worker %s cannot be judged or rescued, others are: %s", ascii(worker), e)
            self._unreadable.add(worker)
            return False

    def reconnected(self) -> None:
        self._seen.clear()

    def _bring_on_all(self) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hkeys(keys.ENDED)
            (ended,) = replies_of(pipe)
        self._bring_on([] if isinstance(ended, Exception) else ended)

    def _bring_on(self, ended: Iterable[bytes | str]) -> None:
        """Who recorded an end enqueues its dependents; should that one die on the way, everybody sees the mark."""
        deadline = time.monotonic() + BRING_ON
        for job_id in ended:
            try:
                self._bring_on_of(text(job_id), deadline)
            except Exception as e:  # what stands there of one job must not keep us from the others, nor from the dead
                if is_away(e):
                    raise
                if text(job_id) not in self._unreadable:
                    log.error("the dependents of job %s cannot be enqueued: %s", ascii(text(job_id)), e)
                self._unreadable.add(text(job_id))

    def _bring_on_of(self, job_id: str, deadline: float) -> None:
        more = True
        while more and time.monotonic() < deadline:  # this thread has more to do: the rest has its turn later
            more, moved = self._protocol.enqueue_dependents(job_id)
            if moved:
                log.info("job %s had ended, and %d of its dependents were still to be enqueued", job_id, len(moved))

    def _trees(self, owners: Iterable[bytes], workers: Iterable[bytes]) -> dict[str, list[str]]:
        """The owners of each tree, also of one that has none: it may have died before its first child, or between two.
        (Among the workers there are RQ's too; they have no lease.)"""
        trees: dict[str, list[str]] = {text(key).removeprefix(keys.worker("")): [] for key in workers}
        for name in owners:
            owner = text(name)
            trees.setdefault(owner.rpartition(":")[0], []).append(owner)
        self._nameless = {worker for worker, names in trees.items() if not names}
        return trees

    def _leases(self, workers: list[str]) -> dict[str, str]:
        """By worker. One without a name and without a lease is not ours; without a registration it is nobody's."""
        with self._client.pipeline(transaction=False) as pipe:
            for worker in workers:
                pipe.get(_raw(keys.lease(worker)))
                pipe.exists(_raw(keys.worker(worker)))
            replies = replies_of(pipe) if workers else []
        found: dict[str, str] = {}
        for worker, lease, there in zip(workers, replies[::2], replies[1::2], strict=True):
            if lease is not None or worker not in self._nameless:
                found[worker] = text(lease) if isinstance(lease, bytes) else "0"
            elif not there:
                self._forget(worker)
        return found

    def _forget(self, worker: str) -> None:
        """Its registration has expired: RQ's clean_worker_registry takes it off the lists too, where somebody runs
        that."""
        key = keys.worker(worker)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.srem(keys.WORKERS, _raw(key))
            for name in self._settings.queues:
                pipe.srem(keys.workers_of(name), _raw(key))
            replies_of(pipe)  # one list of another type keeps it off none of the others

    def _is_dead(self, worker: str, lease: str, now: float) -> bool:
        seen = self._seen.get(worker)
        if seen is None or seen.lease != lease:
            self._seen[worker] = Seen(lease, now, 1)
            return False
        self._seen[worker] = seen._replace(looks=seen.looks + 1)
        return seen.looks + 1 >= ENOUGH_LOOKS and now - seen.since >= self.lease_of(worker)

    def lease_of(self, worker: str) -> float:
        """Seconds; what the tree said of itself at its birth."""
        said = self._client.hget(_raw(keys.worker(worker)), "jobq_lease")
        try:
            seconds = float(said or 0.0)
        except ValueError:
            seconds = 0.0
        return seconds if 0.0 < seconds <= LONGEST_LEASE else max(DEFAULT_LEASE, self._settings.lease)

    def _policy_of(self, worker: str) -> str:
        """Its --on-crash, as it said at its birth; "": it did not."""
        return text(self._client.hget(keys.worker(worker), "jobq_on_crash") or b"")

    def _rescue_tree(self, worker: str, owners: list[str]) -> bool:
        lease = self._seen[worker].lease
        cause = (
            f"LeaseExpired: The worker {worker} that ran this job has given no sign of life for "
            f"{self.lease_of(worker):g} s: it or its machine died."
        )
        on_crash = self._policy_of(worker)
        for owner in owners:
            left = self._rescue(owner, worker, None, cause=cause, lease=lease, on_crash=on_crash, dead=lease)
            if left is None:
                return False
            if left.jobs:
                self._on_left(left)
        if not owners:
            return self._protocol.strike_off(worker, lease, rq_time(time.time()))
        return True
