"""A served module takes SIGCHLD, or another means to notice deaths, from the fork server: each death is noticed all the
same."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import eventually, failed

from jobqueue.producing.queue import Queue

BLOCKED = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
HOOK = f"import os, signal\nos.register_at_fork(after_in_parent=lambda: {BLOCKED.splitlines()[1]})\n"
SPAWNED = f"{BLOCKED}import os\nkept = os.pipe()\n"
IGNORED = """
import ctypes, signal, threading, time

def ignore():  # past Python, again and again: the kernel collects the dead, and nobody hears of them
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    while True:
        libc.signal(signal.SIGCHLD, 1)
        time.sleep(0.01)

threading.Thread(target=ignore, daemon=True).start()
"""
JOBS = """
def die():
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)

def doze():
    import time
    time.sleep(60)

def double(n):
    return 2 * n
"""


@pytest.mark.parametrize(
    ("mode", "code"),
    [("process", BLOCKED), ("thread", BLOCKED), ("process", HOOK), ("process", SPAWNED)],
    ids=["at import", "at import, threads", "at a fork", "in spawned children"],
)
def test_deaths_are_noticed_although_a_module_blocks_signals(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path, code: str
) -> None:
    (tmp_path / "served.py").write_text(code + JOBS)
    tree = start("-n", "1", "--on-crash", "fail", mode=mode, serve=("served",))
    died, limited = queue.enqueue("served.die"), queue.enqueue("served.doze", job_timeout=1)
    assert queue.enqueue("served.double", 2).result(timeout=30) == 4
    assert "ChildKilled" in failed(store, died.id)
    assert "TimeLimitExceeded" in (text := failed(store, limited.id))
    assert "did not react" not in text or mode == "thread"  # where no signal can interrupt a sleep
    assert tree.stop(20) == 0
    assert "fork server" not in tree.log


def test_a_fork_server_that_notices_no_death_is_replaced(start: Start, queue: Queue, tmp_path: Path) -> None:
    """The fork server is replaced, and a stop ends."""
    (tmp_path / "served.py").write_text(IGNORED + JOBS)
    tree = start("-n", "1", serve=("served",))
    assert queue.enqueue("served.double", 2).result(timeout=30) == 4
    eventually(tree.children)[0].send_signal(signal.SIGKILL)
    assert queue.enqueue("served.double", 3).result(timeout=40) == 6
    assert "does not say that a child has died" in tree.log
    assert tree.stop(25) == 0
