"""Call a job's function inside of the plugins' ``around_job``, and keep the object by which plugins know the job."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

from jobqueue.plugins.calls import Plugins
from jobqueue.plugins.finding import Found, active
from jobqueue.plugins.plugin import RunningJob
from jobqueue.workers.running.limits import OURS
from jobqueue.workers.running.runner import DecodedCall, Runner, value_of
from jobqueue.workers.shared.copies import end_copy

running_job: ContextVar[RunningJob | None] = ContextVar("jobq_running_job", default=None)  # set only where plugins are


def plugins_of(found: Sequence[Found], verbose: bool = False) -> Plugins:
    """Return the active plugins, for a process that runs jobs. verbose: log tracebacks of what they raise."""
    plugins = Plugins(active(found))
    plugins.with_traceback = verbose
    plugins.passing = OURS  # a time limit ends the plugin, and is logged as its error
    plugins.end_copy = end_copy
    return plugins


def wrap_calls(runner: Runner, plugins: Plugins) -> None:
    """Have the runner call each job's function inside of the plugins; without any that wants this, change nothing."""
    if plugins.has("around_job", "job_ended"):
        runner.call = partial(_call, plugins)


def _call(plugins: Plugins, call: DecodedCall) -> Any:
    job = running_job.get()
    if job is None:  # not a job: nobody has begun one here
        return value_of(call)
    job.decoded(call.task, call.args, call.kwargs)
    return plugins.around(job, partial(value_of, call))
