"""One child's place in the tree. Its process comes and goes; each incarnation has a name of its own."""

from __future__ import annotations

import os
import signal
import socket
import time
from enum import Enum
from typing import NamedTuple

from jobqueue.network.backoff import Backoff
from jobqueue.protocol.claims import Token
from jobqueue.protocol.outcomes import JobOutcome
from jobqueue.protocol.rescue import Ruling
from jobqueue.workers.shared import oom
from jobqueue.workers.shared.deaths import DeathReport, cause_of_death, end_of_process
from jobqueue.workers.shared.endings import JOB, SHUTDOWN, SUCCESS, decode_text, encode_text
from jobqueue.workers.shared.faults import Faults
from jobqueue.workers.shared.journal import BUFFERED, DONE, OUT_OF_WORK, PULSE, UNSETTLED, Running, SharedPage
from jobqueue.workers.shared.messages import (
    CannotBegin,
    Dropped,
    FromChild,
    MessageReader,
    NotAMessage,
    OutOfWork,
    Quiet,
    Retire,
    ToChild,
    encode,
)

YOUNG = 1.0  # seconds; who dies younger and did nothing makes the next one wait
NEIGHBOUR = "ChildKilled: The process that ran this job was killed because of another job that ran in it."


class Condemned(NamedTuple):
    """A job that we end: by what ruling, with what cause, since when (monotonic seconds)."""

    kind: str  # fail | stop
    cause: str
    since: float
    what: int = JOB  # that did not react


class HandleState(Enum):
    """What a handle is doing."""

    EMPTY = "empty"
    STARTING = "starting"  # its next owner's name is on the way into the store
    IN_USE = "in use"  # a process was asked for, or runs


