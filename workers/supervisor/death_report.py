"""Report what a dead child left: its finished jobs, and for each job that ran in it the ruling by which it ends.

The shared page and faulthandler's report outlive the process. Rulings, the first that fits:

    condemned      as the supervisor had decided before it killed the process: fail or stop
    interrupt      the worker stops, or the process was killed because of another job: the job counts nothing
    crash          the job ran alone, or faulthandler's report names its thread
    suspect        several jobs ran and nothing says which of them it was
"""

from __future__ import annotations

from jobqueue.errors import CauseOfDeath, InterruptedByShutdown, KilledForNeighbour
from jobqueue.protocol.outcomes import JobOutcome
from jobqueue.protocol.rescue import Ruling, Verdict
from jobqueue.workers.shared import oom
from jobqueue.workers.shared.deaths import DeathReport, cause_of_death, end_of_process, ruling
from jobqueue.workers.shared.endings import JOB, SUCCESS, decode_text, encode_text
from jobqueue.workers.shared.journal import Running
from jobqueue.workers.supervisor.child_handle import ChildHandle


def death_report(handle: ChildHandle, status: int | None, stopping: bool) -> DeathReport:
    """Return the death report of this handle's process. Call this before ``release``. status: its wait status, None if
    it is unknown or no process was started; stopping: running jobs have been interrupted for a stop."""
    running = handle.page.running()
    cause = InterruptedByShutdown() if stopping else _cause(handle, status)
    culprit = handle.faults.culprit(running) if status is not None else None
    rulings = [_rule(handle, job, len(running), culprit, cause, stopping) for job in running]
    condemned = handle.process.condemned
    plain = frozenset(claim for claim, end in condemned.items() if end.what not in (JOB, SUCCESS))
    finished = [_with_cause(handle, it) for it in _finished(handle)]
    return DeathReport(handle.owner, finished, rulings, plain, _counted_as(handle, status, stopping))


def how_it_ended(handle: ChildHandle, status: int | None) -> str:
    """Return how the process of this handle ended, in words for the log that follow its name."""
    return end_of_process(status, out_of_memory=_killed_for_memory(handle), ran=bool(handle.page.running()))


def _cause(handle: ChildHandle, status: int | None) -> CauseOfDeath:
    return cause_of_death(handle.pid, status, out_of_memory=_killed_for_memory(handle))


def _counted_as(handle: ChildHandle, status: int | None, stopping: bool) -> str:
    """Return the cause of death for the metrics; "" for an end in order, and where no process was."""
    if status == 0 or stopping or not handle.pid:
        return ""
    verdicts = {end.verdict for end in handle.process.condemned.values()}
    if verdicts:
        return "time_limit" if Verdict.FAIL in verdicts else "stopped"
    return "replaced" if handle.process.killed else _cause(handle, status).counted_as


def _killed_for_memory(handle: ChildHandle) -> bool:
    """Whether the kernel has killed a process for lack of memory while this one lived."""
    return oom.kills() > handle.process.oom_kills


def _finished(handle: ChildHandle) -> list[JobOutcome]:
    try:
        return list(handle.page.journal.read())
    except (ValueError, EOFError, TypeError):  # it was killed while it merged the journal's halves
        return []


def _with_cause(handle: ChildHandle, outcome: JobOutcome) -> JobOutcome:
    """Add the reason why the job's callback was ended to the text of a failure: the failure itself stays recorded."""
    condemned = handle.process.condemned.get(outcome.claim)
    if not (outcome.by_rq and condemned and condemned.verdict is Verdict.FAIL):
        return outcome
    text = f"{decode_text(outcome.payload).rstrip()}\n{condemned.cause.recorded}\n"
    return outcome._replace(payload=encode_text(text))


def _rule(
    handle: ChildHandle, job: Running, company: int, culprit: int | None, cause: CauseOfDeath, stopping: bool
) -> Ruling:
    """Return the ruling on one job. company: how many ran in the process; culprit: the claim of the job that crashed,
    if known."""
    if condemned := handle.process.condemned.get(job.claim):
        return ruling(job.claim, condemned.verdict, condemned.cause)
    if handle.process.killed or stopping:
        return ruling(job.claim, Verdict.INTERRUPT, cause if stopping else KilledForNeighbour())
    if culprit is not None and culprit != job.claim:
        return ruling(job.claim, Verdict.INTERRUPT, KilledForNeighbour())
    verdict = Verdict.CRASH if company == 1 or culprit == job.claim else Verdict.SUSPECT
    return ruling(job.claim, verdict, cause)
