"""The class that plugins derive from, and what its methods are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jobqueue.protocol import keys

EndKind = Literal["finished", "failed", "retried", "stopped", "interrupted"]
Decode = Callable[[], tuple[str, Sequence[Any], Mapping[str, Any]]]


@dataclass(frozen=True)
class WorkerInfo:
    """What a plugin may know of the worker that it runs in."""

    name: str
    queues: tuple[str, ...]
    slots: int  # jobs at a time in one process
    result_ttl: int = 500  # seconds that results are kept of jobs that do not say how long; -1: for ever
    failure_ttl: int = 31_536_000  # likewise failures
    capture: int = 0  # bytes of each job's output to keep


@dataclass(frozen=True)
class JobEnd:
    """How a run of a job ended.

    kind: finished; failed (for good); retried (it failed, or asked for it, and will run again by RQ's retry); stopped
    (on request); interrupted (the worker stops, and the job goes back to its queue). error: what the job raised, where
    it is known; of a job whose process died there is only the text. text: the traceback, or the cause of death.
    seconds: how long it ran; None where nobody knows. was_killed: its process died.
    """

    kind: EndKind
    error: BaseException | None = None
    text: str = ""
    seconds: float | None = None
    was_killed: bool = False


@dataclass(frozen=True)
class ProcessInfo:
    """What a plugin may know of the process that runs jobs.

    connection: a redis-py client of the store, which any thread may use. speaks_for_worker: asks whether this process
    is the one of its worker that is to report what concerns all of them; it is another one after this has ended.
    demands: reads what is asked of each of these queues: waiting, running, latency. It raises redis-py's errors.
    """

    connection: Any
    speaks_for_worker: Callable[[], bool]
    demands: Callable[[Sequence[str]], Sequence[Any]]


class RunningJob:
    """A job that runs in this process, or that has died with another. There is one object per run; ``state`` is for
    plugins, which keep there what belongs to this run, each under its own key."""

    __slots__ = (
        "_args",
        "_fields",
        "_kwargs",
        "_rq_job",
        "connection",
        "id",
        "queue",
        "state",
        "task",
        "waited",
        "worker",
    )

    def __init__(
        self, job_id: str, queue: str, worker: str, connection: Any, rq_job: Any = None, waited: float | None = None
    ) -> None:
        """connection: a redis-py client of the store, which any thread may use. waited: seconds from when the job came
        to its queue to its start; None: unknown."""
        self.id = job_id
        self.connection = connection
        self.queue = queue
        self.worker = worker
        self.waited = waited
        self.task = ""  # "shop.tasks.resize"; "" until the job is decoded
        self.state: dict[Any, Any] = {}
        self._args: Sequence[Any] = ()
        self._kwargs: Mapping[str, Any] = {}
        self._fields: dict[str, bytes | None] = {}
        self._rq_job = rq_job

    @property
    def args(self) -> Sequence[Any]:
        """The positional arguments, decoded; empty where the job's process has died."""
        return self._args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """The keyword arguments, likewise."""
        return self._kwargs

    @property
    def rq_job(self) -> Any:
        """RQ's job, as ``rq.get_current_job()`` returns it; it is read from the store at its first use. None where the
        job's process has died."""
        return self._rq_job

    def fields(self, *names: str) -> tuple[bytes | None, ...]:
        """Return fields of the job's hash; those that no plugin has asked for yet are read from the store, with one
        request. Raises redis-py's errors."""
        missing = [name for name in names if name not in self._fields]
        if missing:
            self._fields.update(zip(missing, self.connection.hmget(keys.job(self.id), missing), strict=True))
        return tuple(self._fields[name] for name in names)

    def attempt(self, end: JobEnd | None = None) -> int:
        """Return which run of the job this is, from 1: RQ's retries count, and repeats after a process died. Reads the
        store. ``end``: what ``job_ended`` was given, as this run may be counted by then."""
        counts = self.fields("number_of_retries", "jobq_retries", "jobq_crashes")
        before = sum(int(text) for text in counts if text and text.isdigit())
        is_counted = end is not None and (end.kind == "retried" or end.was_killed)
        return max(1, before + (0 if is_counted else 1))

    def decoded(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """(jobq's) Note the call that the job asks for."""
        self.task, self._args, self._kwargs = task, args, kwargs

    def let_go(self) -> None:
        """(jobq's) Drop what belongs to the job, after the last plugin has seen its end."""
        self._args, self._kwargs, self._rq_job = (), {}, None
        self.state.clear()

    def __repr__(self) -> str:
        return f"<RunningJob {self.id} of {self.queue!r}: {self.task}>"


@dataclass
class NewJob:
    """A job that is about to be enqueued.

    fields: more fields for the job's hash; write your own there, with a name of yours in front. Jobs that are sent in
    one request (``enqueue_many``, ``map``) share this dict, and each gets all of it. state: shared too, and not sent.
    """

    id: str
    queue: str
    decode: Decode
    fields: dict[str, bytes] = field(default_factory=dict)
    state: dict[Any, Any] = field(default_factory=dict)
    count: int = 1  # jobs in the request

    @property
    def task(self) -> str:
        """The function's dotted name."""
        return self.decode()[0]

    @property
    def args(self) -> Sequence[Any]:
        """The positional arguments, decoded at each use."""
        return self.decode()[1]

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """The keyword arguments, likewise."""
        return self.decode()[2]


class Plugin:
    """Derive from this and override what you need: a method that is not overridden is never called.

    An exception in a method is logged with the plugin's name, and changes nothing: no outcome, no life-cycle. Only
    ``around_job`` is part of the job. One object serves a process and all its threads. It is made where the served
    modules are imported, from which processes are forked: open connections and start threads in ``process_start``.
    """

    name = ""  # in the log and in `jobq plugins`; "": the module and name of the class
    is_asked_for = False  # named by --plugin or JOBQ_PLUGINS, not found by itself
    worker: WorkerInfo | None = None  # set before the first method is called; None in a producer
    process: ProcessInfo | None = None  # set before process_start; None where no jobs run

    def why_inactive(self) -> str:
        """Return why this plugin has nothing to do here, "" if it is active. Called once, after the imports."""
        return ""

    # -- in the supervisor's process ---------------------------------------------------------------------------------

    def worker_start(self) -> None:
        """Called in a thread of the supervisor when the worker can run jobs. The module of a plugin that overrides this
        or ``worker_stop`` is imported there too."""

    def worker_stop(self) -> None:
        """Called in the same thread when the worker has stopped; it has 5 s."""

    # -- in each process that runs jobs --------------------------------------------------------------------------------

    def process_start(self) -> None:
        """Called in the main thread before the first job. A process that does not come back from here within 30 s is
        killed; several in a row end the worker."""

    def process_stop(self) -> None:
        """Called in the main thread after the last job, where the process leaves by itself."""

    def thread_start(self) -> None:
        """Called in each thread that runs jobs, before its first one; in a process of one slot in the main thread."""

    def thread_stop(self) -> None:
        """Called in each thread that runs jobs, after its last one."""

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        """Run the job: return or change what ``call_next()`` returns. What this raises fails the job. It runs within
        the job's time limit, in the job's context, where its arguments are decoded."""
        return call_next()

    def job_ended(self, job: RunningJob, end: JobEnd) -> None:
        """Called after a run has ended and its outcome cannot be lost any more, in the thread that ran it; it has 10 s.
        Of a job that died with its process, in the process that records its failure. A run whose process died and that
        will be repeated is not reported."""

    # -- in producers --------------------------------------------------------------------------------------------------

    def before_enqueue(self, job: NewJob) -> None:
        """Called before a job is sent to the store."""
