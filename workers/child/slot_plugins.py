"""What plugins see of one slot: its thread's start and stop, the job that runs, and how it has ended.

    begin ──► (runner) around_job ──► note the end ──► the outcome is in the journal ──► report: job_ended

A job is reported when its outcome cannot be lost any more. So a plugin that raises, hangs or kills the process in
``job_ended`` changes no outcome. Each call has its own time limit, as a callback has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import redis

from jobqueue.clock import now
from jobqueue.plugins.calls import Plugins
from jobqueue.plugins.plugin import EndKind, JobEnd, RunningJob
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.outcomes import RETURNED
from jobqueue.workers.child.slot_finish import SlotFinish
from jobqueue.workers.rq_finish.finishing import Finishing
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.limits import Interrupted
from jobqueue.workers.running.plugin_calls import running_job
from jobqueue.workers.running.runner import Ending
from jobqueue.workers.shared.endings import decode_text

LIMIT = 10.0  # seconds for one method of one plugin
_KINDS: Mapping[str, EndKind] = {"finished": "finished", "failed": "failed", "stopped": "stopped", "": "retried"}


class Heard(NamedTuple):
    """A job and its end, as plugins are to hear of them."""

    job: RunningJob
    end: JobEnd


class SlotPlugins:
    """Used in the slot's thread; after a write-off the new slot's thread takes ``heard`` over."""

    def __init__(
        self,
        plugins: Plugins,
        worker: str,
        client: redis.Redis,
        finish: SlotFinish,
        before_report: Callable[[], object],
    ) -> None:
        """before_report: called before job_ended is called for a job, which may take long."""
        self._plugins = plugins
        self._worker = worker
        self._client = client
        self._finish = finish
        self._before_report = before_report
        self._reports = plugins.has("job_ended")
        self._job: RunningJob | None = None
        self._error: BaseException | None = None
        self.heard: Heard | None = None  # to be reported

    def call(self, method: str, *args: Any) -> None:
        """Call this method of each plugin, each under a limit and in a context of its own."""
        for plugin in self._plugins.with_method(method):
            with self._finish.limited(LIMIT):
                after_imports.copy().run(self._plugins.call_one, plugin, method, *args)

    # -- one job -------------------------------------------------------------------------------------------------------

    def begin(self, job: Claimed, rq_job: Any) -> None:
        """(in the job's context) Make the object by which plugins know the job."""
        waited = max(0.0, now() - job.ready_at) if job.ready_at else None
        self._job = RunningJob(job.id, job.queue, self._worker, self._client, rq_job, waited)
        self._error = self.heard = None
        running_job.set(self._job)

    def keep_error(self, error: BaseException | None) -> None:
        """(within the job's limit) Keep the exception, which the slot lets go of."""
        self._error = error

    def note(self, ending: Ending | BaseException, seconds: float, repeats: bool) -> None:
        """Note how the job ended. ``repeats``: it goes back to its queue if it was interrupted."""
        if self._job is None:
            return
        end: JobEnd
        if isinstance(ending, BaseException):
            kind: EndKind = "stopped"
            if isinstance(ending, Interrupted):
                kind = "interrupted" if repeats else "failed"
            end = JobEnd(kind, seconds=seconds)
        elif ending.kind == RETURNED:
            end = JobEnd("retried" if ending.is_retry else "finished", seconds=seconds)
        else:
            end = JobEnd("failed", ending.error or self._error, decode_text(ending.payload), seconds)
        self.heard = Heard(self._job, end)

    def note_written_off(self, stuck: SlotPlugins, ending: Ending, seconds: float, stopped: bool) -> None:
        """(child watchdog) Note how a job ended from which another slot's thread does not come back."""
        if stuck._job is not None:
            kind: EndKind = "stopped" if stopped else "failed"
            self.heard = Heard(stuck._job, JobEnd(kind, text=decode_text(ending.payload), seconds=seconds))

    def recorded(self, finishing: Finishing) -> None:
        """Note what RQ's own finish has made of the end."""
        heard, outcome = finishing.heard or self.heard, finishing.outcome_in_store
        if heard is None or outcome is None:
            return
        end, kind = heard.end, _KINDS.get(outcome, heard.end.kind)
        text = end.text or (
            "" if kind == "finished" else decode_text(finishing.ending.payload) if _failed(finishing) else ""
        )
        self.heard = Heard(heard.job, JobEnd(kind, end.error, text, end.seconds))

    def report(self) -> None:
        """Call ``job_ended`` for what was noted, and let go of the job. Nothing happens if nothing was noted."""
        heard, self.heard, self._job = self.heard, None, None
        if heard is None:
            return
        if self._reports:
            self._before_report()
            self.call("job_ended", heard.job, heard.end)
        with self._finish.limited(LIMIT):  # dropping them may run code of theirs
            heard.job.let_go()
            heard = self._error = None


def _failed(finishing: Finishing) -> bool:
    return finishing.ending.kind != RETURNED
