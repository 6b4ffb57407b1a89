"""Jobs that fork, start programs, print, and register handlers for the end of their process."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

from samples import nap, note, sleep_in_c

print("the module is imported", end="")  # without a newline: it stays in the buffer


# -- forks and returns twice -----------------------------------------------------------------------------------------


def fork_and(how: str) -> int:
    """Return the copy's pid; the copy ends as told."""
    if pid := os.fork():
        return pid
    if how == "exit":
        sys.exit(0)
    if how == "raise":
        raise ValueError("only in the copy")
    return 0


async def fork_in_a_coroutine(how: str) -> int:
    await asyncio.sleep(0)
    pid = fork_and(how)
    await asyncio.sleep(0.01)  # the original's loop still works
    return pid


def fork_and_wait(how: str) -> int:
    """Return the copy's exit code."""
    pid = fork_and(how)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0


def fork_in_success(job: Any, connection: Any, result: Any) -> None:
    """(callback)"""
    note(result, f"copy {fork_and('return')}")


def fork_in_failure(job: Any, connection: Any, *error: Any) -> None:
    """(callback, exception handler)"""
    note(job.args[0], f"copy {fork_and('exit')}")


def fail_with(record: str) -> None:
    raise ValueError(record)


# -- what a process prints and does at its end ------------------------------------------------------------------------


def say(text: str) -> None:
    print(text)


def at_exit(record: str, text: str) -> None:
    atexit.register(note, record, text)


# -- asyncio ---------------------------------------------------------------------------------------------------------


def current_loop() -> str:
    """Return the loop that a job in the main thread gets: one as in a program that has used none yet."""
    loop = asyncio.get_event_loop()
    answer = loop.run_until_complete(asyncio.sleep(0, "a loop"))
    loop.close()
    return answer


def run_a_loop() -> str:
    return asyncio.run(asyncio.sleep(0, "ran"))


# -- starts programs -------------------------------------------------------------------------------------------------

PROGRAMS = {
    "a program": ["sleep", "600"],
    "a shell's": ["sh", "-c", "sleep 600 & sleep 600"],
    "a session's": ["setsid", "sleep", "600"],
    "a daemon": ["sh", "-c", "setsid sleep 600 & exit 0"],
}


def start_programs(record: str) -> None:
    """Start all kinds of background programs that a job can start, and note their pids."""
    for how, command in PROGRAMS.items():
        note(record, f"{subprocess.Popen(command).pid} {how}")
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    note(record, f"{child.pid} multiprocessing")
    _daemonise(record)


def _daemonise(record: str) -> None:
    """Become a daemon: two forks, and a session of its own."""
    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    os.setsid()
    if not (pid := os.fork()):
        time.sleep(600)
    note(record, f"{pid} a forked daemon")
    os._exit(0)


def start_programs_and(record: str, how: str) -> None:
    start_programs(record)
    if how == "sleep":
        nap(600)
    elif how == "wait for one":
        subprocess.run(PROGRAMS["a program"], check=False)
    elif how == "hold on":
        sleep_in_c(600)
    elif how == "die":
        os.kill(os.getpid(), signal.SIGKILL)


@cache
def kept_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, multiprocessing.get_context("fork"))


def use_a_pool(busy_for: float) -> list[int]:
    """Return the pids of a pool that the module keeps, with work left for this number of seconds."""
    pool = kept_pool()
    pool.submit(os.getpid).result()
    if busy_for:
        pool.submit(time.sleep, busy_for)
    return list(pool._processes)


def run_program(record: str, *command: str) -> int:
    """Run a program; return its exit code."""
    note(record, "start")
    code = subprocess.run(command, check=False).returncode
    note(record, "end")
    return code


def signal_own_group(number: int) -> str:
    os.killpg(0, number)
    return "still there"


def read_terminal() -> str:
    try:
        with open("/dev/tty") as terminal:
            return terminal.readline()
    except OSError as e:
        return f"no terminal: {e.strerror}"


def start_a_program_and_hang(job: Any, connection: Any, result: Any) -> None:
    """(callback)"""
    note(result, f"{subprocess.Popen(PROGRAMS['a program']).pid} a program")
    nap(600)
