"""The protocol with the store: each method runs one script under ``scripts/``, in Python's terms.

A script's promise and the meaning of its arguments stand at the head of its file. Nothing here repeats a command by
itself: after a lost reply the caller decides (every script is safe to run again, because each acts under the token).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import redis
from redis.exceptions import NoScriptError

from jobqueue.protocol import keys, resp
from jobqueue.protocol.arguments import Field, as_they_came, text_of
from jobqueue.protocol.claims import StartMark, Token
from jobqueue.protocol.cycle import Cycle, CycleRequest, Spent, parse_cycle
from jobqueue.protocol.lua import digest, packed_head, source
from jobqueue.protocol.outcomes import JobOutcome
from jobqueue.protocol.rescue import ForRQ, Rescue, Ruling, Verdict


class Protocol:
    """The protocol with the store over one client. Raises what redis-py raises; repeats nothing."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def run(self, name: str, *args: Field) -> Any:
        """Run the script ``name`` with the number of keys, the keys and ARGV."""
        try:
            return self._run(name, *args)
        except UnicodeEncodeError:  # nothing was sent
            return self._run(name, *as_they_came(args))

    def _run(self, name: str, *args: Field) -> Any:
        try:
            return self.client.execute_command("EVALSHA", digest(name), *args)
        except NoScriptError:  # flushed, restarted or new: the script did not run, so sending it whole is no repeat
            return self.client.execute_command("EVAL", source(name), *args)

    def enqueue(
        self,
        queue: str,
        jobs: Sequence[tuple[str, Mapping[str, Field]]],
        *,
        at_front: bool = False,
        ttl: int | None = None,
    ) -> list[bool]:
        """Enqueue the jobs whose hash does not exist yet; return for each whether it was new."""
        args: list[Field] = [queue, "L" if at_front else "R", "" if ttl is None else ttl]
        for job_id, fields in jobs:
            args += (job_id, 2 * len(fields))
            for name, value in fields.items():
                args += (name, value)
        return [bool(new) for new in self.run("enqueue", 1, keys.queue(queue), *args)]

    def submit(self, count: int, packed: bytes) -> bytes:
        """Put the jobs that encoding.request packed into their queue; return b"ok" or b"given up"."""
        size = b"*%d\r\n" % (count + 2)
        try:
            return cast(bytes, resp.ask(self.client, size + packed_head("submit", True) + packed))
        except NoScriptError:  # it did not run, so sending the whole text repeats nothing
            return cast(bytes, resp.ask(self.client, size + packed_head("submit", False) + packed))

    def put(self, mark: str, attempt: int, job_id: str, *args: Field) -> str:
        """Store one job with options of RQ's; put.lua has the arguments. Return its status, "there" or "given up"."""
        queue, *rest = args
        return text_of(self.run("put", 2, keys.submit(mark), keys.job(job_id), attempt, queue, job_id, *rest))

    def cycle(
        self,
        owner: str,
        worker: str,
        queues: Sequence[str],
        outcomes: Iterable[JobOutcome],
        want: int,
        idle: int = 0,
        usage: Sequence[Spent] = (),
        failed: Mapping[str, int] = {},
    ) -> Cycle:
        """Settle ``outcomes``, add up ``usage`` and ``failed``, claim up to ``want`` jobs from ``queues`` in order."""
        request = CycleRequest(owner, worker, queues, list(outcomes), want, idle, usage, failed)
        return parse_cycle(self.run("cycle", *request.args()))

    def start_mark(self, owner: str, worker: str, marks: Sequence[StartMark]) -> list[bool]:
        """Mark these jobs as running; False: the token is gone, do not start it."""
        args: list[Field] = [owner, worker]
        for job, started_at, ttl in marks:
            args += (job.id, job.claim, job.queue, started_at, ttl)
        return [bool(ok) for ok in self.run("start_mark", 1, keys.own(owner), *args)]

    def give_back(self, worker: str, tokens: Iterable[Token]) -> int:
        """Give jobs back to the head of their queues, over all children in one step; return how many were there."""
        args: list[Field] = [worker]
        for token in tokens:
            args += token
        return int(self.run("give_back", 1, keys.OWNERS, *args)) if len(args) > 1 else 0

    def rescue(
        self,
        owner: str,
        worker: str,
        *,
        lease: str = "",
        running: Iterable[Ruling] | None,
        on_crash: str,
        most: int,
        final: bool,
        keep: Sequence[int] = (),
        ended_at: str,
        ended: float,
        cause: bytes,
        dead: str = "",
        death: str = "",
        leave_failures: bool = False,
    ) -> Rescue | None:
        """Take a dead owner's jobs. running: None if it is not known which jobs ran; dead: the lease of its tree, which
        is removed from RQ's lists with its last owner name unless the lease was renewed; death: the cause that the
        metrics count, "": none; leave_failures: leave each job that fails for RQ's own finish. Return None if it was
        not ours to rescue."""
        args: list[Field] = [owner, worker, lease, int(running is not None), on_crash, most]
        args.append(1 if final else 2 if leave_failures else 0)
        args += (ended_at, ended, cause, dead, death, len(keep), *keep)
        for ruling in running or ():
            args += ruling
        reply = self.run("rescue", 1, keys.own(owner), *args)
        if not reply:
            return None
        *counts, flat = reply
        left = tuple(
            ForRQ(text_of(flat[i]), int(flat[i + 1]), text_of(flat[i + 2]), Verdict(text_of(flat[i + 3])), flat[i + 4])
            for i in range(0, len(flat), 5)
        )
        back, again, failed, unknown = map(int, counts)
        return Rescue(back, again, failed, unknown, left)

    def strike_off(self, worker: str, lease: str, death: str) -> bool:
        """Take a dead tree that has no owners off RQ's lists, if its lease still is ``lease``."""
        return bool(self.run("strike_off", 1, keys.lease(worker), worker, lease, death))

    def begin_finish(
        self, owner: str, worker: str, job_id: str, claim: int, queue: str, ttl: int
    ) -> dict[bytes, bytes] | str:
        """Set the fence of RQ's own finish, and return the job's hash; else why not: "lost", "gone" or "canceled"."""
        reply = self.run("begin_finish", 1, keys.own(owner), owner, worker, job_id, claim, queue, ttl)
        if not isinstance(reply, list):
            return text_of(reply)
        return dict(zip(reply[::2], reply[1::2], strict=True))

    def enqueue_dependents(self, job_id: str, most: int = 200) -> tuple[bool, list[tuple[str, str]]]:
        """Enqueue some dependents of a job that is in keys.ENDED; return whether there are more, and which went into
        which queue. A chunk takes the server some milliseconds, and other requests are served in between."""
        left, *moved = self.run("dependents", 1, keys.waiting_for(job_id), job_id, most)
        return bool(left), [(text_of(q), text_of(i)) for q, i in zip(moved[::2], moved[1::2], strict=True)]

    def cancel_job(
        self, job_id: str, *, only_waiting: bool, enqueue_dependents: bool = False, forget: bool = False
    ) -> tuple[bool, str]:
        """Cancel the job; return whether it was done, and its status before ("held": about to run). forget: the jobs
        that it waits for do not list it any more."""
        flags = (int(only_waiting), int(enqueue_dependents), int(forget))
        done, before = self.run("cancel_job", 1, keys.job(job_id), job_id, *flags)
        return bool(done), text_of(before)

    def cancel_waiting(self, ids: Sequence[str]) -> list[tuple[bool, str]]:
        """Cancel jobs that wait, each in a step of its own but all in one round trip; cancel_job has the replies."""
        if not ids:
            return []
        first, *others = ids
        replies = [self.cancel_job(first, only_waiting=True)]  # now the server knows the script
        with self.client.pipeline(transaction=False) as pipe:
            for job_id in others:
                pipe.execute_command("EVALSHA", digest("cancel_job"), 1, keys.job(job_id), job_id, 1, 0, 0)
            replies += [(bool(done), text_of(before)) for done, before in pipe.execute()]
        return replies

    def newest_claim(self) -> int:
        """Return the number of the last claim."""
        try:
            return int(self.client.get(keys.SEQ) or 0)
        except (ValueError, redis.ResponseError):  # it is not a number: the next claim starts again, beyond all others
            return 0

    def stand_in(
        self,
        owner: str,
        worker: str,
        ttl: int,
        newest: int,
        running: Sequence[tuple[int, str]],
        finished: Iterable[int],
    ) -> bool:
        """Mark (claim, started_at) and give back all else up to the claim ``newest``, for a child that holds still;
        False: it is fenced."""
        args: list[Field] = [owner, worker, ttl, newest, len(running)]
        for claim, started_at in running:
            args += (claim, started_at)
        return bool(self.run("stand_in", 1, keys.own(owner), *args, *finished))

    def cancel(self, queue: str, ids: Sequence[str]) -> list[bool]:
        """Take those of the jobs that wait in ``queue`` out of it, canceled; False: it was not there."""
        return [bool(n) for n in self.run("cancel", 1, keys.queue(queue), queue, *ids)]

    def requeue_failed(self, ids: Sequence[str]) -> list[str]:
        """Put failed or stopped jobs back into their queues. Return per job "requeued"; else why not: "limited" (by a
        rate limit), its status, or "" (gone)."""
        return [text_of(reply) for reply in self.run("requeue_failed", 1, keys.QUEUES, *ids)]

    def delete_failed(self, ids: Sequence[str]) -> list[str]:
        """Delete failed or stopped jobs. Return per job "deleted"; else why not: "by rq" (Job.delete has to do it), its
        status, or "" (gone)."""
        return [text_of(reply) for reply in self.run("delete_failed", 1, keys.QUEUES, *ids)]

    def purge(self, queue: str, most: int) -> tuple[int, list[str]]:
        """Delete up to ``most`` jobs at the head of the queue; return how many, and the ids that Job.delete has to
        delete, which are canceled now."""
        count, left = self.run("purge", 1, keys.queue(queue), queue, most)
        return int(count), [text_of(job_id) for job_id in left]

    def due(self, queues: Sequence[str], most: int = 500) -> list[int]:
        """Enqueue the scheduled jobs of ``queues`` that are due, up to ``most`` in all; return how many for each queue,
        -1: an RQ scheduler does it."""
        registries = [keys.registry("scheduled", queue) for queue in queues]
        return [int(n) for n in self.run("due", len(queues), *registries, most, *queues)]

    def survey(self, cursor: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Return the next cursor (b"0" at the end) and the ids of some jobs that say that they wait or run."""
        following, *ids = self.run("survey", 0, cursor, keys.job("*"), count)
        return following, ids

    def bring_back(self, queue: str, job_id: str, seen: Sequence[str]) -> bool:
        """Put a job that is in limbo, and still looks like ``seen``, at the head of its queue; False: it is not."""
        return bool(self.run("bring_back", 1, keys.queue(queue), queue, job_id, *seen))

    def bring_on(self, job_id: str) -> bool:
        """Enqueue a job that waits for others, all of which have ended; False: it waits rightly, or not at all."""
        return bool(self.run("bring_on", 1, keys.job(job_id), job_id))

    def forget_gone(self, kind: str, queue: str) -> int:
        """Remove jobs whose hash has expired from a registry that RQ does not clean (deferred, canceled), and canceled
        jobs from all other registries; return how many have expired."""
        registry, cursor, count = keys.registry(kind, queue), -1, 0
        while cursor:
            cursor, found = self.client.zscan(registry, max(0, cursor), count=500)
            if found:
                count += int(self.run("forget_gone", 1, registry, kind, queue, *(member for member, _ in found)))
        return count

    def heartbeat(self, worker: str, ttl: int) -> int:
        """Keep the running jobs of ``worker`` in RQ's started registries for ``ttl`` more seconds."""
        return int(self.run("heartbeat", 1, keys.worker_executions(worker), worker, ttl))


def queue_names(members: Iterable[bytes]) -> list[str]:
    """Return the names of the queues in keys.QUEUES, without those of a queue class with its own prefix, and those that
    are not text."""
    prefix = keys.queue("")
    texts = (member.decode(errors="replace") for member in members)
    return [text.removeprefix(prefix) for text in texts if text.startswith(prefix) and "\ufffd" not in text]
