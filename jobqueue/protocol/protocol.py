"""The one module that runs Lua scripts: each method is one script under ``scripts/``, in Python's terms.

A script's promise and the meaning of its arguments stand at the head of its file. Nothing here repeats a command by
itself: after a lost reply the caller decides (every script is safe to run again, because each acts under the token).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from time import monotonic
from typing import Any, NamedTuple, cast

import redis
from redis.exceptions import NoScriptError

from jobqueue.network.silence import FIRST_ANSWER, SILENCE
from jobqueue.protocol import bounds, keys, wire

Field = bytes | str | int | float
WITHOUT_PRELUDE = {"submit", "survey"}


class Claimed(NamedTuple):
    """A job in the hands of a child: (id, claim) is its token."""

    id: str
    claim: int
    queue: str
    data: bytes  # as in the hash: raw or zlib
    timeout: float | None  # None: the default; negative: no limit
    result_ttl: int | None
    failure_ttl: int | None
    retries_left: int
    features: str  # one letter each; cycle.lua says which


class JobOutcome(NamedTuple):
    """How a claimed job ended; what CYCLE writes about it. Times are RQ's text and seconds since the epoch."""

    id: str
    claim: int
    queue: str
    kind: int  # RQ's result type: 1 returned, 2 raised
    ttl: int
    payload: bytes  # as RQ's Result.restore reads it; b"" for a job that returned None
    started_at: str
    ended_at: str
    started: float
    ended: float
    by_rq: bool = False  # RQ's own finish is at it: not for CYCLE, a rescue leaves it to RQ's code again


class Spent(NamedTuple):
    """What the runs of one task took since the last CYCLE; jobqueue/insight/usage.py has the fields."""

    task: str
    slots: int  # of the process that ran them
    peak_kb: int | None
    sums: tuple[str | int, ...]  # field, amount, field, amount...


RETURNED, RAISED = 1, 2
RECORDED, LOST, GONE, HAS_DEPENDENTS = 1, 0, 2, 3  # acks of an outcome


class Cycle(NamedTuple):
    """What CYCLE answered: a state, an ack per outcome, and the jobs that were claimed."""

    state: str  # claimed | empty | suspended | paused | fenced
    acks: list[int]
    jobs: list[Claimed]


class Ruling(NamedTuple):
    """What a rescuer says of a job that ran when its process died; rescue.lua has the meanings."""

    claim: int
    kind: str  # crash | suspect | interrupt | fail | stop
    cause: bytes  # as RQ's Result.serialize writes exc_string


class ForRQ(NamedTuple):
    """A job that a rescue left to RQ's own finish, still under its dead owner's token."""

    id: str
    claim: int
    queue: str
    kind: str  # fail, dead (fail, RQ's retries do not apply), stop; returned: a record that found dependents
    cause: bytes


class Rescue(NamedTuple):
    """What became of a dead owner's jobs."""

    given_back: int
    run_again: int
    failed: int
    of_unknown_start: int
    for_rq: tuple[ForRQ, ...] = ()


@cache
def source(name: str) -> str:
    """The text of script ``name`` behind the prelude, with RQ's key prefix put in."""
    scripts = resources.files(__package__) / "scripts"
    if name in WITHOUT_PRELUDE:
        return (scripts / f"{name}.lua").read_text()
    prelude = (scripts / "_prelude.lua").read_text()
    prelude = prelude.replace("@PREFIX@", keys.PREFIX).replace("@LONGEST@", str(bounds.LONGEST))
    return prelude + (scripts / f"{name}.lua").read_text()


@cache
def packed_head(name: str, by_digest: bool) -> bytes:
    """The head of an EVALSHA, or of an EVAL, for wire.ask."""
    what = digest(name) if by_digest else source(name)
    return wire.strings((b"EVALSHA" if by_digest else b"EVAL", what.encode()))


@cache
def digest(name: str) -> str:
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()


