"""Carry out the commands of rq.command: shutdown, stop-job, stop-execution, kill-horse."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from jobqueue.errors import StoppedOnRequest
from jobqueue.protocol.rescue import Verdict
from jobqueue.workers.shared.deaths import claim_in
from jobqueue.workers.shared.failures import describe
from jobqueue.workers.shared.messages import StopJob
from jobqueue.workers.supervisor.child_handle import ChildHandle
from jobqueue.workers.supervisor.child_process import Condemned

log = logging.getLogger(__name__)


class CommandHandler:
    """Carries out commands, in the supervisor's main loop. ``find`` looks up in the store under which claim one of the
    named owners holds a job, and calls back with the claim."""

    def __init__(
        self,
        handles: Sequence[ChildHandle],
        shutdown: Callable[[], None],
        find: Callable[[str, list[str], Callable[[int | None], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handles = handles
        self._shutdown = shutdown
        self._find = find
        self._clock = clock

    def handle(self, command: dict[str, Any]) -> None:
        """Carry out a command. Any program that can write to the store may have sent it: it must not end the worker,
        whatever it is."""
        try:
            self._handle(command)
        except Exception as e:
            log.warning("the command %.200r was ignored: %s", command, describe(e))

    def _handle(self, command: dict[str, Any]) -> None:
        match command.get("command"):
            case "shutdown":
                self._shutdown()
            case "stop-job":
                owners = [handle.owner for handle in self._handles if handle.is_used]
                job_id = str(command.get("job_id"))
                job_id.encode()  # a lone surrogate is not an id, and could not be sent
                self._find(job_id, owners, self._stop)
            case "stop-execution":
                self._stop(claim_in(str(command.get("execution_id"))))
            case "kill-horse":
                for handle in self._handles:
                    if handle.page.running():
                        handle.kill()
            case other:
                log.warning("unknown command %.200r was ignored", other)

    def _stop(self, claim: int | None) -> None:
        """Tell the child that runs the job of this claim to stop it; None: no child holds the job."""
        for handle in self._handles:
            if claim and handle.is_used and any(job.claim == claim for job in handle.page.running()):
                handle.process.condemned.setdefault(claim, Condemned(Verdict.STOP, StoppedOnRequest(), self._clock()))
                handle.tell(StopJob(claim))
                return
        log.warning("a job that does not run here is to be stopped: ignored")
