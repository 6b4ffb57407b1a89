"""Jobs that print and log, for the tests of --capture."""

from __future__ import annotations

import logging
import sys
import threading
import time

log = logging.getLogger("shop")


def talk(name: str, pause: float = 0.0) -> str:
    """Print and log, in both streams, and in a thread, which is not kept."""
    for number in range(3):
        print(f"{name} prints {number}")
        time.sleep(pause)
    print(f"{name} on stderr", file=sys.stderr)
    log.warning("%s logs", name)
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    return name


def flood(lines: int) -> None:
    for number in range(lines):
        print(f"line {number}")


def talk_and_fail(name: str) -> None:
    print(f"{name} tries")
    raise ValueError(f"{name} fails")


def talk_and_wait(record: str, seconds: float) -> None:
    print("it begins")
    time.sleep(seconds)
    print("it goes on")


def talk_and_die(seconds: float) -> None:
    import os

    print("its last words")
    time.sleep(seconds)
    os.kill(os.getpid(), 9)
