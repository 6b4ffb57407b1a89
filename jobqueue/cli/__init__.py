"""The ``jobq`` command. Each command is a module of its own, which is imported when the command is called."""

from __future__ import annotations

import sys

from jobqueue.cli.early import is_leaving, leave_as_asked, leave_on_interrupt, raise_on_interrupt, runs_until_stopped

leave_as_asked(sys.argv)  # first: the imports below take a good part of a second, in which a signal may come

# ruff: noqa: E402
import importlib
import os
from typing import Any

import click

from jobqueue.cli import streams
from jobqueue.cli.failures import ended
from jobqueue.cli.options import WholeHelp
from jobqueue.cli.strict import refuse_what_is_no_text, strict
from jobqueue.cli.terminated import Terminated, terminable
from jobqueue.errors import UsageError

COMMANDS = {  # command → module below jobqueue.cli, which defines a click command (or group) of the same name
    "submit": "submit",
    "worker": "worker",
    "worker-health": "worker",
    "status": "look",
    "result": "look",
    "info": "look",
    "waiting": "backlog",
    "failed": "failed",
    "cancel": "control",
    "purge": "control",
    "stop": "control",
    "pause": "control",
    "resume": "control",
    "schedule": "schedule",
    "cron": "cron",
    "store": "store",
    "doctor": "doctor",
    "compare": "compare",
    "bench": "bench",
    "demo": "demo",
    "chaos": "chaos",
    "advise": "advise",
    "exporter": "exporter",
    "plugins": "plugins",
    "logs": "logs",
}
WITHOUT_OUTPUT = frozenset({"worker", "cron", "worker-health"})  # they work with stdout closed


class LazyGroup(WholeHelp):
    """Imports a command's module when the command is called: ``jobq --help`` needs neither redis nor rq."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"jobqueue.cli.{COMMANDS[cmd_name]}")
        command: click.Command = strict(getattr(module, cmd_name.replace("-", "_")))
        if not ctx.resilient_parsing:
            raise_on_interrupt()  # from here on something may have to be given back on Ctrl-C
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and return its exit code; an error is one line on stderr."""
        is_program = is_leaving()
        if os.environ.get("_JOBQ_COMPLETE", "").endswith("_complete"):
            # The shell asks for completions: an error would end up in the line that is being typed.
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        words = list(args[0] if args else kwargs.get("args") or sys.argv[1:])

        def run() -> Any:
            _refuse_windows()
            streams.prepare(words, WITHOUT_OUTPUT)
            refuse_what_is_no_text(words)
            try:
                with terminable():
                    return super(LazyGroup, self).main(*args, **{**kwargs, "standalone_mode": False})
            except (Terminated, click.Abort):
                if runs_until_stopped(words):  # the signal came while the command was still being imported
                    return 0
                raise

        code = ended(run)
        if is_program:
            leave_on_interrupt()  # while Python shuts down, a KeyboardInterrupt would print a traceback
        sys.exit(code)


def _refuse_windows() -> None:
    if os.name == "nt":
        raise UsageError("Windows has neither fork nor unix sockets; run jobq under WSL 2 or in Docker.")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jobq", prog_name="jobq")
def main() -> None:
    """A Redis job queue: submit jobs, and run them in threads or in processes."""
