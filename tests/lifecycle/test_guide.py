"""Test that docs/threads-and-processes.md is true: its programs and commands are run in order, and print what the guide
shows.

A reader saves each Python block under the name in its first line, types what follows a "$" and compares the rest; this
does the same in a directory of its own. A command with "# NAME terminal" runs on in a terminal of that name; a later
one there stops it with Ctrl-C. Comments that a reader does not see say what cannot be compared:

    <!-- numbers vary -->    <!-- order varies -->    <!-- numbers vary, order varies -->

The site of the guide listens on port 8000; here it is a free one.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from helpers import eventually, program_path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/threads-and-processes.md"
BLOCK = re.compile(r"^(?:<!-- ([^>\n]*) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKS = ("", "numbers vary", "order varies", "numbers vary, order varies")
TERMINAL = re.compile(r"(.*?) +# (\w+) terminal")
TIMEOUT = 120.0  # seconds for one command; the slowest takes about 4
NOT_OURS = ("JOBQ_URL", "REDIS_URL", "RQ_REDIS_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")

# What the text claims about output whose numbers vary.
CLAIMS: dict[str, Callable[[list[int]], bool]] = {
    "python race.py": lambda numbers: numbers[1] < numbers[0] and numbers[3] == numbers[2],
}


@dataclass(frozen=True)
class Block:
    """A fenced block, the comment above it, and its place in the guide."""

    mark: str
    language: str
    text: str
    line: int

    def steps(self) -> Iterator[tuple[str, str]]:
        """Yield each command of a console block, with the output that the guide shows."""
        for step in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = step.partition("\n")
            yield command, output


def blocks() -> list[Block]:
    guide = GUIDE.read_text()
    return [Block(m[1] or "", m[2], m[3], guide.count("\n", 0, m.start(2)) + 1) for m in BLOCK.finditer(guide)]


def test_the_guide_has_only_blocks_that_are_run() -> None:
    found = blocks()
    assert len(found) == GUIDE.read_text().count("\n```") // 2
    for block in found:
        where = f"line {block.line}: {block.text}"
        if block.language == "python":
            assert re.match(r"# \w+\.py\n", block.text), where
            assert block.mark == "", where
        else:
            assert block.language == "console", where
            assert block.text.startswith("$ "), where
            assert block.mark in MARKS, where


@pytest.mark.timeout(400)
def test_the_guide_runs() -> None:
    with reader() as at_work:
        for block in blocks():
            if block.language == "python":
                at_work.save(block.text)
                continue
            for command, shown in block.steps():
                printed = at_work.type(command)
                assert told(printed, block.mark) == told(at_work.here(shown), block.mark), (
                    f"line {block.line}: {command}\n{printed}"
                )


def told(output: str, mark: str) -> str:
    """Reduce an output to the part that can be compared."""
    anyorder = "order" in mark  # one thread's words can be printed between those of another's line
    if "numbers" in mark:
        output = re.sub(r"\b[0-9a-f]{32}\b|\d+([.,]\d+)*", "" if anyorder else "N", output)
    if anyorder:
        return "".join(sorted("".join(output.split())))
    return re.sub(r" +", " ", output) if mark else output


# -- the reader --------------------------------------------------------------------------------------------------------


class Reader:
    """A reader of the guide, with an empty directory and several terminals."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._port = free_port()
        self._env = environment(directory)
        self._terminals: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, text: str) -> str:
        return text.replace("localhost:8000", f"localhost:{self._port}").replace("port 8000", f"port {self._port}")

    def save(self, program: str) -> None:
        name = program.partition("\n")[0].removeprefix("# ")
        (self.directory / "here" / name).write_text(self.here(program))

    def type(self, command: str) -> str:
        """Run a command of the guide; return its output, or nothing if it keeps running in another terminal."""
        if elsewhere := TERMINAL.fullmatch(command):
            self.start(elsewhere[2], elsewhere[1])
            return ""
        printed = self.run(command)
        claim = CLAIMS.get(command)
        assert claim is None or claim([int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", printed)]), printed
        return printed

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", self.here(command)],
            env=self._env,
            cwd=self.directory / "here",
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "Warning" not in done.stderr, f"{command}\n{done.stderr}"
        return done.stdout

    def start(self, terminal: str, command: str) -> None:
        """Start a command that keeps running, in a terminal where the last one was stopped; wait for its first
        output."""
        self.stop(terminal)
        log = self.directory / f"{terminal}.log"
        with open(log, "wb") as out:
            self._terminals[terminal] = subprocess.Popen(
                ["bash", "-c", f"exec {self.here(command)}"],
                env=self._env,
                cwd=self.directory / "here",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        eventually(lambda: log.stat().st_size or self._terminals[terminal].poll() is not None, TIMEOUT)
        assert self._terminals[terminal].poll() is None, log.read_text()

    def stop(self, terminal: str) -> None:
        """Send Ctrl-C."""
        if (process := self._terminals.pop(terminal, None)) is not None:
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(TIMEOUT) == 0, (self.directory / f"{terminal}.log").read_text()
            finally:
                process.kill()
                process.wait()

    def leave(self) -> None:
        """Stop all commands; no process may be left."""
        with ExitStack() as stack:
            for terminal in list(self._terminals):
                stack.callback(self.stop, terminal)
        eventually(lambda: not self.left(), 30)

    def left(self) -> list[psutil.Process]:
        """Return the living processes that know this reader's directory: all that the guide started."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            # the store's server writes its title over its environment; the title names the socket
            names = [*process.cmdline(), process.environ().get("JOBQ_HOME", "")]
            return any(str(self.directory) in name for name in names) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@contextmanager
def reader() -> Iterator[Reader]:
    """Give a directory with a short name (a unix socket's path is limited); end the processes that were started in
    it."""
    directory = Path(tempfile.mkdtemp(prefix="jobq-guide-"))
    (directory / "here").mkdir()
    someone = Reader(directory)
    try:
        yield someone
        someone.leave()
    finally:
        for process in someone.left():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        shutil.rmtree(directory, ignore_errors=True)


def environment(directory: Path) -> dict[str, str]:
    """``python`` and ``jobq`` are those under test; the store is the reader's own."""
    commands = directory / "bin"
    commands.mkdir()
    for name, arguments in (("python", ""), ("jobq", "-m jobqueue.cli ")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        (commands / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    own = {"JOBQ_HOME": str(directory / "home"), "PYTHONPATH": program_path(ROOT), "PYTHONUTF8": "1"}
    return {**kept, **own, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}


def free_port() -> int:
    """Return a port that the kernel does not give to other programs: below those that it gives out by itself."""
    while True:
        try:
            with socket.create_server(("127.0.0.1", random.SystemRandom().randrange(10_000, 32_000))) as server:
                return int(server.getsockname()[1])
        except OSError:  # it is in use
            continue
