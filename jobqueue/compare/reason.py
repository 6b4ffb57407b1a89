"""Explain with figures why a mode and a number were chosen for a task, and what makes the choice uncertain."""

from __future__ import annotations

from jobqueue.compare.choice import EVEN, GROWS_ON, PARALLEL, Choice
from jobqueue.compare.figures import MIXED, MODES
from jobqueue.compare.noise import in_words, is_noisy
from jobqueue.compare.subject import Subject
from jobqueue.compare.wording import consumers, mb, rate
from jobqueue.insight.advice import NOTABLE_MB
from jobqueue.insight.profile import Machine
from jobqueue.words import duration, plural


def reason(subject: Subject, choice: Choice, machine: Machine) -> str:
    """Return the reason with figures; it begins in lower case and ends without a full stop."""
    if choice.kind == "tiny":
        return _tiny(subject)
    said = f"{rate(choice.row.rate)} jobs/s{_against_loop(subject, choice)}"
    if choice.row.mode == MIXED:
        said += _for_both(subject, choice)
    elif choice.mode == "thread":
        said += _for_threads(subject, choice, machine)
    else:
        said += _for_processes(subject, choice, machine)
    said += _at_once(subject, choice)
    if choice.crowded and max((row.workers for row in subject.of(choice.mode)), default=1) > 1:
        said += "; there was no core to spare, so measure again when this machine is quiet"
    elif _grows_on(subject, choice):
        said += f"; more than {choice.row.workers} were not measured"
    elif _passed_over_the_cores(subject, choice, machine):
        said += f"; {machine.cores}, one for each core, were not measured and may well do"
    return said + _disagreement(choice)


def _at_once(subject: Subject, choice: Choice) -> str:
    """Return what all jobs take together when each is at its peak; "" when that is little."""
    together = choice.row.workers * (subject.peak_mb or 0.0)
    if together < NOTABLE_MB:
        return ""
    return f"; {choice.row.workers} at once take {mb(together)} at their peaks ({mb(subject.peak_mb)} each)"


def _for_both(subject: Subject, choice: Choice) -> str:
    threads = max(subject.of("thread"), key=lambda row: row.rate)
    processes = max(subject.of("process"), key=lambda row: row.rate)
    return (
        f", {choice.row.rate / threads.rate:.1f} times what {consumers(threads)} did ({rate(threads.rate)}); "
        f"{consumers(processes)} did {rate(processes.rate)}: it waits and computes "
        f"({subject.profile().cpu_share:.0%} CPU), a process for each core computes and its threads wait"
    )


def noisy(subject: Subject, machine: Machine) -> bool:
    return is_noisy(subject.others, machine.cores)


def doubts(subject: Subject, choice: Choice, machine: Machine) -> list[str]:
    """Return why the conclusion is not certain; empty when it is. All doubts except noise are part of the reason
    too."""
    if choice.kind == "tiny":
        return []
    found = []
    if noisy(subject, machine):
        found.append(in_words(subject.others, machine.cores))
    if choice.crowded:
        found.append("there was no core to spare")
    if _grows_on(subject, choice) or _passed_over_the_cores(subject, choice, machine):
        found.append("too few widths were measured")
    elif any(not subject.of(mode) for mode in MODES):
        found.append("only one of the two modes was measured")
    return found


def _grows_on(subject: Subject, choice: Choice) -> bool:
    """Return whether a wider row might be better still: the chosen one is the widest, and was the only one or clearly
    faster than the next."""
    rows = subject.of(choice.row.mode)
    if choice.row is not rows[-1] or choice.kind == "computes":
        return False
    return len(rows) == 1 or rows[-1].rate / rows[-2].rate > GROWS_ON * rows[-1].workers / rows[-2].workers


def _passed_over_the_cores(subject: Subject, choice: Choice, machine: Machine) -> bool:
    """Return whether a task that computes got more processes than cores, and no number in between was measured."""
    widths = [row.workers for row in subject.of(choice.mode) if machine.cores <= row.workers <= choice.row.workers]
    return choice.kind == "computes" and choice.mode == "process" and len(widths) == 1 and widths[0] > machine.cores > 1


def _tiny(subject: Subject) -> str:
    price = subject.queue_price()
    if price is None:
        return "the queue costs more than the job"
    times = rate(price["extra_ms"] / max(price["loop_ms"], 1e-6))
    return (
        f"the queue costs more than the job: {duration(price['extra_ms'] / 1000)} of queue for "
        f"{duration(price['loop_ms'] / 1000)} of work, "
        f"{times} times as much; call it directly, or give one job a whole batch"
    )


def _against_loop(subject: Subject, choice: Choice) -> str:
    if not subject.loop:
        return ""
    factor = choice.row.rate / subject.loop.rate
    return f", {factor:.1f} times the plain loop" if factor >= EVEN else ", no more than a plain loop"


def _for_threads(subject: Subject, choice: Choice, machine: Machine) -> str:
    other = choice.other
    if other is None:
        return ""
    factor = choice.row.rate / other.rate
    how = "as fast as" if 1 / EVEN < factor < EVEN else f"{factor:.1f} times as fast as"
    said = f", {how} {consumers(other)} ({rate(other.rate)})"
    if factor <= 1 / EVEN:
        said = f"; {consumers(other)} did {rate(other.rate)}"
    memory = subject.memory_per_worker()
    if "thread" in memory and "process" in memory:
        said += f", for {mb(memory['thread']['uss_mb'])} per added worker instead of {mb(memory['process']['uss_mb'])}"
    if choice.kind == "computes" and not machine.gil:
        said += "; this Python has no GIL"
    elif choice.kind == "computes" and choice.row.cores >= PARALLEL:
        said += "; its code gives the GIL away while it computes"
    return said


def _for_processes(subject: Subject, choice: Choice, machine: Machine) -> str:
    said = ""
    other = choice.other
    if other is not None:
        same = subject.ratio_at(choice.row.workers)
        threads = subject.at("thread", choice.row.workers)
        if threads is None or same is None or choice.row.workers == 1:
            said = f"; threads did {rate(other.rate)} at best"
        elif same < EVEN:
            said = f"; {consumers(threads)} did {rate(threads.rate)}"
        else:
            said = f", {same:.1f} times what {consumers(threads)} did ({rate(threads.rate)})"
    if choice.kind == "grows memory" and subject.grew_mb:
        return f"{said}; each job leaves {mb(subject.grew_mb)} behind, and only a process can be replaced alone"
    share = subject.profile().cpu_share
    if share <= 0.1:
        return said
    turns = "take turns at the GIL" if machine.gil else "got in each other's way, although this Python has no GIL"
    return f"{said}: it computes ({share:.0%} CPU), and threads {turns}"


def _disagreement(choice: Choice) -> str:
    if choice.rule.mode in (None, choice.mode) or choice.kind == "tiny":
        return ""
    return f". By its share of CPU time alone it would be {plural(choice.rule.mode)}; it was measured otherwise"