def cycle_args(
    owner: str,
    worker: str,
    queues: Sequence[str],
    outcomes: Iterable[JobOutcome],
    want: int,
    idle: int,
    usage: Sequence[Spent] = (),
) -> list[Field]:
    """The arguments of CYCLE behind the script: number of keys, key, ARGV."""
    settled = list(outcomes)
    args: list[Field] = [1, keys.own(owner), owner, worker, want, idle, len(queues), *queues, len(settled)]
    for o in settled:
        args += (o.id, o.claim, o.queue, o.kind, o.ttl, o.payload, o.started_at, o.ended_at, o.started, o.ended)
    args.append(len(usage))
    for spent in usage:
        peak = "" if spent.peak_kb is None else spent.peak_kb
        args += (spent.task, spent.slots, peak, len(spent.sums) // 2, *spent.sums)
    return args


def parse_cycle(reply: Any) -> Cycle:
    state, acks, flat = reply
    jobs = [
        Claimed(
            _text(flat[i]),
            int(flat[i + 1]),
            _text(flat[i + 2]),
            flat[i + 3],
            bounds.clamped(flat[i + 4]),
            _whole(flat[i + 5]),
            _whole(flat[i + 6]),
            _whole(flat[i + 7]) or 0,
            flat[i + 8].decode(),
        )
        for i in range(0, len(flat), 9)
    ]
    return Cycle(state.decode(), acks, jobs)


def _whole(value: bytes) -> int | None:
    number = bounds.clamped(value)
    return None if number is None else int(number)


def _text(value: bytes | str) -> str:
    """Any bytes; ``_as_they_came`` makes them of it again."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _as_they_came(args: Iterable[Field]) -> list[Field]:
    """What redis-py can send, where an id in the store is no UTF-8."""
    return [arg.encode(errors="surrogateescape") if isinstance(arg, str) else arg for arg in args]


class Wire:
    """One connection for CYCLE, with sending and receiving apart: the reply is read when it is needed.

    The caller makes sure that one thread at a time sends or receives. Raises what redis-py raises.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._connection = client.connection_pool.make_connection()  # not connected: reconnect() does it
        self._args: list[Field] = []
        self._heard = 0.0  # monotonic seconds of the last answer
        self._was_silent = False

    def send(self, args: list[Field]) -> None:
        """Send CYCLE with the arguments that ``cycle_args`` made."""
        self._args = args
        self._was_silent = monotonic() - self._heard > SILENCE
        try:
            self._connection.send_command("EVALSHA", digest("cycle"), *args, check_health=False)
        except UnicodeEncodeError:  # nothing was sent
            self._args = _as_they_came(args)
            self._connection.send_command("EVALSHA", digest("cycle"), *self._args, check_health=False)

    def receive(self) -> Cycle:
        if self._was_silent and not self._connection.can_read(FIRST_ANSWER):  # it may have died since without a word
            raise redis.TimeoutError("no answer after a silence")
        try:
            reply = self._connection.read_response()
        except NoScriptError:  # it did not run, so sending the whole text repeats nothing
            self._connection.send_command("EVAL", source("cycle"), *self._args)
            reply = self._connection.read_response()
        self._heard = monotonic()
        return parse_cycle(reply)

    def largest(self) -> int:
        """How many bytes the server takes at once, as far as it says so; 0: it does not."""
        try:
            found = [self._limit(name) for name in ("proto-max-bulk-len", "client-query-buffer-limit")]
        except redis.ResponseError:  # not to everybody
            return 0
        return min((limit for limit in found if limit > 0), default=0)

    def _limit(self, name: str) -> int:
        self._connection.send_command("CONFIG", "GET", name)
        reply = self._connection.read_response()
        values = list(reply.values()) if isinstance(reply, dict) else reply[1:2]
        return int(values[0]) if values else 0

    def reconnect(self) -> None:
        self._connection.disconnect()
        self._connection.connect()

    def reconcile(self, owner: str, worker: str, claims: Iterable[int]) -> int:
        """Give back what the owner holds and does not know; -1: the owner is fenced."""
        self._connection.send_command("EVAL", source("reconcile"), 1, keys.own(owner), owner, worker, *claims)
        answer = int(self._connection.read_response())
        self._heard = monotonic()
        return answer


class Protocol:
    """The protocol with the store over one client. Raises what redis-py raises; repeats nothing."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def run(self, name: str, *args: Field) -> Any:
        """Run the script ``name`` with the number of keys, the keys and ARGV."""
        try:
            return self._run(name, *args)
        except UnicodeEncodeError:  # nothing was sent
            return self._run(name, *_as_they_came(args))

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
        """Enqueue the jobs whose hash does not exist yet; tell for each whether it was new."""
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
            return cast(bytes, wire.ask(self.client, size + packed_head("submit", True) + packed))
        except NoScriptError:  # it did not run, so sending the whole text repeats nothing
            return cast(bytes, wire.ask(self.client, size + packed_head("submit", False) + packed))

    def put(self, mark: str, attempt: int, job_id: str, *args: Field) -> str:
        """Store one job with options of RQ's; put.lua has the arguments. Return its status, "there" or "given up"."""
        queue, *rest = args
        return _text(self.run("put", 2, keys.submit(mark), keys.job(job_id), attempt, queue, job_id, *rest))

    def cycle(
        self,
        owner: str,
        worker: str,
        queues: Sequence[str],
        outcomes: Iterable[JobOutcome],
        want: int,
        idle: int = 0,
        usage: Sequence[Spent] = (),
    ) -> Cycle:
        """Settle ``outcomes``, add up ``usage`` and claim up to ``want`` jobs from ``queues`` in order."""
        return parse_cycle(self.run("cycle", *cycle_args(owner, worker, queues, outcomes, want, idle, usage)))

    def start_mark(self, owner: str, worker: str, jobs: Sequence[tuple[Claimed, str, int]]) -> list[bool]:
        """Mark (job, started_at, ttl) as running; False: the token is gone, do not start it."""
        args: list[Field] = [owner, worker]
        for job, started_at, ttl in jobs:
            args += (job.id, job.claim, job.queue, started_at, ttl)
        return [bool(ok) for ok in self.run("start_mark", 1, keys.own(owner), *args)]

    def give_back(self, worker: str, jobs: Iterable[tuple[str, str, int, str]]) -> int:
        """Give (owner, id, claim, queue) back to the head of their queues, over all children in one step."""
        args: list[Field] = [worker]
        for job in jobs:
            args += job
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
    ) -> Rescue | None:
        """Take a dead owner's jobs; ``running`` None: nobody knows what ran. ``dead``: the lease of its tree, which
        leaves RQ's lists with its last name unless it has moved. None: it was not ours to rescue."""
        args: list[Field] = [owner, worker, lease, int(running is not None), on_crash, most, int(final)]
        args += (ended_at, ended, cause, dead, len(keep), *keep)
        for ruling in running or ():
            args += ruling
        reply = self.run("rescue", 1, keys.own(owner), *args)
        if not reply:
            return None
        *counts, flat = reply
        left = tuple(
            ForRQ(_text(flat[i]), int(flat[i + 1]), _text(flat[i + 2]), _text(flat[i + 3]), flat[i + 4])
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
            return _text(reply)
        return dict(zip(reply[::2], reply[1::2], strict=True))

    def enqueue_dependents(self, job_id: str, most: int = 200) -> tuple[bool, list[tuple[str, str]]]:
        """Enqueue some dependents of a job that stands in keys.ENDED; return whether there are more, and who went into
        which queue. A chunk takes the server some milliseconds, and others are served in between."""
        left, *moved = self.run("dependents", 1, keys.waiting_for(job_id), job_id, most)
        return bool(left), [(_text(q), _text(i)) for q, i in zip(moved[::2], moved[1::2], strict=True)]

    def cancel_job(
        self, job_id: str, *, only_waiting: bool, enqueue_dependents: bool = False, forget: bool = False
    ) -> tuple[bool, str]:
        """Cancel the job; return whether it was done, and its status before ("held": about to run). ``forget``: what it
        waits for does not know it any more."""
        flags = (int(only_waiting), int(enqueue_dependents), int(forget))
        done, before = self.run("cancel_job", 1, keys.job(job_id), job_id, *flags)
        return bool(done), _text(before)

    def newest_claim(self) -> int:
        """The number of the last claim that anybody made."""
        try:
            return int(self.client.get(keys.SEQ) or 0)
        except (ValueError, redis.ResponseError):  # it is no number: the next claim begins anew, beyond all others
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

    def due(self, queues: Sequence[str], most: int = 500) -> list[int]:
        """Enqueue the scheduled jobs of ``queues`` whose time has come, up to ``most`` in all; tell for each queue how
        many, -1: an RQ scheduler does it."""
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
        """Take jobs whose hash has expired out of a registry of RQ's that nobody cleans (deferred, canceled), and who
        is canceled out of all others; return how many have expired."""
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
    """The names of the queues whose keys stand in keys.QUEUES; not of a queue class with a prefix of its own, and not
    what is no text."""
    prefix = keys.queue("")
    texts = (member.decode(errors="replace") for member in members)
    return [text.removeprefix(prefix) for text in texts if text.startswith(prefix) and "\ufffd" not in text]
