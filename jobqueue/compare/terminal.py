"""The report for a terminal: the verdicts, a table with bars per task, and what each mode can and cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jobqueue.compare.facts import busy
from jobqueue.compare.wording import mb, rate
from jobqueue.harness.colours import STYLES
from jobqueue.words import count, duration

WIDEST = 124
WIDE = 116  # columns of a terminal from which the tables have all figures
# The figures of each mode by the columns that a table needs to have them; wide terminals have more.
FIGURES = (
    (WIDE, ("wall", "cores", "job ms", "p95", "MB", "PSS")),
    (80, ("cores", "job ms", "MB")),
    (64, ("cores", "MB")),
    (0, ()),
)
WITH_POOLS = 46  # columns of a terminal from which the tables have the bare pools beside the modes
POOLS = {"ThreadPoolExecutor": "bare\nthreads", "ProcessPoolExecutor": "bare\nprocs"}

RunFigures = dict[str, Any]


def parts(report: dict[str, Any], width: int) -> Iterator[RenderableType]:
    """Yield what to print, from top to bottom."""
    yield Text(facts(report["machine"]), style="dim")
    if warning := busy(report["machine"]):
        yield Text(warning, style="yellow")
    yield ""
    for task in report["tasks"]:
        yield Padding(headline(task), (0, 0, 1, 0))
    measured = [task for task in report["tasks"] if not task["error"]]
    for task in measured:
        yield table(task, width)
        yield from below(task)
    yield from trials(report, bool(measured))
    yield Text(legend(width) if measured else f"{report['took_s']:.0f} s.", style="dim")
    if measured:
        yield Text(f"{report['took_s']:.0f} s.", style="dim")


def legend(width: int) -> str:
    left_out = [name for name in FIGURES[0][1] if name not in columns(width)]
    left_out += ["the bare pools"] if width < WITH_POOLS else []
    more = f"; not shown at {width} columns: {', '.join(left_out)}" if left_out else ""
    return (
        "job ms: from a job's start to its end, where it runs. cores: of CPU in use. MB: what the worker's processes "
        f"have for themselves (USS). bare: jobs/s of a pool without a queue. All figures: --json{more}."
    )


def facts(machine: dict[str, Any]) -> str:
    """Return one line about the interpreter, the GIL, the cores and the store."""
    gil = "GIL on" if machine["gil_enabled"] else "GIL off"
    if machine["free_threaded"] and machine["gil_enabled"]:
        by = f", turned on by {', '.join(machine['gil_enabled_by'])}" if machine["gil_enabled_by"] else ""
        gil = f"free-threaded build, but the GIL is on{by}"
    cores = count(machine["cores"], "core")
    return f"{machine['implementation']} {machine['python']}, {gil}, {cores}, store: {machine['store']}"


def headline(task: dict[str, Any]) -> Text:
    """Return the verdict, its first words in the colour of the mode."""
    said = Text(task["verdict"])
    start = len(task["task"]) + 2
    said.stylize("bold", 0, start - 1)
    if task["error"]:
        said.stylize("yellow", start)
    elif task["kind"] == "tiny":
        said.stylize("bold yellow", start, task["verdict"].index(":", start))
    else:
        style = f"bold {STYLES[task['advice']['mode']]}" if task["advice"].get("certain", True) else "bold bright_black"
        said.stylize(style, start, task["verdict"].index(":", start))
    return said


# -- a task --------------------------------------------------------------------------------------------------------


def table(task: dict[str, Any], width: int) -> Table:
    """Return a table with a line per width: threads beside processes, each with a bar; the advised row is marked."""
    title = f"{task['task']}   plain loop: {_rate(_find(task, 'loop', 1))} jobs/s"
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    made.padding = 0
    made.add_column("\nn", justify="right", no_wrap=True)
    for mode, name in (("thread", "threads"), ("process", "processes")):
        style = STYLES[mode]
        made.add_column(f"{name}\njobs/s", style=style, header_style=style, no_wrap=True)
        for title in columns(width):
            made.add_column(f"\n{title}", justify="right", style=style, header_style=style, no_wrap=True)
    pools = width >= WITH_POOLS and any(run["mode"] in POOLS for run in task["runs"])
    for title in POOLS.values() if pools else ():
        made.add_column(title, justify="right", style="dim", header_style="dim", no_wrap=True)
    fastest = max(run["jobs_per_s"] for run in task["runs"] if run["mode"] in STYLES)
    for workers in sorted({run["workers"] for run in task["runs"] if run["mode"] in (*STYLES, *POOLS)}):
        made.add_row(*_cells(task, workers, fastest, width, len(made.columns)))
    return made


def columns(width: int) -> tuple[str, ...]:
    """Return the figures of each mode for which the table has room."""
    return next(names for least, names in FIGURES if width >= least)


def _cells(task: dict[str, Any], workers: int, fastest: float, width: int, most: int) -> list[Any]:
    cells: list[Any] = [str(workers)]
    for mode in STYLES:
        run = _find(task, mode, workers)
        cells += [_barred(run, task, fastest, 7 if width >= WIDE else 4), *_figures(run, width)]
    cells += [_rate(_find(task, pool, workers)) for pool in POOLS]
    return cells[:most]


def _barred(run: RunFigures | None, task: dict[str, Any], fastest: float, length: int) -> Text:
    if run is None:
        return Text("-")
    advice = task["advice"]
    chosen = task["kind"] != "tiny" and is_advised(run, advice)
    said = Text(f"{bar(run['jobs_per_s'] / fastest, length):<{length}} {_rate(run):>5}")
    said.append("◀" if chosen else " ")
    said.stylize("bold reverse" if chosen else "", length + 1)
    return said


def is_advised(run: RunFigures, advice: dict[str, Any]) -> bool:
    """Return whether this row is the one that was advised."""
    shape = (advice["workers"], advice.get("threads", 1))
    if "processes" in run:
        return bool((run["processes"], run["threads"]) == shape)
    return bool((run["mode"], run["workers"], 1) == (advice["mode"], *shape))


def _figures(run: RunFigures | None, width: int) -> list[str]:
    if run is None:
        return ["-"] * len(columns(width))
    latency = run["latency_ms"]
    cells = {
        "wall": f"{run['wall_s']:.2f}",
        "cores": f"{run['cores_used']:.1f}",
        "job ms": number(latency["p50"]),
        "p95": number(latency["p95"]),
        "MB": number(run["uss_mb"]),
        "PSS": number(run["pss_mb"]),
    }
    return [cells[name] for name in columns(width)]


def _find(task: dict[str, Any], mode: str, workers: int) -> RunFigures | None:
    return next((run for run in task["runs"] if (run["mode"], run["workers"]) == (mode, workers)), None)


def _rate(run: RunFigures | None) -> str:
    if run is None:
        return "-"
    value = run["jobs_per_s"]
    if value < 10_000:
        return rate(value) if value >= 100 else f"{value:#.3g}".rstrip(".")
    return f"{value / 1000:.1f}k" if value < 100_000 else f"{value / 1000:,.0f}k"


def bar(part: float, length: int) -> str:
    """Return a bar of so many columns, precise to an eighth of a column."""
    eighths = max(1, round(part * length * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def number(value: float | None) -> str:
    """Return a figure in about two digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}" if value < 0.1 else f"{value:.1f}"