class ChildHandle:
    """Owned by the supervisor's main loop; ``tell`` may be called from any thread."""

    def __init__(self, number: int, page: SharedPage) -> None:
        self.number = number
        self.page = page
        self.faults = Faults()
        self.state = HandleState.EMPTY
        self.owner = ""
        self.pid = 0
        self.control: socket.socket | None = None
        self.dropped: tuple[Token, ...] | None = None  # what it will not run; None: it has not said yet
        self.not_before = 0.0  # monotonic seconds
        self.retiring = False  # somebody takes over; it leaves when its jobs are done
        self.quiet_sent = False
        self.condemned: dict[int, Condemned] = {}  # claim → how we end it
        self.killed = False  # by us, for one of its jobs
        self.seen: dict[int, float] = {}  # the watchdog's: claim → when it was first seen running (monotonic seconds)
        self.pulse = 0  # the watchdog's: the last pulse seen, since when it holds still, whether we stood in for it
        self.silent_since = 0.0
        self.stood_in = False
        self.done = -1  # the watchdog's: how many jobs it had done when it was last seen between two, when to ask it
        self.ask_at = 0.0
        self.worked = False  # it has come as far as to claim
        self.failure = ""  # why its process could not begin, as it said itself
        self.deaf_since = 0.0  # monotonic seconds since its end of the socket is closed; 0: it is open
        self._incarnation = 0
        self._reader: MessageReader[FromChild] = MessageReader(FromChild)
        self._born = 0.0
        self._oom_kills = 0
        self._short_lives = Backoff(first=0.8, most=5.0, free=2)

    def next_owner(self, worker: str) -> str:
        """The name of the next incarnation."""
        self.state = HandleState.STARTING
        self._incarnation += 1
        self.owner = f"{worker}:{self.number}.{self._incarnation}"
        return self.owner

    def attach(self, control: socket.socket) -> None:
        self.state = HandleState.IN_USE
        self.control = control
        self.pid = 0
        self.dropped = None
        self.retiring = self.quiet_sent = self.killed = self.stood_in = False
        self.worked = False
        self.condemned, self.seen = {}, {}
        self.pulse, self.silent_since, self.deaf_since, self.failure = 0, 0.0, 0.0, ""
        self._reader = MessageReader(FromChild)
        self._born = time.monotonic()
        self._oom_kills = oom.kills()

    def tell(self, message: ToChild) -> None:
        try:
            if control := self.control:
                control.send(encode(message))
        except OSError:  # it died; the fork server says so
            pass

    def hear(self) -> list[OutOfWork | Retire | Dropped] | None:
        """Read what its process says, when its socket is readable; None: the end, or what only a job can have written
        there. Why it cannot begin is kept in ``failure``."""
        assert self.control is not None
        try:
            data = self.control.recv(65536)
        except OSError:
            data = b""
        if not data:
            return None
        said: list[OutOfWork | Retire | Dropped] = []
        try:
            for message in self._reader.read(data):
                if isinstance(message, CannotBegin):
                    self.failure = message.why
                else:
                    said.append(message)
        except NotAMessage:
            return None
        return said

    def quiet(self) -> None:
        """Tell it to claim nothing more and to leave when its jobs are done. Twice is once."""
        if not self.quiet_sent:
            self.quiet_sent = True
            self.tell(Quiet())

    def death_report(self, status: int | None, stopping: bool) -> DeathReport:
        """What its process left in shared memory, and our ruling on each job that ran in it."""
        running = self.page.running()
        cause = SHUTDOWN if stopping else self.cause_of_death(status)
        culprit = self.faults.culprit(running) if status is not None else None
        rulings = [self._rule(job, len(running), culprit, cause, stopping) for job in running]
        plain = frozenset(claim for claim, condemned in self.condemned.items() if condemned.what not in (JOB, SUCCESS))
        finished = [self._with_cause(outcome) for outcome in self._finished()]
        return DeathReport(self.owner, finished, rulings, plain)

    def _with_cause(self, outcome: JobOutcome) -> JobOutcome:
        """Why the job failed stays what is recorded, also when its callback did not end."""
        condemned = self.condemned.get(outcome.claim)
        if not (outcome.by_rq and condemned and condemned.kind == "fail"):
            return outcome
        text = f"{decode_text(outcome.payload).rstrip()}\n{condemned.cause}\n"
        return outcome._replace(payload=encode_text(text))

    def cause_of_death(self, status: int | None) -> str:
        return cause_of_death(self.pid, status, out_of_memory=oom.kills() > self._oom_kills)

    def end_of_process(self, status: int | None) -> str:
        ran = bool(self.page.running())
        return end_of_process(status, out_of_memory=oom.kills() > self._oom_kills, ran=ran)

    @property
    def has_begun(self) -> bool:
        """Its process has come as far as to run jobs."""
        return bool(self.page.get(PULSE))

    def look_whether_it_works(self) -> bool:
        """Its process has had an answer to a claim: it has jobs, or found no more. Once true it stays so."""
        page = self.page
        self.worked = (
            self.worked or any(map(page.get, (OUT_OF_WORK, BUFFERED, DONE, UNSETTLED))) or bool(page.running())
        )
        return self.worked

    @property
    def born(self) -> float:
        """Monotonic seconds."""
        return self._born

    def _finished(self) -> list[JobOutcome]:
        try:
            return list(self.page.journal.read())
        except (ValueError, EOFError, TypeError):  # killed in the middle of bringing its halves together
            return []

    def _rule(self, job: Running, company: int, culprit: int | None, cause: str, stopping: bool) -> Ruling:
        if condemned := self.condemned.get(job.claim):
            return Ruling(job.claim, condemned.kind, encode_text(condemned.cause))
        if self.killed or stopping:
            return Ruling(job.claim, "interrupt", encode_text(SHUTDOWN if stopping else NEIGHBOUR))
        if culprit is not None and culprit != job.claim:
            return Ruling(job.claim, "interrupt", encode_text(NEIGHBOUR))
        kind = "crash" if company == 1 or culprit == job.claim else "suspect"
        return Ruling(job.claim, kind, encode_text(cause))

    def release(self) -> None:
        """Its process is gone. Three in a row that died young and idle make the next one wait, longer each time, 5 s at
        most; who died of a job did start, so its successor may too."""
        if self.control is not None:
            self.control.close()
        self.control, self.pid, self.state = None, 0, HandleState.EMPTY
        now = time.monotonic()
        young = now - self._born < YOUNG and self.page.get(DONE) == 0 and not self.page.running()
        if young:
            self._short_lives.failed()
        else:
            self._short_lives.reset()
        self.not_before = now + self._short_lives.delay

    def kill(self) -> None:
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def await_death(self, timeout: float = 5.0) -> None:
        """Nothing may be rescued from a process that still runs: its end of the socket closes when it is gone."""
        assert self.control is not None
        self.control.settimeout(timeout)
        try:
            while self.control.recv(65536):
                pass
        except OSError:  # reset; or not gone in time: then the token in the store has to do
            pass
