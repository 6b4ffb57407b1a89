"""A stop does not wait for a child that runs no job, whatever its earlier jobs have left running in it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from conftest import Start
from helpers import eventually

from jobqueue.producing.queue import Queue

CODE = """
import logging, os, signal, threading, time

def hang(*_):
    open("hangs", "w").close()
    time.sleep(3600)

def hanging_handler():  # it is called when the job has ended
    signal.signal(signal.SIGUSR1, hang)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()

def locks_of_logging():
    logging._lock.acquire()
    open("hangs", "w").close()
"""


@pytest.mark.parametrize(("mode", "what"), [("process", "hanging_handler"), ("thread", "locks_of_logging")])
def test_a_stop_does_not_wait_for_an_idle_child(
    start: Start, queue: Queue, tmp_path: Path, mode: str, what: str
) -> None:
    (tmp_path / "served.py").write_text(CODE)
    tree = start("-n", "2" if mode == "thread" else "1", "--grace", "120", mode=mode, serve=("served",))
    queue.enqueue(f"served.{what}").result(timeout=30)
    eventually((tmp_path / "hangs").exists)
    tree.send(signal.SIGTERM)
    assert tree.wait(25) == 0
