"""End a command that fails with one line on stderr and an exit code; only bugs in jobq show a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from jobqueue.cli import streams
from jobqueue.cli.early import INTERRUPTED
from jobqueue.cli.terminated import Terminated
from jobqueue.errors import InTheCopy, JobqError
from jobqueue.words import one_line


def ended(command: Callable[[], Any]) -> int:
    """Run the command and return its exit code; print what went wrong. A copy of this process that the command has
    forked does its own work here, and does not return."""
    try:
        return _ended(command)
    except InTheCopy as copy:
        work = copy.work
    work()
    sys.exit()


def _ended(command: Callable[[], Any]) -> int:
    try:
        return streams.flush(_code_of(command))
    except BrokenPipeError as e:  # the reader of our output left
        return streams.output_failed(e)
    except OSError as e:
        if streams.is_of_output(e):
            return streams.output_failed(e)
        return _say(words_of(e) + streams.notes(e), 1)
    except MemoryError as e:
        return _say(
            "there is not enough memory for this (see ulimit -v, and the container's limit)" + streams.notes(e), 1
        )
    except RuntimeError as e:
        if "can't start new thread" not in str(e):
            raise
        return _say("the system starts no more threads for this user (see ulimit -u, and the container's limit)", 1)
    except ValueError as e:
        if not str(e).startswith("Invalid RQ_KEY_PREFIX"):  # RQ raises this when it is imported
            raise
        return _say(f"{e}; unset the variable to use RQ's own prefix", 2)
    except Exception as e:
        if not _is_redis_error(e):
            raise
        return _say(f"the store: {str(e) or type(e).__name__}{streams.notes(e)}", 1)


def _code_of(command: Callable[[], Any]) -> int:
    try:
        code = command()
    except SystemExit as e:
        code = e.code
    except click.exceptions.NoArgsIsHelpError as e:
        e.show()
        code = e.exit_code
    except click.ClickException as e:  # click itself would print the usage too, three lines for one mistake
        return _say(_where_to_read_on(e), e.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Terminated as e:
        return _say(f"{e}{streams.notes(e)}", e.exit_code) if streams.notes(e) else e.exit_code
    except JobqError as e:
        return _say(_with_notes(e), e.exit_code)
    if isinstance(code, str):
        return _say(code, 1)
    return code if isinstance(code, int) else 0


def _with_notes(error: BaseException) -> str:
    text, more = str(error), streams.notes(error)
    return f"{text.removesuffix('.')}{more}." if more else text


def words_of(error: OSError) -> str:
    """Return what the operating system says, and about which file."""
    what = error.strerror or str(error) or type(error).__name__
    hint = "; see ulimit -n" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
    name = error.filename
    if isinstance(error, FileNotFoundError) and name is None:  # getcwd raises it
        return "the current directory is not there any more: change to another one"
    where = f"{os.fsdecode(name)}: " if isinstance(name, (str, bytes)) else ""
    return f"{where}{what}{hint}"


def _say(text: str, code: int) -> int:
    line = f"jobq: {one_line(text)}"
    print(folded(line) if sys.stderr.isatty() else line, file=sys.stderr)
    return code


def folded(line: str) -> str:
    """Fold a line at whole words, where the terminal would cut through words."""
    import shutil
    import textwrap

    room = max(shutil.get_terminal_size().columns, 20)
    return textwrap.fill(line, room, break_long_words=False, break_on_hyphens=False)


def _where_to_read_on(error: click.ClickException) -> str:
    """Return click's message, and which --help to read."""
    text = " ".join(error.format_message().split())
    text = text if text.endswith((".", "?", "!")) else f"{text}."
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text} See {context.command_path} --help." if context else text


def _is_redis_error(error: Exception) -> bool:
    """Return whether redis-py raised it; does not import redis, which most failures do without."""
    module: Any = sys.modules.get("redis")
    return module is not None and isinstance(error, module.RedisError)