# -- below its table -----------------------------------------------------------------------------------------------


def below(task: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield what stands below the table: memory per worker, start-up, the price of the queue, notes."""
    if both := processes_with_threads(task):
        yield Padding(both, (0, 0, 0, 2))
    said = [line for line in (memory(task), startup(task), price(task)) if line]
    yield Padding(Text("; ".join(said) + ".", style="dim"), (0, 0, 0, 2))
    for note in task["notes"]:
        yield Padding(Text(note, style="yellow"), (0, 0, 0, 2))
    yield ""


def processes_with_threads(task: dict[str, Any]) -> Text | None:
    """Return one line about the rows of processes with threads in each, for tasks that wait and compute."""
    runs = [run for run in task["runs"] if "processes" in run]
    if not runs:
        return None
    said = Text("Processes x threads: ")
    for run in runs:
        text = f"{run['processes']} x {run['threads']} {_rate(run)} jobs/s"
        chosen = task["kind"] != "tiny" and is_advised(run, task["advice"])
        said.append(", " if run is not runs[0] else "").append(text, "bold reverse" if chosen else "")
    return said.append(".")


def memory(task: dict[str, Any]) -> str:
    both = task["memory_per_worker"]
    if not {"thread", "process"} <= both.keys():
        return ""
    parts = [f"{mb(both[mode]['uss_mb'])} for {name}" for mode, name in _NAMES if mode in both]
    return f"Memory per added worker: {', '.join(parts)} (USS)"


_NAMES = (("thread", "threads"), ("process", "processes"), ("ProcessPoolExecutor", "bare processes"))


def startup(task: dict[str, Any]) -> str:
    spans = [_span(name, [run["startup_s"] for run in task["runs"] if run["mode"] == mode]) for mode, name in _NAMES]
    return f"start-up: {', '.join(span for span in spans if span)}"


def _span(name: str, seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    low, high = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
    return f"{name} {low} s" if low == high else f"{name} {low} to {high} s"


def price(task: dict[str, Any]) -> str:
    cost = task["queue_price"]
    if cost is None or cost["extra_ms"] <= 0:
        return ""
    return f"the queue adds {duration(cost['extra_ms'] / 1000)} to a job of {duration(cost['loop_ms'] / 1000)}"


# -- what each mode can and cannot do ------------------------------------------------------------------------------


def trials(report: dict[str, Any], measured: bool) -> Iterator[RenderableType]:
    for key, title in (("isolation", "Memory"), ("blast_radius", "A crash"), ("time_limits", "A time limit")):
        if report[key] is not None:
            said = Text(f"{title}. ", style="bold")
            yield Padding(said.append(report[key]["meaning"], style="not bold"), (0, 0, 1, 0))
    if measured and report.get("not_tried"):
        yield Text(f"Isolation, crashes and time limits were not tried out: {report['not_tried']}.\n", style="yellow")
