"""Jobs whose values and exceptions have code of their own, which does what a worker must survive.

Each takes ``how``: what that code does. ``doze`` can be interrupted between two steps, ``sleep`` only by a signal,
``hold`` by nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, ItemsView
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rq import get_current_job
from rq.job import Job

FOREVER = 3600.0  # seconds


def act(how: str) -> str:
    """Act as ``how`` says, or note that it was done."""
    if how == "doze":
        deadline = time.monotonic() + FOREVER
        while time.monotonic() < deadline:
            time.sleep(0.01)
    elif how == "sleep":
        time.sleep(FOREVER)
    elif how == "hold":  # in C, and with the GIL
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        ctypes.PyDLL(None).usleep(int(FOREVER * 1_000_000))
    elif how == "interrupt":
        raise KeyboardInterrupt("no")
    elif how == "exit":
        raise SystemExit(7)
    return f"done: {how}"


class Items(dict[str, Any]):
    def __init__(self, how: str) -> None:
        super().__init__(a=1)
        self.how = how

    def items(self) -> ItemsView[str, Any]:
        act(self.how)
        return super().items()


class Reduced:
    """Act when the object is pickled, and when it is loaded."""

    def __init__(self, how: str, when: str) -> None:
        self.how, self.when = how, when

    def __getstate__(self) -> dict[str, str]:
        if self.when == "dumps":
            act(self.how)
        return self.__dict__

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
        if self.when == "loads":
            act(self.how)

    def __repr__(self) -> str:
        if self.when == "repr":
            act(self.how)
        return "a Reduced"


class Dropped:
    """Act when the object is dropped."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the time limit: Python would print the exception and continue
            act(self.how)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return str, ("dropped",)


class Said(Exception):
    def __init__(self, how: str) -> None:
        super().__init__("said")
        self.how = how

    def __str__(self) -> str:
        return act(self.how)


class Note(str):
    pass


def items(how: str) -> Any:
    return Items(how)


def reduced(how: str) -> Any:
    return Reduced(how, "dumps")


def loaded(what: object) -> str:
    return str(type(what).__name__)


def dropped(how: str) -> Any:
    return Dropped(how)


def local(how: str) -> None:
    _held = Dropped(how)


def local_and_fail(how: str) -> None:
    _held = Dropped(how)
    raise ValueError("no")


def on_itself(how: str) -> None:
    job: Any = get_current_job()
    job.handle = Dropped(how)


_handle: ContextVar[Any] = ContextVar("_handle")


def in_its_context(how: str) -> None:
    _handle.set(Dropped(how))


def says(how: str) -> None:
    raise Said(how)


def cause_says(how: str) -> None:
    raise ValueError("no") from Said(how)


def causes_say(how: str) -> None:
    """Raise a chain of three exceptions."""
    try:
        try:
            raise Said(how)
        except Said as e:
            raise Said(how) from e
    except Said as e:
        raise ValueError("no") from e


def context_says(how: str) -> None:
    try:
        raise Said(how)
    except Said:
        raise ValueError("no")  # noqa: B904


def note_says(how: str) -> None:
    error = ValueError("no")
    error.__notes__ = [Said(how)]  # type: ignore[list-item]
    raise error


def group_says(how: str) -> None:
    raise ExceptionGroup("some", [ValueError("no"), Said(how)])


def talks(size: int) -> None:
    raise ValueError("begin " + "x" * size + " end")


def nap_and_end(seconds: float, fails: bool) -> None:
    """Run long enough to be shown as running."""
    time.sleep(seconds)
    if fails:
        raise ValueError("no")


# -- callbacks and handlers: they note that they began, and do it ----------------------------------------------------


def _called(job: Job, name: str) -> None:
    """Do what the job's meta says of this callback: what ``act`` does, or wait until it is told to end."""
    job.connection.rpush(f"called:{job.id}", name)
    how = job.meta.get(name, "")
    if how == "wait":
        _wait_for_its_end(job)
    else:
        act(how)


