"""The report: on the terminal, and as benchmarks/RESULTS.md with its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peers import picture
from peers.tables import LIMIT, Report, failures, measured, rows

REPEAT = "make bench-peers"


# -- the terminal ------------------------------------------------------------------------------------------------------


def for_terminal(report: Report) -> str:
    parts = [f"{table.title}. {table.says}\n{aligned(rows(report, table))}" for table in measured(report)]
    if lines := failures(report):
        parts.append("Not measured:\n" + "\n".join(f"  {line}" for line in lines))
    return "\n\n".join([*parts, *doubts(report)])


def aligned(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells)
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def doubts(report: Report) -> list[str]:
    """Say what makes the figures uncertain."""
    said = []
    taken, cores = report["machine"]["others"], report["machine"]["cores"]
    if taken >= 0.15 * cores:
        said.append(f"Not certain: other programs used {taken:.1f} of {cores} cores meanwhile.")
    if report["options"]["rounds"] < 5:
        said.append(f"Not certain: {report['options']['rounds']} rounds; five and more tell noise from a difference.")
    return said


# -- the file ----------------------------------------------------------------------------------------------------------


def write(report: Report, place: Path) -> list[Path]:
    """Write the page and its pictures beside it; return what was written."""
    pictures = picture.both(report)
    files = {place.with_name(f"drain-{shade}.svg"): text for shade, text in pictures.items()}
    files[place] = page(report, bool(pictures))
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)


def page(report: Report, has_picture: bool) -> str:
    """Return the page in Markdown."""
    parts = ["# jobq beside its peers", _about(report)]
    if has_picture:
        parts.append(_PICTURE)
    parts += [f"## {table.title}\n\n{table.says}\n\n{_markdown(rows(report, table))}" for table in measured(report)]
    parts.append(_promises(report))
    parts.append(_settings(report))
    if lines := failures(report):
        parts.append("## What could not be measured\n\n" + "\n".join(f"- {line}" for line in lines))
    parts.append(_how(report))
    return "\n\n".join(parts) + "\n"


_PICTURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="drain-dark.svg">
  <img alt="No-op jobs per second in one process, a bar per peer; the first table has the figures" src="drain-light.svg">
</picture>"""  # noqa: E501  (one element)


def _about(report: Report) -> str:
    machine, options = report["machine"], report["options"]
    lines = [
        f"Measured on {report['when']} on {machine['cores']} cores ({machine['processor']}), {machine['platform']}, "
        f"Python {machine['python']}, {report['store']} without persistence; commit {report['commit']}. "
        f"Medians of {options['rounds']} interleaved rounds. `{REPEAT}` repeats it.",
        *doubts(report),
    ]
    return "\n\n".join(lines)


def _promises(report: Report) -> str:
    cells = [["", "a job that runs while its worker is killed with kill -9, as set here", "where it says so"]]
    for name, found in report["peers"].items():
        if found["said"]:
            cells.append([name, found["said"]["promise"], found["said"]["reference"]])
    return f"## What each promises about a kill -9\n\n{_markdown(cells)}"


def _settings(report: Report) -> str:
    cells = [["", "versions", "a slot is", "settings"]]
    for name, found in report["peers"].items():
        if said := found["said"]:
            versions = ", ".join(f"{package} {number}" for package, number in said["versions"].items())
            noun = {"threads": "a thread", "coroutines": "a coroutine", "processes": "a process"}[said["slots"]]
            cells.append([name, versions or f"Python {said['python']}", noun, said["settings"]])
    return f"## Versions and settings\n\n{_markdown(cells)}"


def _how(report: Report) -> str:
    flags = f"--rounds {report['options']['rounds']} --seconds {report['options']['seconds']:g}"
    return f"""## How it was measured

    PYTHONPATH=benchmarks python -m peers {flags} --tables {",".join(report["options"]["tables"])} --write benchmarks/RESULTS.md

- Each peer has an environment of its own with the versions above, hiredis or its like, uvloop where it uses one.
- In each round every cell is measured once for every peer before the next cell (A B C A B C), so that whatever else the
  machine does hits all of them. The tables show medians.
- A drain: the worker is started and warmed up until each of its processes has run a job; its whole tree is stopped
  (SIGSTOP), the backlog enqueued, and the tree set going (SIGCONT). From there to the end of the last body is the time.
  Each body writes when it began and ended, by CLOCK_MONOTONIC, into a file that all processes map. CPU and commands
  are counted until 0.3 s after the last end.
- "process": so many processes, each set as it is fastest for such jobs. "slot": one process with so many threads, or
  coroutines where the peer has those; then the 20 ms are `asyncio.sleep`.
- All keep results. What is compared is the same work with each peer's own promise: the table of promises belongs to it.
- `{LIMIT}` is no peer: ProcessPoolExecutor and ThreadPoolExecutor, without a store, as the limit."""  # noqa: E501


def _markdown(cells: Sequence[Sequence[str]]) -> str:
    head, *rest = ([cell.replace("|", "\\|") for cell in row] for row in cells)
    line = "|".join(["---", *(["---:" if _is_figure(cells) else "---"] * (len(head) - 1))])
    return "\n".join([_line(head), f"|{line}|", *map(_line, rest)])


def _is_figure(cells: Sequence[Sequence[str]]) -> bool:
    return any(cell.replace(",", "").replace(".", "").isdigit() for row in cells[1:] for cell in row[1:])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
