"""Rescue jobs: take all jobs from our own dead children at once, and from dead trees after their lease has stood still
for long enough (lease_watch.py says when).

A store that was killed while its disk was slow, or a replica that took over from it, may have lost its last writes, and
a rescue with them: then the dead child's owner name is there again, under the lease of our living tree, so that no
other rescuer takes it. So the latest rescues of our own children are remembered, and repeated.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import redis

from jobqueue.errors import CauseOfDeath, LeaseExpired, RecordLost, WorkerGone
from jobqueue.protocol import keys
from jobqueue.protocol.arguments import text_of
from jobqueue.protocol.outcomes import RETURNED, Ack
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.rescue import ForRQ, Ruling, Verdict
from jobqueue.store.error_texts import is_away
from jobqueue.workers.roles.lease_watch import LeaseWatch, owners_by_tree
from jobqueue.workers.roles.left_dependents import LeftDependents
from jobqueue.workers.roles.settling import settle
from jobqueue.workers.shared.deaths import DeathReport, LeftForRQ, ruling
from jobqueue.workers.shared.endings import encode_text
from jobqueue.workers.shared.retry import replies_of
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.timestamps import rq_time

log = logging.getLogger(__name__)

MOST_CRASHES = 3
REMEMBERED = 128  # rescues of our own children; a store loses seconds of writes, not hours
LOOK_EVERY = 2.0  # seconds, or a third of a short lease


class Rescuer:
    """The role that rescues; runs in the roles thread. ``on_left`` is called there with the jobs of a dead owner that
    RQ's own code must end; ``close`` has to be called after that."""

    def __init__(
        self,
        settings: Settings,
        client: redis.Redis,
        on_left: Callable[[LeftForRQ], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every = min(LOOK_EVERY, settings.lease / 3)
        self._settings = settings
        self._on_left = on_left
        self._client = client
        self._protocol = Protocol(client)
        self._lease_watch = LeaseWatch(settings, client)
        self._dependents = LeftDependents(client, clock)
        self.leaves_failures = False  # True: a plugin wants to hear of each job that fails, from RQ's own finish
        self._rescued: dict[str, DeathReport] = {}  # the latest rescues of our own children, by owner
        self._failed: set[str] = set()  # workers whose rescue failed; each is logged once

    # -- our own children ----------------------------------------------------------------------------------------------

    def rescue_own(self, death_report: DeathReport, final: bool = False) -> LeftForRQ | None:
        """Settle the jobs that a dead child of ours had finished, give back those that never started, and apply the
        rulings to those that ran. Return the jobs for RQ's own code; None: another process has struck the owner name
        off. May be repeated."""
        s, owner = self._settings, death_report.owner
        ran = {ruling.claim for ruling in death_report.running}
        noted = {o.claim: o for o in death_report.finished if o.by_rq and o.claim in ran}  # the others are recorded
        for_rq = [ForRQ(o.id, o.claim, o.queue, Verdict(o.by_rq), o.payload) for o in noted.values()]
        finished = [outcome for outcome in death_report.finished if not outcome.by_rq and outcome.claim not in noted]
        for outcome, ack in settle(self._protocol, s, owner, finished):
            if ack is Ack.HAS_DEPENDENTS:
                verdict = Verdict.RETURNED if outcome.kind == RETURNED else Verdict.FAIL
                for_rq.append(ForRQ(outcome.id, outcome.claim, outcome.queue, verdict, outcome.payload))
        done = {outcome.claim for outcome in finished} | noted.keys()
        running = [ruling for ruling in death_report.running if ruling.claim not in done]
        left = self._rescue(owner, s.worker, running, final=final, done=for_rq, death=death_report.death)
        left = left and left._replace(plain=death_report.plain)
        if left is None or not left.jobs:
            self._remember(death_report)
        self._dependents.enqueue_all()
        return left

    def rescue_unknown(self, owner: str) -> LeftForRQ | None:
        """Rescue the jobs of an earlier worker of our name, of which only the owner name is left."""
        cause = WorkerGone(self._settings.worker)
        return self._rescue(owner, self._settings.worker, None, cause=cause)

    def close(self, left: LeftForRQ) -> None:
        """Do the final rescue after RQ's own code: end the jobs that it could not end, and strike the owner name
        off."""
        last_rulings = [_last_ruling(job) for job in left.jobs]
        policy = self._policy_of(left.worker)
        self._rescue(left.owner, left.worker, last_rulings, final=True, on_crash=policy, dead=left.dead)
        self._dependents.enqueue_all()
        if left.worker == self._settings.worker:
            self._remember(DeathReport(left.owner, [], last_rulings))

    def claim_of(self, job_id: str, owners: list[str]) -> int | None:
        """Return the number of the claim under which one of our children holds the job; None: none does."""
        with self._client.pipeline(transaction=False) as pipe:
            for owner in owners:
                pipe.zscore(keys.own(owner), job_id)
            scores = replies_of(pipe) if owners else []
        return next((int(score) for score in scores if isinstance(score, float)), None)

    def _remember(self, death_report: DeathReport) -> None:
        self._rescued[death_report.owner] = death_report
        if len(self._rescued) > REMEMBERED:
            self._rescued.pop(next(iter(self._rescued)), None)

    def _rescue_again(self, owners: list[str]) -> None:
        """Repeat the rescues that the store has lost. owners: names of our tree that are in the store."""
        for owner in owners:
            if death_report := self._rescued.get(owner):
                left = self.rescue_own(death_report)
                if left and left.jobs:  # ``close`` is due once more
                    self._rescued.pop(owner, None)
                    self._on_left(left)

    # -- other trees ---------------------------------------------------------------------------------------------------

    def step(self, now: float) -> list[str]:
        """Look at the leases of all other trees; rescue the jobs of dead ones, and return their names. Repeat rescues
        of our own children that the store has lost. Enqueue dependents that other processes have left."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.smembers(keys.OWNERS)
            pipe.smembers(keys.WORKERS)
            pipe.hkeys(keys.ENDED)
            # a key of another type, which jobq doctor names, must not hide the other workers
            owners, workers, ended = ([] if isinstance(it, Exception) else it for it in replies_of(pipe))
        self._dependents.enqueue(ended)
        trees = owners_by_tree(owners, workers)
        self._rescue_again(trees.pop(self._settings.worker, []))
        leases = self._lease_watch.look(trees, now)
        return [worker for worker, lease in leases.items() if self._look_at(worker, lease, trees[worker], now)]

    def reconnected(self) -> None:
        """Start the watch of the leases again."""
        self._lease_watch.forget_all()

    def lease_of(self, worker: str) -> float:
        """Return for how many seconds the lease of this tree lasts."""
        return self._lease_watch.lease_of(worker)

    def _look_at(self, worker: str, lease: str, owners: list[str], now: float) -> bool:
        """Rescue the jobs of the tree if it is dead. Wrong data of one tree must not hold up the rescue of others."""
        try:
            return self._lease_watch.is_dead(worker, lease, now) and self._rescue_tree(worker, lease, owners)
        except Exception as e:  # a key of another type, a name that is not text: any program may have written it
            if is_away(e):
                raise
            if worker not in self._failed:
                log.error("the worker %s cannot be judged or rescued, others are: %s", ascii(worker), e)
            self._failed.add(worker)
            return False

    def _rescue_tree(self, worker: str, lease: str, owners: list[str]) -> bool:
        """Rescue the jobs of each owner of a dead tree; return False if it turned out to live."""
        cause = LeaseExpired(worker, self.lease_of(worker))
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

    def _policy_of(self, worker: str) -> str:
        """Return the worker's ``--on-crash``, as its registration says; "": it does not."""
        return text_of(self._client.hget(keys.worker(worker), "jobq_on_crash") or b"")

    # -- the request ---------------------------------------------------------------------------------------------------

    def _rescue(
        self,
        owner: str,
        worker: str,
        running: list[Ruling] | None,
        *,
        final: bool = False,
        cause: CauseOfDeath | None = None,
        lease: str = "",
        on_crash: str = "",
        done: list[ForRQ] | None = None,
        dead: str = "",
        death: str = "",
    ) -> LeftForRQ | None:
        """Send RESCUE, see rescue.lua; return what is left for RQ's own code, together with ``done``."""
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
            cause=encode_text(cause.recorded if cause else ""),
            dead=dead,
            death=death or (cause.counted_as if cause else ""),
            leave_failures=self.leaves_failures,
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


def _last_ruling(job: ForRQ) -> Ruling:
    """Return the ending of a job that RQ's own code could not end: a job that had returned runs again, unless it may
    not."""
    if job.verdict is Verdict.RETURNED:
        return ruling(job.claim, Verdict.INTERRUPT, RecordLost())
    return Ruling(job.claim, job.verdict, job.cause)
