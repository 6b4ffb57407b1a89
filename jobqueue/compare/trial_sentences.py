"""Describe in sentences what the trials have shown."""

from __future__ import annotations

from typing import Any

from jobqueue.words import count


def with_meaning(found: dict[str, Any]) -> dict[str, Any]:
    """Add to each trial's figures the sentence that says what they mean."""
    for name, tell in (("isolation", isolation), ("blast_radius", blast_radius), ("time_limits", time_limits)):
        found[name]["meaning"] = tell(found[name])
    return found


def isolation(found: dict[str, Any]) -> str:
    thread, process = found["thread"], found["process"]
    counter, leak = process["counter"], process["leak"]
    grew = sum(mb >= leak["leaked_mb"] / 2 for mb in leak["grew_mb"])
    return (
        f"Threads share their memory: {thread['workers']} of them counted {thread['counter']['jobs']} jobs on one "
        f"counter, and {thread['leak']['leaked_mb']:.0f} MB that one job leaked stay with all. {process['workers']} "
        f"processes had {counter['processes']} counters, the highest at {counter['highest']}, and {grew} of "
        f"{leak['processes']} grew."
    )


def blast_radius(found: dict[str, Any]) -> str:
    thread, process = found["thread"], found["process"]
    around = thread["neighbours"]
    said = (
        f"One of {around + 1} jobs crashed: in thread mode it took {_torn(thread)} of its {around} neighbours with it, "
        f"in process mode {_torn(process)}. {_recovered(thread, process)}"
    )
    pools = [(name, found[name]) for name in ("ThreadPoolExecutor", "ProcessPoolExecutor") if name in found]
    lost = [f"a bare {name} lost {pool['lost']}" for name, pool in pools if pool["lost"]]
    return f"{said} {_capitalised(' and '.join(lost))} for good." if lost else said


def _torn(one: dict[str, Any]) -> str:
    return "all" if one["interrupted"] == one["neighbours"] else str(one["interrupted"] or "none")


def _recovered(*modes: dict[str, Any]) -> str:
    lost = sum(one["lost"] for one in modes)
    if lost:
        return f"{lost} of the neighbours never finished."
    slowest = max((one["recovery_s"] or 0.0 for one in modes), default=0.0)
    again = f" (again after {slowest:.2f} s)" if slowest else ""
    return f"All neighbours finished nevertheless{again}."


def time_limits(found: dict[str, Any]) -> str:
    thread, process = found["thread"], found["process"]
    return (
        f"A job with a limit of {found['limit_s']:g} s, stuck in a call into C that waits: ended by "
        f"{_how(process['blocking'])} in process mode, {_how(thread['blocking'])} in thread mode. Stuck with the GIL: "
        f"{_how(process['gil'])} in process mode{_took(process['gil'])}, {_how(thread['gil'])} in thread "
        f"mode{_took(thread['gil'])}."
    )


def _how(one: dict[str, Any]) -> str:
    words = {"exception": "an exception", "written off": "writing its thread off", "killed": "a kill"}
    return f"{words[one['how']]} after {one['ended_s']:.1f} s"


def _took(one: dict[str, Any]) -> str:
    n = one["neighbours_interrupted"]
    return f" (with {count(n, 'neighbour')}, which ran again)" if n else ""


def _capitalised(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
