"""Refuse for every command, before it does anything, option values that are empty and arguments that are not text.

An empty value is usually an unset variable (``jobq submit square 2 -f "$FILE"``). Taken for "not given", it would
silently make the command do something else.
"""

from __future__ import annotations

import os

import click
from click.core import ParameterSource

from jobqueue.errors import UsageError


def strict(command: click.Command) -> click.Command:
    """Let the command, and those below it, refuse empty option values. Safe to repeat."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            strict(below)
    if "parse_args" not in vars(command):
        parse = command.parse_args

        def parse_args(ctx: click.Context, args: list[str]) -> list[str]:
            rest = parse(ctx, args)
            if not ctx.resilient_parsing:
                _refuse_empty_values(ctx)
            return rest

        command.parse_args = parse_args  # type: ignore[method-assign]  # here, so that no command can forget it
    return command


def _refuse_empty_values(ctx: click.Context) -> None:
    for param in ctx.command.params:
        if not isinstance(param, click.Option) or param.name is None:
            continue
        if ctx.get_parameter_source(param.name) is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params.get(param.name)
        if any(isinstance(v, str) and not v.strip() for v in (value if isinstance(value, tuple) else (value,))):
            raise click.BadParameter("it is empty; leave the option out or give it a value.", ctx, param)


def refuse_what_is_no_text(words: list[str]) -> None:
    """Raise UsageError for an argument that is not UTF-8, unless it is the name of a file that is there."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            if not os.path.lexists(word):
                raise UsageError(f"The argument {ascii(os.fsencode(word))[1:]} is not UTF-8 text.") from None