def _wait_for_its_end(job: Job) -> None:
    while not job.connection.exists(f"end:{job.id}"):
        time.sleep(0.02)


def on_success(job: Job, _connection: object, _result: object) -> None:
    _called(job, "success")


def on_failure(job: Job, *_error: object) -> None:
    _called(job, "failure")


def on_stopped(job: Job, _connection: object) -> None:
    _called(job, "stopped")


def handle(job: Job, *_error: object) -> None:
    _called(job, "handler")


def keep_the_next_slot(seconds: float) -> None:
    """Act in the garbage collector between two jobs: the slot that asks for work next is stuck."""
    from jobqueue.workers.child.consumer import Consumer

    watch_closely()
    original = Consumer.next

    def stay_away(self: Consumer, linger: bool = True) -> Any:
        Consumer.next = original  # type: ignore[method-assign]
        time.sleep(seconds)
        return original(self, linger)

    Consumer.next = stay_away  # type: ignore[method-assign]


def keep_this_slot(record: str) -> str:
    """Act in the garbage collector after the job, where no limit applies. In this process it is noticed soon."""
    from jobqueue.workers.child.slot import Slot

    if Path(record).exists():
        return "again"
    Path(record).touch()
    watch_closely()
    Slot._log = lambda *_: time.sleep(FOREVER)  # type: ignore[method-assign]
    return "once"


def watch_closely() -> None:
    from jobqueue.workers.child import slot_watch

    slot_watch.STUCK, slot_watch.LOOK_EVERY, slot_watch.LOOK_AGAIN = 2.0, 0.5, 0.3


def keep_the_main_thread() -> None:
    """Keep every slot of this process from taking its next job."""
    from jobqueue.workers.child.consumer import Consumer

    watch_closely()
    Consumer.next = lambda *_, **__: time.sleep(FOREVER)  # type: ignore[method-assign]


def hold_still() -> None:
    """Stop all threads of this process."""
    from jobqueue.workers.child.child_watchdog import ChildWatchdog
    from jobqueue.workers.child.consumer import Consumer

    Consumer.next = lambda *_, **__: time.sleep(FOREVER)  # type: ignore[method-assign]
    ChildWatchdog._step = lambda *_: time.sleep(FOREVER)  # type: ignore[method-assign]


# -- what Python runs for others: lines of the log, attributes of exceptions, the clock --------------------------------

_request: ContextVar[str] = ContextVar("_request")


def _name_the_request(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Name the request in each log record, which fails outside of a request."""
    record = logging.LogRecord(*args, **kwargs)
    record.request = _request.get()
    return record


class Refusing(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        raise ValueError("not this line")


def spoil_the_log(how: str) -> None:
    """Break logging in this process, also for this job."""
    if how == "factory":
        logging.setLogRecordFactory(_name_the_request)
    else:
        for name in ("jobqueue.workers", "rq.worker"):
            logging.getLogger(name).addHandler(Refusing())
    raise ValueError("no")


class Closed(Exception):
    """An exception whose attributes cannot be read, not even its traceback."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(7)

    def __setattr__(self, name: str, value: object) -> None:
        raise SystemExit(7)


class WithoutTraceback(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise SystemExit(7)


def raise_closed() -> None:
    raise Closed


def raise_without_traceback() -> None:
    raise WithoutTraceback


def spoil_the_clock() -> None:
    time.time = lambda: float("nan")  # type: ignore[assignment]
    raise ValueError("no")


def spoil_new_threads() -> None:
    """Let each thread that is started from now on die before it begins."""

    def fail(*_: Any) -> None:
        raise RuntimeError("a hook")

    threading.settrace(fail)
    threading.setprofile(fail)


def leave_timers() -> None:
    """As a profiler does that was not ended: their signals end a process that does not handle them."""
    for timer in (signal.ITIMER_PROF, signal.ITIMER_VIRTUAL):
        signal.setitimer(timer, 0.05, 0.05)


def leave_a_cpu_limit() -> None:
    """As a job does that limits itself: a second more than this process has used, and one more until the kernel kills
    it."""
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + 1, used + 2))


