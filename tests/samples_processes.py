"""Jobs that fork, start programs, print, and leave things for the end of their process."""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
from typing import Any

from samples import note

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
    """A job in the main thread gets a loop as in a program that has used none yet."""
    loop = asyncio.get_event_loop()
    answer = loop.run_until_complete(asyncio.sleep(0, "a loop"))
    loop.close()
    return answer


def run_a_loop() -> str:
    return asyncio.run(asyncio.sleep(0, "ran"))
