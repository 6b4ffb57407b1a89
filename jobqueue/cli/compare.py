"""``jobq compare``: measure the user's own task in threads and in processes, and say which to use."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobqueue.cli.numbers import Number
from jobqueue.cli.options import json_option
from jobqueue.cli.values import NegativeNumbersAreValues, check_call, parse_json, parse_value
from jobqueue.errors import ExtraMissing, UsageError
from jobqueue.protocol.bounds import Bounds
from jobqueue.tasks import extra
from jobqueue.words import one_line

if TYPE_CHECKING:
    from jobqueue.compare.builtin import Wanted
    from jobqueue.compare.run import CompareScreen

EPILOG = """
Exit codes: 0 measured; 1 a task could not be measured (the report says why); 2 wrong usage; 130 stopped by Ctrl-C,
nothing is left.
"""


@click.command(cls=NegativeNumbersAreValues, epilog=EPILOG)
@click.argument("task", required=False)
@click.argument("values", metavar="[VALUE]...", nargs=-1)
@click.option("--args", "arg_lists", metavar="JSON", multiple=True, help="All positional arguments of one job; repeat.")
@click.option("--kwargs", "kwargs_text", metavar="JSON", help="Keyword arguments of every job.")
@click.option(
    "--jobs", type=click.IntRange(1, 1_000_000), metavar="N", help="Jobs of each run.  [default: as many as fit]"
)
@click.option("-n", "largest", type=click.IntRange(1, 256), default=16, show_default=True, help="The largest width.")
@click.option("--repeat", type=click.IntRange(1, 100), default=1, show_default=True, metavar="N",
              help="Runs of each mode at each width, in turn; their median counts.")  # fmt: skip
@click.option("--seconds", type=Number(Bounds(5, 86_400, whole=False)), metavar="S",
              help="Time for all.  [default: 75, more with --repeat]")  # fmt: skip
@click.option("--trials/--no-trials", default=True, help="Try out isolation, a crash and time limits too (10 s).")
@click.option(
    "-I", "--import", "modules", multiple=True, metavar="MODULE", help="Let the workers serve this module too."
)
@click.option("--path", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIRECTORY",
              help="Where the task's module lies.  [default: the current directory]")  # fmt: skip
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the report as one HTML page too.")  # fmt: skip
@click.option("--url", metavar="URL", help="Measure on this store, in queues of its own, and leave nothing there.  "
              "[default: a temporary store]")  # fmt: skip
@json_option
def compare(
    task: str | None,
    values: tuple[str, ...],
    arg_lists: tuple[str, ...],
    kwargs_text: str | None,
    jobs: int | None,
    largest: int,
    repeat: int,
    seconds: float | None,
    trials: bool,
    modules: tuple[str, ...],
    path: Path | None,
    html: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Run TASK in threads and in processes, side by side, and say which to use.

    One job per VALUE (as in jobq submit), again and again. TASK is a built-in task or module:function of yours, from
    the current directory. Without a TASK: square, heavy, download and scrape (which
    need the extra web-tasks).

    The same calls also run on a bare ThreadPoolExecutor, a ProcessPoolExecutor and in a plain loop: the difference is
    the price of the queue.
    """
    from jobqueue.compare import page
    from jobqueue.compare.plan import CompareOptions, widths_up_to
    from jobqueue.compare.run import run

    if html is not None:
        page.check(html)
    importable(path)
    wanted = checked(task, values, arg_lists, kwargs_text)
    options = CompareOptions(
        widths=widths_up_to(largest), jobs=jobs, repeat=repeat, seconds=seconds, url=url, trials=trials
    )
    screen = progress()
    try:
        with screen:
            report = run(wanted, modules, options, screen)
    except KeyboardInterrupt:
        click.echo("jobq: the comparison was stopped; nothing is left of it.", err=True)
        sys.exit(130)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show(report)
    if html is not None:  # last, so that the report is on the screen even if the disk is full
        page.write(report, html)
    sys.exit(1 if any(part["error"] for part in report["tasks"]) else 0)


def importable(path: Path | None) -> None:
    """Let this process, the workers and the pools import from ``path``; the current directory is searched anyway."""
    if path is not None:
        place = str(path.absolute())
        sys.path.insert(0, place)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH")]))


def checked(task: str | None, texts: Sequence[str], arg_lists: Sequence[str], kwargs_text: str | None) -> Wanted | None:
    """Import the task and check its arguments before anything is started. Raises UsageErrors."""
    from jobqueue.compare.builtin import Wanted
    from jobqueue.producing import catalog

    if lacks := extra.missing(extra.TASKS if task is None else [catalog.dotted_name(task)]):
        raise ExtraMissing(lacks if task else f"{lacks}; or name a TASK")
    if task is None:
        if arg_lists or kwargs_text:
            raise UsageError("--args and --kwargs are about a TASK, and none was named.")
        return None
    check = catalog.ArgumentCheck(task, catalog.resolve(catalog.dotted_name(task)))
    values, lists = [parse_value(text) for text in texts], [parse_json("--args", text, list) for text in arg_lists]
    kwargs = parse_json("--kwargs", kwargs_text, dict) if kwargs_text else {}
    argses = (*((value,) for value in values), *map(tuple, lists))
    for args in argses or ((),):
        check_call((args, kwargs), check)
    return Wanted(task, (*values, *lists), argses, kwargs)


def show(report: dict[str, Any]) -> None:
    """Print the report as wide as the terminal."""
    from rich.console import Console

    from jobqueue.compare.terminal import WIDEST, parts

    console = Console()
    width = min(console.width, WIDEST) if console.is_terminal else 100
    console = Console(width=width)
    for part in parts(printable(report), width):
        console.print(part, highlight=False)


def printable(part: Any) -> Any:
    """Return the report with its texts made safe for a terminal: an error text of a task may hold anything."""
    if isinstance(part, dict):
        return {name: printable(value) for name, value in part.items()}
    if isinstance(part, list):
        return [printable(value) for value in part]
    return one_line(part) if isinstance(part, str) else part


# -- while it runs -------------------------------------------------------------------------------------------------


def progress() -> Any:
    """Return a screen that shows on stderr what is measured now; one line per step where that is no terminal."""
    return CompareBar() if sys.stderr.isatty() else CompareLines()


class CompareLines:
    """Prints a line per step, for logs and pipes."""

    def __enter__(self) -> CompareScreen:
        return self

    def __exit__(self, *error: object) -> None: ...

    def ready(self, store: str) -> None:
        click.echo(store, err=True)

    def step(self, text: str, done: float) -> None:
        click.echo(f"{done:4.0%}  {text}", err=True)


class CompareBar(CompareLines):
    """Draws one line again and again, and removes it at the end."""

    def __enter__(self) -> CompareScreen:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (BarColumn(20), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("starting the store", total=1.0)
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def ready(self, store: str) -> None:
        self._progress.console.print(store, style="dim", highlight=False)

    def step(self, text: str, done: float) -> None:
        self._progress.update(self._task, description=text, completed=done)
