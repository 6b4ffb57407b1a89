"""``jobq demo``: run the same work with threads and with processes, and show it on the screen."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from jobqueue.cli.options import json_option
from jobqueue.errors import ExtraMissing
from jobqueue.tasks import extra

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from jobqueue.compare.figures import Sample
    from jobqueue.compare.plan import Cell
    from jobqueue.demo.run import DemoKind

WIDTH = 100


@click.command()
@json_option
def demo(as_json: bool) -> None:
    """Run the same jobs with threads and with processes, and compare.

    Starts a store, a web site on the loopback and a worker per mode, all its own, and leaves nothing behind. Needs the
    extra web-tasks.
    """
    if lacks := extra.missing():
        raise ExtraMissing(f"the demo's {lacks}")
    from jobqueue.demo import report
    from jobqueue.demo.run import run

    began = time.monotonic()
    console = _console()
    screen = DemoQuiet() if as_json else DemoBars(console) if console.is_terminal else DemoLines(console)
    try:
        outcomes = run(screen)
    except KeyboardInterrupt:
        click.echo("jobq: the demo was stopped; nothing is left of it.", err=True)
        sys.exit(130)
    seconds = time.monotonic() - began
    if as_json:
        click.echo(json.dumps(report.as_json(outcomes, seconds), indent=2))
        return
    console.print("", report.table(outcomes, console.width), sep="\n")
    doubt = report.uncertain(outcomes)
    for sentence in [doubt, *report.sentences(outcomes)] if doubt else report.sentences(outcomes):
        console.print(sentence, "", highlight=False, sep="\n", style="bright_black" if doubt else "")
    yours = "Next: `jobq worker` in one terminal, `jobq submit square 1 2 3` in another."
    console.print(f"{seconds:.0f} s. {yours}", style="dim", highlight=False)


def _console() -> Console:
    """Return a console as wide as the terminal, at most WIDTH because longer lines are hard to read; WIDTH without a
    terminal."""
    from rich.console import Console

    console = Console()
    return Console(width=min(console.width, WIDTH) if console.is_terminal else WIDTH)


class DemoQuiet:
    """Prints no progress."""

    def ready(self, store: str, site: str) -> None: ...
    def mode_begins(self, mode: Cell, kinds: Sequence[DemoKind]) -> None: ...
    def booted(self, seconds: float) -> None: ...
    def jobs_done(self, kind: DemoKind, jobs: int) -> None: ...
    def kind_done(self, kind: DemoKind, figures: Sample) -> None: ...
    def mode_ends(self) -> None: ...
    def again(self, why: str) -> None: ...


class DemoLines(DemoQuiet):
    """Prints a line per step, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def ready(self, store: str, site: str) -> None:
        self._say(store)
        self._say(f"site: {site} (13 pages, 8 files; answers after 0.1 s)")

    def mode_begins(self, mode: Cell, kinds: Sequence[DemoKind]) -> None:
        self._say("")
        self._say(f"{mode.mode} mode: jobq worker --mode {mode.mode} -n {mode.workers}")

    def booted(self, seconds: float) -> None:
        self._say(f"  ready after {seconds:.1f} s")

    def kind_done(self, kind: DemoKind, figures: Sample) -> None:
        self._say(f"  {kind.name:<12}{figures.jobs:>6,} jobs in {figures.wall:.2f} s")

    def again(self, why: str) -> None:
        self._say("")
        self._say(f"{why}: once more, and the quieter of the two counts")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, no_wrap=True, overflow="ignore", crop=False)


class DemoBars(DemoLines):
    """Draws a progress bar per kind of work."""

    def mode_begins(self, mode: Cell, kinds: Sequence[DemoKind]) -> None:
        super().mode_begins(mode, kinds)
        self._progress = _progress(self.console, mode)
        self._tasks: dict[str, TaskID] = {
            kind.name: self._progress.add_task(kind.name, total=kind.jobs, start=False, wall="") for kind in kinds
        }
        self._progress.start()

    def booted(self, seconds: float) -> None:
        self._progress.console.print(f"  [dim]ready after {seconds:.1f} s[/]", highlight=False)

    def jobs_done(self, kind: DemoKind, jobs: int) -> None:
        self._progress.update(self._tasks[kind.name], completed=jobs)

    def kind_done(self, kind: DemoKind, figures: Sample) -> None:
        wall = f"{figures.wall:5.2f} s  {figures.rate:>6,.0f} jobs/s"
        self._progress.update(self._tasks[kind.name], wall=wall)

    def mode_ends(self) -> None:
        self._progress.stop()


def _progress(console: Console, mode: Cell) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from jobqueue.harness.colours import STYLES

    style = STYLES[mode.mode]
    return Progress(
        TextColumn("  {task.description:<12}"),
        BarColumn(36, complete_style=style, finished_style=style),
        MofNCompleteColumn(),
        TextColumn("{task.fields[wall]}", style="dim"),
        console=console,
    )