def leave_a_hard_cpu_limit() -> None:
    """At its end the kernel sends SIGKILL at once, and no SIGXCPU."""
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + 1, used + 1))


def leave_a_limit_for_good() -> None:
    """As where this process is not root's, and may not raise a hard limit again."""
    from jobqueue.workers.running import resource_limits

    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    resource_limits._set = refuse
    leave_a_hard_cpu_limit()


def leave_little_memory() -> None:
    """As a job does that limits what it takes itself."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), resource.RLIM_INFINITY))


LEAKED: list[int] = []  # descriptors


def leak_all_descriptors() -> None:
    """As a job does that never closes what it opens."""
    try:
        while True:
            LEAKED.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass


def lower_the_limit_on_descriptors() -> None:
    """As a job does that limits itself: nothing can be opened any more, as the numbers below are in use."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (12, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def leave_a_limit_of_its_own(timer: str, number: str) -> None:
    """As a decorator does that limits a function by a timer, and forgets it when the function raises."""

    def end(*_: object) -> None:
        raise TimeoutError("the limit of another job")

    signal.signal(getattr(signal, number), end)
    signal.setitimer(getattr(signal, timer), 0.3, 0.3)


def leave_an_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)


def compute(seconds: float) -> float:
    """Use so many seconds of a core."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return seconds


def compute_with_memory(seconds: float) -> float:
    """Use so many seconds of a core, and 128 MB."""
    taken = bytes(128 << 20)
    return compute(seconds) if taken else 0.0


def leave_no_room_for_threads() -> None:
    """Each thread that is started later asks for more memory than there is."""
    threading.stack_size(1 << 40)


def leave_no_memory() -> None:
    """As a job does that limits itself and takes the wrong unit."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))


def freeze_the_clocks() -> None:
    """Freeze the clocks as ``freezegun.freeze_time(...).start()`` does: in each module that has a name for one of
    Python's clocks."""
    frozen = {id(time.monotonic): lambda: 1.0, id(time.time): lambda: 1.0e9}
    for module in list(sys.modules.values()):
        if module is None or module.__name__ in ("threading", "queue"):  # freezegun leaves them alone
            continue
        for name, value in list(vars(module).items()):
            if id(value) in frozen:
                setattr(module, name, frozen[id(value)])


def fail_the_next_slot() -> None:
    """Fail in the slot as a mistake of ours would, with logging broken, so that the failure cannot be logged."""
    from jobqueue.workers.child import child
    from jobqueue.workers.child.consumer import Consumer

    original = Consumer.next

    def fail(*_: object, **__: object) -> None:
        Consumer.next = original  # type: ignore[method-assign]
        raise KeyError("no")

    Consumer.next = fail  # type: ignore[method-assign]
    child.log.exception = fail  # type: ignore[method-assign]


def watch_closely_and_count() -> None:
    """Count in the store how often the slots were asked whether they answer."""
    from jobqueue.workers.child.consumer import Consumer

    watch_closely()
    job: Any = get_current_job()
    original, connection = Consumer.look_up, job.connection

    def look_up(self: Consumer) -> int:
        connection.incr("rounds")
        return original(self)

    Consumer.look_up = look_up  # type: ignore[method-assign]


# -- what must not happen in a process that others need ----------------------------------------------------------------


def be_rude(how: str) -> None:
    """End this process or block it for ever, whatever is raised in it."""
    if how == "exit":
        os._exit(4)
    elif how == "exit as if all were well":
        os._exit(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "raise":
        raise SystemExit(7)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(FOREVER)


def be_rude_on_failure(job: Job, connection: Any, *_error: object) -> None:
    """Do what the job's meta says."""
    connection.rpush(f"called:{job.id}", os.getpid())
    be_rude(job.meta["how"])


class Rude:
    """An object that ends or blocks the process when it is loaded."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return be_rude, (self.how,)
