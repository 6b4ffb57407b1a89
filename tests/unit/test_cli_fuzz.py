"""Every option and argument of every command, with unexpected values, gives one line and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner
from helpers import Server

from jobqueue.cli import main
from jobqueue.store.connection import redis

VALUES = [
    *(
        "",
        " ",
        "\udcff",
        "a\nb",
        "-1",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e18",
        "9" * 400,
        "0",
        "x" * 5000,
        "--",
        "-",
        "[",
    ),
    *("{}", "null", "\x1b[31mred", "../../etc/passwd", "%s%n", "é\u202e", "a:b:c", "1,2", "*", "redis://[", "unix://"),
    *("redis+sentinel://", "2026-13-45", "9999-12-31T23:59", "json,pickle,x", "5 5 5", "* * * * *", "Mars/Base"),
]
# only the parsing of their command lines is tested
SLOW = {"worker", "demo", "chaos", "compare", "bench", "cron", "exporter"}
LINES = 3  # on stderr: the store, what went wrong, what became of the jobs


def walk(command: click.Command, words: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            yield from walk(below, [*words, name])
    else:
        yield words, command


ALL = {" ".join(words): (words, command) for words, command in walk(main, [])}


def lines_for(words: list[str], command: click.Command, value: str) -> Iterator[list[str]]:
    """Yield the value in place of each argument, and of each option's value."""
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    needed = ["square"] * sum(p.required for p in arguments)
    if arguments:
        yield [*words, "--", *needed[1:], value]
    for param in command.params:
        if isinstance(param, click.Option) and not param.is_flag and "--watch" not in param.opts:
            yield [*words, param.opts[0], value, "--", *needed]
            if len(value) < 2:
                yield [*words, f"{param.opts[-1]}={value}", "--", *needed]


@pytest.mark.parametrize("name", ALL)
def test_unexpected_values_give_one_line_and_an_exit_code(
    server: Server, store: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    words, command = ALL[name]
    if words[0] in SLOW:
        monkeypatch.setattr(command, "callback", lambda **_: None)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(env={"JOBQ_URL": server.url, "JOBQ_HOME": str(tmp_path / "home")})
    for value in VALUES:
        for line in lines_for(words, command, value):
            done = runner.invoke(main, line)
            shown = ascii(line)[:300]
            assert isinstance(done.exception, SystemExit | None), (shown, done.exception)
            assert done.exit_code in (0, 1, 2, 3, 4), shown
            assert len(done.stderr.splitlines()) <= LINES, (shown, done.stderr[:1000])
            assert "\x1b" not in done.output + done.stderr, shown
            if done.exit_code in (1, 2) and name != "worker-health":  # which says why, and nothing else
                assert "jobq: " in done.stderr, (shown, done.stderr[:500])
