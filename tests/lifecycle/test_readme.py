"""Test that README.md and docs/usage.md are true: the Python code runs, the commands exist, the links have targets."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import rq
from helpers import Server, Tree, program_path
from rq.defaults import DEFAULT_FAILURE_TTL

from jobqueue import Queue
from jobqueue.cli import COMMANDS, main
from jobqueue.workers.shared.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/usage.md",
    "docs/decisions.md",
    "docs/threads-and-processes.md",
)


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands_shown() -> Iterator[list[str]]:
    """Yield the words after `jobq` of each command in the README's shell blocks."""
    for block in blocks("sh"):
        for line in block.splitlines():
            for part in re.split(r"\||&&", line.partition(" #")[0]):
                words = shlex.split(part)
                if words[:1] == ["jobq"]:
                    yield words[1:]


def test_the_python_runs(start: Callable[..., Tree], server: Server, tmp_path: Path, mode: str) -> None:
    module, example, _ = blocks("python")
    (tmp_path / "myjobs.py").write_text(module)
    start("-n", "2", mode=mode, serve=("myjobs",))
    job, *rest = run_python(example, server, tmp_path)
    assert job.endswith(" 6")
    assert rest[:6] == ["0", "1", "4", "9", "16", "10000"]
    assert "square takes a number, not 'abc'" in rest[6]
    assert len(rest) == 7


def test_the_executor_runs(server: Server, tmp_path: Path) -> None:
    (line,) = run_python(blocks("python")[2], server, tmp_path)
    assert line.startswith("[0, 1, 4, 9, 16] ")


def run_python(code: str, server: Server, directory: Path) -> list[str]:
    """Run the code as a script, with warnings as errors; return the lines that it printed."""
    (directory / "example.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        env={**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(ROOT)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stderr == ""
    return ran.stdout.splitlines()


@pytest.mark.parametrize("words", list(commands_shown()), ids=" ".join)
def test_the_commands_are_understood(words: list[str]) -> None:
    """Commands in the README have names and options that exist; they are not run."""
    context = click.Context(main)
    name, command, arguments = main.resolve_command(context, words)
    assert command is not None
    command.make_context(name, arguments, parent=context)


def test_commands_were_found() -> None:
    assert {words[0] for words in commands_shown()} == {"worker", "submit", "info", "compare", "advise"}


def test_every_command_is_in_the_table() -> None:
    table = (ROOT / "docs/usage.md").read_text()
    assert [name for name in COMMANDS if f"| `jobq {name}" not in table and f", `jobq {name}" not in table] == []


def test_ci_runs_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    marked = re.findall(r"^<!-- ci -->\n```sh\n(python3 -m venv .*)\n```$", text, re.MULTILINE)
    assert [command.rpartition(" && ")[2] for command in marked] == [
        ".venv/bin/jobq demo",
        ".venv/bin/pytest -n 6 --dist worksteal",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_links_have_targets(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / page).read_text()):
        path, _, anchor = target.partition("#")
        text = ((ROOT / page).parent / path if path else ROOT / page).read_text()
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_times_in_the_readme_are_true(server: Server) -> None:
    said = (ROOT / "README.md").read_text()
    assert "a job may run for 180 s" in said
    assert rq.Queue.DEFAULT_TIMEOUT == Queue.DEFAULT_TIMEOUT == 180
    assert "its result is kept for 500 s" in said
    assert {field.name: field.default for field in dataclasses.fields(Settings)}["default_result_ttl"] == 500
    assert "a failed job for a year" in said
    assert DEFAULT_FAILURE_TTL == 365 * 86_400


def test_completion(server: Server) -> None:
    asked = {"COMP_WORDS": "jobq fai", "COMP_CWORD": "1", "_JOBQ_COMPLETE": "bash_complete"}
    jobq = [str(Path(sys.executable).parent / "jobq")]
    done = subprocess.run(jobq, env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,failed\n"
