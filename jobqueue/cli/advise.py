"""``jobq advise``: say how to run each task, judged by the runs that workers recorded."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from jobqueue.cli.look import connected
from jobqueue.cli.options import json_option, url_option
from jobqueue.cli.render import json_line
from jobqueue.words import count, duration, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from jobqueue.insight.advice import Advice
    from jobqueue.insight.layout import Group
    from jobqueue.insight.profile import Machine, Profile
    from jobqueue.insight.usage import Record, TaskUsage

NO_RECORD = (
    "There is no record yet. Workers make it while they work: start `jobq worker`, submit some jobs, and ask again."
)
EXIT_CODES = """
Exit codes: 0 also when there is no record at all, or too little to tell; 1 no record of a TASK that was named, or the
store is away; 2 wrong usage.
"""
STYLES = {
    "waits": "cyan",
    "takes turns": "bright_cyan",
    "computes": "magenta",
    "mixed": "blue",
    "grows memory": "red",
    "tiny": "yellow",
}
WIDE = 100
ONLY_WIDE = ("failed", "p95")
LEAST_IMPORTANT = ("p95", "failed", "runs", "memory/run", "p50", "CPU", "kind")  # columns; the first is left out first


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A task with its recorded runs and the advice."""

    usage: TaskUsage
    profile: Profile
    advice: Advice


@click.command(epilog=EXIT_CODES)
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@click.option("--reset", is_flag=True, help="Forget the records, for instance after a change of the code.")
@json_option
@url_option
def advise(tasks: tuple[str, ...], reset: bool, as_json: bool, url: str | None) -> None:
    """Say for each TASK whether threads or processes should run it, how many, and why, from what workers recorded."""
    from jobqueue.insight.usage import read_usage, reset_usage

    with connected(url) as client:
        known = read_usage(client)
        chosen = _chosen(known, tasks)
        if reset:
            number = reset_usage(client, [usage.task for usage in chosen] if tasks else None)
            print(json_line({"reset": number}) if as_json else f"forgot the record of {count(number, 'task')}")
            return
    _show(chosen, as_json)


def _chosen(known: Sequence[TaskUsage], tasks: Sequence[str]) -> list[TaskUsage]:
    """Return the records of the named tasks, or all. Raises JobqError for a task without a record."""
    from jobqueue.errors import JobqError
    from jobqueue.producing.catalog import dotted_name

    records = {usage.task: usage for usage in known}
    for task in tasks:
        if task not in records and dotted_name(task) not in records:
            there = ", ".join(_short(name) for name in records) or "nothing"
            raise JobqError(f"There is no record of {one_line(task)}; there is one of: {one_line(there)}.")
    names = {task if task in records else dotted_name(task) for task in tasks}
    return [usage for usage in known if not names or usage.task in names]


def _show(usages: Sequence[TaskUsage], as_json: bool) -> None:
    from jobqueue.insight.layout import lay_out
    from jobqueue.insight.profile import Machine

    machine = Machine.here()
    judged = [_judge(usage, machine) for usage in usages]
    groups = lay_out([(one.profile, one.advice) for one in judged], machine)
    if as_json:
        print(json_line(_as_json(judged, groups, machine)))
    elif not judged:
        print(NO_RECORD)
    else:
        from rich.console import Console

        _print(
            Console(
                highlight=False,
            ),
            judged,
            groups,
            machine,
        )


def _judge(usage: TaskUsage, machine: Machine) -> Judged:
    from jobqueue.insight.advice import Advice, judge
    from jobqueue.insight.profile import Profile
    from jobqueue.insight.usage import OTHERS

    profile = Profile.of(usage)
    if usage.task == OTHERS:
        reason = "These are the runs of many tasks: only the first 500 names of a store are told apart."
        advice = Advice(usage.task, "unknown", None, 0, reason, "After `jobq advise --reset` names are taken anew.")
        return Judged(usage, profile, advice)
    return Judged(usage, profile, judge(profile, machine))


# -- for people ----------------------------------------------------------------------------------------------------


def _print(console: Console, judged: Sequence[Judged], groups: Sequence[Group], machine: Machine) -> None:
    wide = console.width >= WIDE
    console.print(f"[bold]How to run {count(len(judged), 'task')} on this machine[/] ({_machine(machine)})\n")
    _print_table(console, judged, wide)
    for one in judged:
        _print_task(console, one)
    _print_groups(console, judged, groups)


def _print_table(console: Console, judged: Sequence[Judged], wide: bool) -> None:
    """Print as many columns as there is room for; if not even the least fits, only the paragraphs that follow."""
    rows = [_figures(one) for one in judged]
    names = [name for name in rows[0] if wide or name not in ONLY_WIDE]
    left_out: list[str] = []
    made = _table(names, rows, wide)
    unbounded = console.options.update(width=10_000)
    while console.measure(made, options=unbounded).maximum > console.width:
        if len(left_out) == len(LEAST_IMPORTANT):
            return
        left_out.append(LEAST_IMPORTANT[len(left_out)])
        made = _table([name for name in names if name not in left_out], rows, wide)
    console.print(made)
    if shown := [name for name in left_out if name in names]:
        console.print(f"Not shown at {console.width} columns: {', '.join(shown)}.\n", style="dim")


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Text]], wide: bool) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if wide else (0, 1, 0, 0))
    for name in names:
        text = name in ("task", "kind", "run it with")
        made.add_column(name, justify="left" if text else "right", no_wrap=True)
    for row in rows:
        made.add_row(*[row[name] for name in names])
    return made


