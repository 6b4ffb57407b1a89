"""Jobs that print and log, for the tests of --capture."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time

log = logging.getLogger("shop")


def talk(name: str, pause: float = 0.0) -> str:
    """Print and log, in both streams, in a thread, and by a program."""
    for number in range(3):
        print(f"{name} prints {number}")
        time.sleep(pause)
    print(f"{name} on stderr", file=sys.stderr)
    log.warning("%s logs", name)
    thread = threading.Thread(target=print, args=(f"{name} in a thread",))
    thread.start()
    thread.join()
    subprocess.run(["echo", f"{name} by a program"], check=True)
    return name


def flood(lines: int) -> None:
    for number in range(lines):
        print(f"line {number}")


def talk_and_fail(name: str) -> None:
    print(f"{name} tries")
    raise ValueError(f"{name} fails")


def talk_and_wait(gate: str) -> None:
    """Print, wait until the file ``gate`` is there, and print again."""
    print("it begins")
    _await(gate)
    print("it goes on")


def talk_and_die(gate: str) -> None:
    """Print, wait until the file ``gate`` is there, and kill this process."""
    print("its last words")
    _await(gate)
    os.kill(os.getpid(), signal.SIGKILL)


def _await(gate: str) -> None:
    deadline = time.monotonic() + 60
    while not os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(0.02)
