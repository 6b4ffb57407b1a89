"""What programs print that jobs start is kept for the right job, and written on."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

import pytest
from helpers import eventually

from jobqueue.plugins import program_output
from jobqueue.plugins.job_output import CATCH_UP_EVERY, JobOutput, current
from jobqueue.plugins.program_output import ProgramOutput

T = TypeVar("T")


@pytest.fixture
def programs() -> Iterator[ProgramOutput]:
    programs = ProgramOutput()
    with programs.followed():
        yield programs


def run(output: JobOutput, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call the function as the job whose output this is."""

    def call() -> T:
        current.set(output)
        return function(*args, **kwargs)

    return Context().run(call)


def text(output: JobOutput) -> str:
    if output.catch_up is not None:
        output.catch_up(output)
    found = output.fields()["text"]
    assert isinstance(found, bytes)
    return found.decode()


def sh(script: str, **kwargs: Any) -> Any:
    return subprocess.run(["sh", "-c", script], check=True, timeout=20, **kwargs)


def test_stdout_and_stderr_are_kept_and_written_on(capfd: pytest.CaptureFixture[str]) -> None:
    output = JobOutput(1000)
    with ProgramOutput().followed():
        run(output, sh, "echo out; echo err >&2")
        sh("echo of no job")
        assert sorted(text(output).split()) == ["err", "out"]
    found = capfd.readouterr()
    assert (sorted(found.out.splitlines()), found.err) == (["of no job", "out"], "err\n")


@pytest.mark.usefixtures("programs")
def test_it_stands_between_what_the_job_itself_writes() -> None:
    output = JobOutput(1000)

    def job() -> None:
        for number in range(20):
            sh(f"echo program {number}")
            time.sleep(CATCH_UP_EVERY)
            output.add(f"job {number}\n")

    run(output, job)
    assert text(output) == "".join(f"program {n}\njob {n}\n" for n in range(20))


@pytest.mark.usefixtures("programs")
def test_jobs_side_by_side_are_kept_apart() -> None:
    outputs = [JobOutput(1000) for _ in range(8)]
    script = "for i in 1 2 3; do echo $0 $i; done"
    threads = [
        threading.Thread(target=run, args=(output, subprocess.call, ["sh", "-c", script, f"job{n}"]))
        for n, output in enumerate(outputs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [text(output) for output in outputs] == [f"job{n} 1\njob{n} 2\njob{n} 3\n" for n in range(8)]


@pytest.mark.usefixtures("programs")
def test_a_coroutines_program_is_kept_too() -> None:
    async def job() -> None:
        program = await asyncio.create_subprocess_exec("echo", "from a coroutine")
        await program.wait()

    output = JobOutput(1000)
    run(output, asyncio.run, job())
    assert text(output) == "from a coroutine\n"


@pytest.mark.usefixtures("programs")
def test_what_the_job_reads_or_sends_elsewhere_is_left_alone(tmp_path: Path) -> None:
    output, nowhere, pipe = JobOutput(1000), subprocess.DEVNULL, subprocess.PIPE
    assert run(output, subprocess.check_output, ["echo", "read"]) == b"read\n"
    assert run(output, sh, "echo both; echo too >&2", stdout=pipe, stderr=subprocess.STDOUT).stdout == b"both\ntoo\n"
    with open(tmp_path / "file", "wb") as file:
        run(output, sh, "echo file", stdout=file)
    run(output, sh, "echo gone >&2", stderr=nowhere)
    assert (tmp_path / "file").read_bytes() == b"file\n"
    assert text(output) == ""
    run(output, sh, "echo kept; echo gone >&2", stderr=nowhere)
    run(output, sh, "echo kept >&2; echo gone", stdout=nowhere)
    run(output, sh, "echo kept; echo kept too >&2", stderr=subprocess.STDOUT)
    assert text(output) == "kept\nkept\nkept\nkept too\n"


@pytest.mark.usefixtures("programs")
def test_arguments_by_their_places() -> None:
    output = JobOutput(1000)
    for given in ((), (-1, None, None, None, None), (-1, None, None, subprocess.DEVNULL), (-1, None, None, None)):
        with run(output, subprocess.Popen, ["sh", "-c", "echo out; echo err >&2"], *given) as program:
            program.wait(20)
    assert sorted(text(output).split()) == ["err"] * 4 + ["out"] * 3


@pytest.mark.usefixtures("programs")
def test_a_program_that_is_not_there_leaves_nothing_open() -> None:
    before = len(os.listdir("/dev/fd"))
    output = JobOutput(1000)
    with pytest.raises(FileNotFoundError):
        run(output, subprocess.run, ["no-such-program"])
    assert text(output) == ""
    eventually(lambda: len(os.listdir("/dev/fd")) <= before)


@pytest.mark.usefixtures("programs")
def test_much_output_waits_for_nobody() -> None:
    output = JobOutput(1000)
    run(output, sh, "yes | head -c 3000000")
    assert text(output) == "y\n" * 500
    assert output.total == 3_000_000


def test_while_nobody_reads_our_stdout_a_job_waits_once(
    programs: ProgramOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(program_output, "_write", lambda target, data: gate.wait(20))
    monkeypatch.setattr(program_output, "PATIENCE", 0.2)
    output = JobOutput(1000)
    run(output, sh, "echo one")
    began = time.monotonic()
    for _ in range(20):
        text(output)
    assert time.monotonic() - began < 2
    gate.set()
    eventually(lambda: not programs._is_stuck or programs._wake())
    run(output, sh, "echo two")
    assert text(output) == "one\ntwo\n"


@pytest.mark.usefixtures("programs")
def test_a_program_that_outlives_its_job_writes_on_and_is_not_kept(capfd: pytest.CaptureFixture[str]) -> None:
    output = JobOutput(1000)
    with run(output, subprocess.Popen, ["sh", "-c", "echo early; read gate; echo late"], stdin=subprocess.PIPE) as left:
        eventually(lambda: text(output) == "early\n")
        output.end()
        assert left.stdin is not None
        left.stdin.write(b"\n")
        left.stdin.flush()
        left.wait(20)
    said = ""

    def is_there() -> bool:
        nonlocal said
        said += capfd.readouterr().out
        return said == "early\nlate\n"

    eventually(is_there)
    assert text(output) == "early\n"


def test_a_copy_of_the_process_keeps_nothing(programs: ProgramOutput, capfd: pytest.CaptureFixture[str]) -> None:
    """The thread that reads is not in it."""
    programs._pid = -1
    output = JobOutput(1000)
    run(output, sh, "echo plain")
    assert output.catch_up is None
    assert capfd.readouterr().out == "plain\n"
    programs._pid = os.getpid()


def test_popen_is_as_before_afterwards() -> None:
    before = subprocess.Popen.__init__
    with ProgramOutput().followed():
        assert inspect.signature(subprocess.Popen) == inspect.signature(before.__get__(object()))
    assert subprocess.Popen.__init__ is before