def _figures(one: Judged) -> dict[str, Text]:
    """Return the cell of each column."""
    from rich.text import Text

    p, kind = one.profile, one.advice.kind
    cells = {
        "task": _short(p.task),
        "kind": kind.removesuffix(" memory"),
        "runs": f"{p.runs:,}",
        "failed": f"{p.errors:,}",
        "p50": duration(p.wall_s_p50),
        "p95": duration(p.wall_s_p95),
        "CPU": _cpu(one),
        "memory/run": _growth(p),
        "run it with": with_what(one.advice),
    }
    return {name: Text(text, STYLES.get(kind, "dim") if name == "kind" else "") for name, text in cells.items()}


def _cpu(one: Judged) -> str:
    # Reading the clocks costs as much as such a run.
    return "-" if one.advice.kind == "tiny" else f"{one.profile.cpu_share:.0%}"


def _growth(p: Profile) -> str:
    return "not known" if p.memory_growth_mb is None else f"+{p.memory_growth_mb:.1f} MB"


def with_what(advice: Advice) -> str:
    """Return the mode and the number in words."""
    if advice.mode is None:
        return "-"
    if advice.kind == "tiny":
        return "any, in batches"
    if advice.mode == "thread":
        return count(advice.workers, "thread")
    if advice.threads > 1:
        return f"{advice.workers} x {advice.threads} threads"
    return count(advice.workers, "process")


def _print_task(console: Console, one: Judged) -> None:
    kind = one.advice.kind
    console.print(_short(one.usage.task), markup=False, style=f"bold {STYLES.get(kind, '')}")
    for line in (f"{one.advice.reason} {one.advice.would_change}", *map(_record, one.usage.records)):
        text = textwrap.fill(one_line(line), min(console.width, 120) - 2, initial_indent="  ", subsequent_indent="  ")
        console.print(text, markup=False, style="dim" if line.startswith("From ") else "")
    console.print()


def _record(r: Record) -> str:
    """Return where the figures come from, and which of them could not be measured."""
    where = "processes with one job at a time" if r.width == 1 else f"processes with {r.width} threads"
    said = f"From {count(r.runs, 'run')} in {where}, {r.first.astimezone():%Y-%m-%d %H:%M} to "
    said += f"{r.last.astimezone():%Y-%m-%d %H:%M}"
    if r.width > 1:
        said += "; memory per job cannot be told among threads"
    elif r.memory_growth_mb is None:
        said += "; memory per job not measured (it takes Linux, and a second run in one process)"
    elif r.memory_peak_mb is not None:
        said += f"; at most {r.memory_peak_mb:,.1f} MB more than before during a run"
    return said + "."


def _print_groups(console: Console, judged: Sequence[Judged], groups: Sequence[Group]) -> None:
    if not groups:
        console.print("Too little is known to say which worker to start.")
        return
    if len(groups) == 1:
        console.print("[bold]One queue will do[/] (start this worker):\n")
    else:
        console.print(f"[bold]{len(groups)} queues keep them out of each other's way[/] (a worker each):\n")
    for group in groups:
        # Unwrapped, because users copy it.
        console.print(f"  {one_line(group.command)}", style="green", markup=False, soft_wrap=True)
        tasks = ", ".join(map(_short, group.tasks))
        to = "" if group.queue == "default" else f"; submit with -q {group.queue}"
        console.print(textwrap.fill(f"for {tasks}{to}", min(console.width, 120) - 6, initial_indent="      ",
                                    subsequent_indent="      "), markup=False)  # fmt: skip
    console.print("\nKeep your other flags, such as --accept, --allow-private and --url.")
    if unknown := [_short(one.usage.task) for one in judged if one.advice.kind == "unknown"]:
        console.print(f"Not placed, too little is known: {', '.join(unknown)}.", markup=False)


def _machine(machine: Machine) -> str:
    gil = "" if machine.gil else " without GIL"
    return f"{count(machine.cores, 'core')}, {machine.memory_mb * 1.048576 / 1000:.0f} GB, Python {machine.python}{gil}"


def _short(task: str) -> str:
    return one_line(task.removeprefix("jobqueue.tasks."))


# -- for programs --------------------------------------------------------------------------------------------------


def _as_json(judged: Sequence[Judged], groups: Sequence[Group], machine: Machine) -> dict[str, Any]:
    return {
        "machine": dataclasses.asdict(machine),
        "tasks": [_task_as_json(one) for one in judged],
        "queues": [{**dataclasses.asdict(group), "command": group.command} for group in groups],
    }


def _task_as_json(one: Judged) -> dict[str, Any]:
    advice, profile = dataclasses.asdict(one.advice), dataclasses.asdict(one.profile)
    task = advice.pop("task")
    profile.pop("task")
    records = list(map(_record_as_json, one.usage.records))
    return {
        "task": task,
        "advice": advice,
        "profile": {**profile, "cpu_share": one.profile.cpu_share},
        "records": records,
    }


def _record_as_json(record: Record) -> dict[str, Any]:
    fields = dataclasses.asdict(record)
    fields["histogram"] = dict(_bins(record.histogram))
    return fields


def _bins(histogram: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield pairs of an upper bound in seconds and the number of runs."""
    for number, runs in enumerate(histogram):
        if runs:
            yield f"{2 ** ((number + 1) / 2) * 1e-6:.3g}", runs
