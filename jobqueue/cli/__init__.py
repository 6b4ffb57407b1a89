"""The ``jobq`` command. Each command lives in a file of its own and is imported when it is called."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from typing import Any

import click

from jobqueue.cli.options import WholeHelp
from jobqueue.cli.render import one_line as shown
from jobqueue.cli.strict import refuse_what_is_no_text, strict
from jobqueue.errors import JobqError

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
    "stop": "control",
    "pause": "control",
    "resume": "control",
    "schedule": "schedule",
    "cron": "cron",
    "store": "store",
    "doctor": "doctor",
    "compare": "compare",
    "demo": "demo",
    "chaos": "chaos",
    "advise": "advise",
}


class LazyGroup(WholeHelp):
    """Imports a command's module when the command is called: ``jobq --help`` needs neither redis nor rq."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"jobqueue.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return strict(command)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; a JobqError becomes one line on stderr and its exit code."""
        if os.name == "nt":
            print(
                "jobq: Windows has neither fork nor unix sockets; run jobq under WSL 2 or in Docker.", file=sys.stderr
            )
            sys.exit(2)
        say_what_can_be_said(sys.stdout)
        try:
            refuse_what_is_no_text(list(args[0] if args else kwargs.get("args") or sys.argv[1:]))
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
            sys.exit(code if isinstance(code, int) else 0)
        except click.exceptions.NoArgsIsHelpError as e:
            e.show()
            sys.exit(e.exit_code)
        except click.ClickException as e:  # click would print the usage too: three lines for one mistake
            print(f"jobq: {shown(one_line(e))}", file=sys.stderr)
            sys.exit(e.exit_code)
        except click.Abort:
            sys.exit(130)
        except JobqError as e:
            print(f"jobq: {shown(str(e))}", file=sys.stderr)
            sys.exit(e.exit_code)
        except BrokenPipeError:  # the reader of our output left (`jobq info | head`): nothing to say, nowhere to say it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered cannot be written either
            print(f"jobq: the output could not be written: {e.strerror}", file=sys.stderr)
            sys.exit(1)


def say_what_can_be_said(out: Any) -> None:
    """A terminal that is no UTF-8, or half a character in what a job said, is no reason for a traceback."""
    if isinstance(out, io.TextIOWrapper) and out.errors in ("strict", "surrogateescape"):  # the latter: LC_ALL=C
        out.reconfigure(errors="backslashreplace")


def one_line(error: click.ClickException) -> str:
    """What click has to say, and where to read on."""
    text = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text} See {context.command_path} --help." if context else text


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jobq", prog_name="jobq")
def main() -> None:
    """A Redis job queue: submit jobs, and run them in threads or in processes."""
