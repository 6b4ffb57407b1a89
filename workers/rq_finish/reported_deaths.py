"""Tell plugins of the jobs that a finish process has ended, whose own processes have died."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import redis
from rq.timeouts import JobTimeoutException

from jobqueue.plugins.calls import Plugins
from jobqueue.plugins.plugin import EndKind, JobEnd, RunningJob
from jobqueue.protocol.rescue import ForRQ
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.shared.endings import PLUGIN, decode_text

LIMIT = 10.0  # seconds for one method of one plugin
_KINDS: Mapping[str, EndKind] = {"finished": "finished", "failed": "failed", "stopped": "stopped", "": "retried"}


class ReportedDeaths:
    """Used in the main thread of the process that records the ends. All ends are recorded before the first is reported,
    so that no plugin stands in their way."""

    def __init__(
        self,
        plugins: Plugins,
        worker: str,
        client: redis.Redis,
        limits: FinishLimits,
        task_of: Callable[[bytes], str],
    ) -> None:
        """worker: the name of the one that ran the jobs. task_of: returns the function's name for a job's data."""
        self._plugins = plugins
        self._worker = worker
        self._client = client
        self._limits = limits
        self._task_of = task_of

    def finish(self, jobs: Sequence[ForRQ], finish: Callable[[ForRQ], str | None], own_process: bool) -> None:
        """Record the end of each job by ``finish``, which returns what was recorded; then report them. ``own_process``:
        this is all that the process does."""
        heard = []
        for job in jobs:
            known = RunningJob(job.id, job.queue, self._worker, self._client)
            (data,) = known.fields("data")  # now: with failure_ttl=0 nothing is left of the job afterwards
            known.task = self._task_of(data or b"").replace(":", ".")
            if (outcome := finish(job)) is not None:
                heard.append((known, JobEnd(_KINDS[outcome], text=_text(job), was_killed=True)))
        if own_process and heard:
            self._call("process_start")
        for known, end in heard:
            self._call("job_ended", known, end)
        if own_process and heard:
            self._call("process_stop")

    def _call(self, method: str, *args: object) -> None:
        for plugin in self._plugins.with_method(method):
            try:
                with self._limits.limited(PLUGIN, LIMIT):
                    after_imports.copy().run(self._plugins.call_one, plugin, method, *args)
            except JobTimeoutException:  # as the call came back
                pass


def _text(job: ForRQ) -> str:
    """Return why the job failed; "" if it returned."""
    try:
        return decode_text(job.cause) if job.verdict.value != "returned" else ""
    except ValueError:
        return ""
