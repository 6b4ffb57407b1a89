"""The causes of death: the exact text of each in the store, and which one follows from a wait status."""

from __future__ import annotations

import ast
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import jobqueue
from jobqueue import errors
from jobqueue.errors import (
    CauseOfDeath,
    EndOfJobProcess,
    InterruptedByShutdown,
    KilledBySignal,
    KilledForMemory,
    KilledForNeighbour,
    LeaseExpired,
    LimitIgnored,
    ProcessExited,
    RecordLost,
    StoppedOnRequest,
    WorkerGone,
    signal_name,
)
from jobqueue.protocol.rescue import Verdict
from jobqueue.workers.shared.deaths import FENCED, cause_of_death, end_of_process, ruling
from jobqueue.workers.shared.endings import PROCESS_KILLED, SUBJECTS, SUCCESS, THREAD_WRITTEN_OFF, decode_text

RAN = "ChildKilled: The process that ran this job"
LIMIT = "TimeLimitExceeded: The job ran longer than its time limit of"

COUNTED_AS = {  # the others end no process
    EndOfJobProcess(77): "unknown",
    KilledBySignal(77, 11): "SIGSEGV",
    KilledBySignal(77, 40): "signal_40",
    ProcessExited(77, 3): "exit",
    KilledForMemory(77): "out_of_memory",
    LeaseExpired("w", 10.0): "lease_expired",
    WorkerGone("w"): "worker_gone",
    RecordLost(): "",
}

RECORDED: list[tuple[CauseOfDeath, str]] = [
    (EndOfJobProcess(77), f"{RAN} (pid 77) is gone."),
    (KilledBySignal(77, 11), f"{RAN} (pid 77) was killed by SIGSEGV."),
    (KilledBySignal(77, 40), f"{RAN} (pid 77) was killed by signal 40."),
    (ProcessExited(77, 3), f"{RAN} (pid 77) exited with status 3."),
    (
        KilledForMemory(77),
        "OutOfMemory: The process that ran this job (pid 77) was killed by SIGKILL, "
        "while the kernel killed for want of memory.",
    ),
    (KilledForNeighbour(), f"{RAN} was killed because of another job that ran in it."),
    (LimitIgnored(0.5, PROCESS_KILLED), f"{LIMIT} 0.5 s. It did not react: its process was killed."),
    (LimitIgnored(60, THREAD_WRITTEN_OFF), f"{LIMIT} 60 s. It did not react: the thread that ran it was written off."),
    (
        LimitIgnored(2.0, PROCESS_KILLED, SUBJECTS[SUCCESS]),
        "TimeLimitExceeded: The success callback ran longer than its time limit of 2 s. "
        "It did not react: its process was killed.",
    ),
    (InterruptedByShutdown(), "ShutdownInterrupt: The worker shut down while this job ran."),
    (
        InterruptedByShutdown(is_final=True),
        "ShutdownInterrupt: The worker shut down while this job ran. --on-crash fail forbids a second run.",
    ),
    (StoppedOnRequest(), "Job stopped by user, work-horse terminated."),
    (
        LeaseExpired("host-1", 10.0),
        "LeaseExpired: The worker host-1 that ran this job has given no sign of life for 10 s: it or its machine died.",
    ),
    (WorkerGone("host-1"), "WorkerGone: The worker host-1 that ran this job died, and another took its name."),
    (RecordLost(), "RecordLost: It returned, and could not be recorded."),
]


def all_below(kind: type[CauseOfDeath]) -> Iterator[type[CauseOfDeath]]:
    for sub in kind.__subclasses__():
        if sub.__module__ == errors.__name__:
            yield sub
            yield from all_below(sub)


@pytest.mark.parametrize(("cause", "recorded"), RECORDED)
def test_the_text_of_each_cause_in_the_store(cause: CauseOfDeath, recorded: str) -> None:
    assert cause.recorded == recorded
    assert decode_text(ruling(5, Verdict.CRASH, cause).cause) == recorded


@pytest.mark.parametrize(("cause", "recorded"), RECORDED)
def test_the_text_of_a_cause_is_a_full_sentence(cause: CauseOfDeath, recorded: str) -> None:
    assert recorded.endswith(str(cause))
    assert str(cause)[0].isupper()
    assert str(cause).endswith(".")


def test_every_cause_is_in_the_table_above() -> None:
    assert {type(cause) for cause, _ in RECORDED} == set(all_below(CauseOfDeath))


@pytest.mark.parametrize(
    ("status", "out_of_memory", "cause"),
    [
        (None, False, EndOfJobProcess(7)),
        (None, True, EndOfJobProcess(7)),
        (9, False, KilledBySignal(7, signal.SIGKILL)),
        (9, True, KilledForMemory(7)),
        (11, True, KilledBySignal(7, signal.SIGSEGV)),
        (11 | 128, False, KilledBySignal(7, signal.SIGSEGV)),  # the process also dumped core
        (40, False, KilledBySignal(7, 40)),
        (0, False, ProcessExited(7, 0)),
        (3 << 8, True, ProcessExited(7, 3)),
    ],
)
def test_the_cause_that_follows_from_a_wait_status(
    status: int | None, out_of_memory: bool, cause: EndOfJobProcess
) -> None:
    assert cause_of_death(7, status, out_of_memory) == cause
    assert end_of_process(status, out_of_memory) == cause.how


def test_a_fenced_child_did_not_die_of_its_job() -> None:
    assert end_of_process(FENCED << 8, ran=False) == "left: it counted as dead, or the store was emptied"
    assert end_of_process(FENCED << 8) == "exited with status 3"  # a job may have said that


def test_signals_without_a_name_are_given_by_number() -> None:
    assert [signal_name(number) for number in (9, 40)] == ["SIGKILL", "signal 40"]


def test_no_other_module_spells_a_cause() -> None:
    names = {kind.name for kind in all_below(CauseOfDeath)} - {""}
    top = Path(jobqueue.__file__).parent
    spelled = [
        f"{path.name}:{node.lineno}"
        for folder in (top, top / "workers")  # workers/ is a link
        for path in sorted(folder.rglob("*.py"))
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if any(node.value.startswith(f"{name}:") for name in names)
    ]
    assert spelled == []


@pytest.mark.parametrize("cause", COUNTED_AS)
def test_the_names_of_causes_in_the_metrics(cause: CauseOfDeath) -> None:
    assert cause.counted_as == COUNTED_AS[cause]
