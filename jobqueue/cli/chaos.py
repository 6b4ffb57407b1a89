"""``jobq chaos``: kill workers while they work, and show that no job is lost."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobqueue.cli.numbers import Number
from jobqueue.cli.options import json_option, url_option
from jobqueue.protocol.bounds import Bounds

if TYPE_CHECKING:
    from rich.console import Console

    from jobqueue.chaos.plan import ChaosOptions

EPILOG = """
Exit codes: 0 every job has its outcome, recorded once; 1 some were lost, stuck or recorded twice, or the storm could
not be carried out; 130 stopped by Ctrl-C, nothing is left.
"""


@click.command(epilog=EPILOG)
@click.option("--mode", type=click.Choice(["thread", "process", "both"]), default="both", show_default=True)
@click.option("--jobs", type=click.IntRange(1, 1_000_000), default=2000, show_default=True, help="Jobs, per mode.")
@click.option("--seconds", type=Number(Bounds(1, 86_400, whole=False)), default=20.0, show_default=True, metavar="S",
              help="How long the storm of kills lasts at most, per mode.")  # fmt: skip
@click.option("--kills", type=click.IntRange(0, 100_000), default=60, show_default=True, help="Kills, per mode.")
@click.option("--queues", type=click.IntRange(1, 100), default=1, show_default=True, help="Queues, new ones.")
@click.option("--on-crash", type=click.Choice(["retry", "fail"]), default="retry", show_default=True,
              help="What becomes of a job whose process dies.")  # fmt: skip
@click.option("--seed", type=int, help="Repeat the storm of this seed.  [default: a new one]")
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path), metavar="DIRECTORY",
              help="Keep the workers' logs here.")  # fmt: skip
@url_option
@json_option
def chaos(
    mode: str,
    jobs: int,
    seconds: float,
    kills: int,
    queues: int,
    on_crash: str,
    seed: int | None,
    logs: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Kill workers while they work, and count what became of every job.

    Runs workers of its own, kills their children and supervisors at random, and looks for lost jobs. In the store that
    --url or the environment names it uses new queues, touches no others, and deletes them afterwards. Without one it
    starts a store of its own and kills that as well.
    """
    from jobqueue.chaos import report
    from jobqueue.chaos.plan import ChaosOptions
    from jobqueue.chaos.run import run

    options = ChaosOptions(
        modes=("thread", "process") if mode == "both" else (mode,),
        jobs=jobs,
        seconds=seconds,
        kills=kills,
        queues=queues,
        seed=secrets.randbelow(10**6) if seed is None else seed,
        on_crash=on_crash,
        url=url,
    )
    console = _console()
    screen = ChaosQuiet() if as_json else ChaosBar(console) if console.is_terminal else ChaosLines(console)
    try:
        outcomes = run(options, screen, logs)
    except KeyboardInterrupt:
        click.echo("jobq: the storm was stopped; nothing is left of it.", err=True)
        sys.exit(130)
    if as_json:
        click.echo(json.dumps(report.as_json(outcomes, options), indent=2))
    else:
        if console.is_terminal:
            console.print("", report.table(outcomes), sep="\n")
        else:
            _say(console, "\n".join(line for outcome in outcomes for line in report.lines(outcome)))
        _say(console, *report.causes(outcomes), report.conclusion(outcomes))
        _say(console, f"The same storm again: jobq chaos --seed {options.seed}, with the same options.")
    sys.exit(0 if report.is_kept(outcomes) else 1)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=100)


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ignore", crop=False)


class ChaosQuiet:
    """Prints no progress."""

    def ready(self, store: str, options: ChaosOptions) -> None: ...
    def mode_begins(self, mode: str, options: ChaosOptions) -> None: ...
    def progress(self, ended: int, kills: int) -> None: ...
    def mode_ends(self) -> None: ...


class ChaosLines(ChaosQuiet):
    """Prints a line per step, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def ready(self, store: str, options: ChaosOptions) -> None:
        _say(self.console, store, f"seed: {options.seed}")

    def mode_begins(self, mode: str, options: ChaosOptions) -> None:
        _say(self.console, f"{mode} mode: {options.jobs:,} jobs, {options.kills:,} kills in {options.seconds:g} s")


class ChaosBar(ChaosLines):
    """Draws a progress bar per mode."""

    def mode_begins(self, mode: str, options: ChaosOptions) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from jobqueue.harness.colours import STYLES

        bar = BarColumn(36, complete_style=STYLES[mode], finished_style=STYLES[mode])
        words = TextColumn("jobs, {task.fields[kills]} kills", style="dim")
        self._progress = Progress(
            TextColumn("{task.description:<13}"), bar, MofNCompleteColumn(), words, console=self.console
        )
        self._task = self._progress.add_task(f"{mode} mode", total=options.jobs, kills=0)
        self._progress.start()

    def progress(self, ended: int, kills: int) -> None:
        self._progress.update(self._task, completed=ended, kills=kills)

    def mode_ends(self) -> None:
        self._progress.stop()
