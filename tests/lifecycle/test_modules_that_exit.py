"""Modules that end the process which imports them: after a few tries the worker ends with one line that names the
cause, and exit code 2."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import Server, Tree, eventually

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

pytestmark = pytest.mark.timeout(180)

ENDS = {
    "os._exit(0)": "exited with status 0",
    "os._exit(5)": "exited with status 5",
    "__import__('ctypes').string_at(0)": "was killed by SIGSEGV",
    "os.kill(os.getpid(), 9)": "was killed by SIGKILL",
    "os.closerange(3, 4096)": "closed its connection to the supervisor",
    "os.abort()": "was killed by SIGABRT",
}


def serve(start: Start, tmp_path: Path, text: str, *flags: str, mode: str = "process") -> Tree:
    (tmp_path / "served_here.py").write_text(f"import os\n{text}\n\ndef f():\n    return 1\n")
    return start("-n", "2", *flags, mode=mode, serve=("served_here",))


def gave_up(tree: Tree) -> str:
    """Return the only line with the cause."""
    assert tree.wait(120) == 2, tree.log  # a fork server that is killed is tried again for 60 s
    assert "Traceback" not in tree.log
    lines = tree.log.strip().splitlines()
    assert lines[-1].startswith("jobq: "), tree.log
    return lines[-1]


@pytest.mark.parametrize("what", ENDS)
def test_an_import_that_ends_the_process(start: Start, store: redis.Redis, tmp_path: Path, what: str) -> None:
    said = gave_up(serve(start, tmp_path, what))
    assert re.search(f"the process that imports them ({ENDS[what]}) while it imported served_here", said), said
    assert not store.smembers(keys.WORKERS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_an_import(start: Start, tmp_path: Path, number: int) -> None:
    """The importing process reacts to nothing before the import has ended, so the stop does not wait for it."""
    tree = serve(start, tmp_path, "import time; open('begun', 'w').close(); time.sleep(4); open('ended', 'w').close()")
    eventually(lambda: (tmp_path / "begun").exists())
    tree.send(number)
    assert tree.wait() == 0
    assert not tree.processes()
    assert not (tmp_path / "ended").exists()


SPAWNED = """
import threading, time
threading.Thread(target=time.sleep, args=[600], daemon=True).start()
if "JOBQ_TEST_SECOND" in os.environ:
    {}
os.environ["JOBQ_TEST_SECOND"] = "1"
"""


@pytest.mark.parametrize("what", ["os._exit(5)", "__import__('ctypes').string_at(0)", "raise ValueError('only here')"])
@pytest.mark.parametrize("how", ["spawned", "forked"])
def test_children_that_end_before_they_are_ready(
    start: Start, store: redis.Redis, tmp_path: Path, what: str, how: str
) -> None:
    """The fork server can import the module; its children end before they can run a job."""
    if how == "spawned":
        text = SPAWNED.format(what)
    else:
        what = what if "raise" not in what else "os._exit(6)"
        text = f"os.register_at_fork(after_in_child=lambda: {what})"
    said = gave_up(serve(start, tmp_path, text))
    assert "No process becomes ready to run jobs: the last one" in said
    if "raise" in what:
        assert "ValueError: only here (" in said
    assert not store.smembers(keys.WORKERS)
    assert not store.exists(keys.OWNERS)


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_children_that_fail_at_their_first_claim(start: Start, mode: str, store: redis.Redis, tmp_path: Path) -> None:
    """The children start, and fail at their first claim."""
    tree = serve(start, tmp_path, "import jobqueue.workers.child.consumer as c\nc.Consumer._send = None", mode=mode)
    assert tree.wait() == 2, tree.log
    last = tree.log.strip().splitlines()[-1]
    assert re.search(r"No process becomes ready to run jobs: the last one \(pid \d+\) exited with status 1", last)
    tree.was_killed = True  # its log shows the exception of each attempt
    assert not store.smembers(keys.WORKERS)
    assert not store.exists(keys.OWNERS)


def test_a_child_that_hangs_at_its_start(start: Start, store: redis.Redis, tmp_path: Path) -> None:
    """The child is named in the log; and a stop does not wait for it."""
    tree = serve(
        start, tmp_path, "import time\nos.register_at_fork(after_in_child=lambda: time.sleep(6000))", "--grace", "600"
    )
    eventually(lambda: "does not run yet: does a served module do something at a fork" in tree.log)
    assert tree.stop() == 0
    assert not store.exists(keys.OWNERS)


def test_a_worker_that_has_children_does_not_give_up(
    start: Start, queue: Queue, tmp_path: Path, server: Server
) -> None:
    """The other children continue, and the missing ones are tried again."""
    flag = tmp_path / "flag"
    text = f"os.register_at_fork(after_in_child=lambda: os._exit(5) if os.path.exists({str(flag)!r}) else None)"
    tree = serve(start, tmp_path, text)
    eventually(lambda: len(tree.children()) == 2)
    job = queue.enqueue("served_here.f")
    assert job.result(30) == 1
    flag.touch()
    first, second = tree.children()
    first.send_signal(signal.SIGKILL)
    eventually(lambda: tree.log.count("exited with status 5") > 5, 60)
    assert queue.enqueue("served_here.f").result(30) == 1
    flag.unlink()
    eventually(lambda: len(tree.children()) == 2 and second in tree.children())


def test_a_fork_server_that_dies_is_started_again(start: Start, mode: str, queue: Queue) -> None:
    tree = start("-n", "2", mode=mode)
    for _ in range(6):
        assert queue.enqueue("samples.ok", 1).result(30) == 1
        eventually(tree.fork_server).kill()  # type: ignore[union-attr]
        eventually(tree.children)
    assert queue.enqueue("samples.ok", 1).result(30) == 1
    assert tree.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("keeps", ["", "import socket; pair = socket.socketpair()"], ids=["forked", "spawned"])
def test_a_module_that_cannot_be_imported_for_a_while(
    start: Start, mode: str, queue: Queue, tmp_path: Path, keeps: str
) -> None:
    """A deploy replaces the file while the worker runs. Children that import for themselves meet that when one of them
    is replaced, others when the fork server is."""
    tree = serve(start, tmp_path, keeps, mode=mode)
    assert queue.enqueue("served_here.f").result(30) == 1
    good = (tmp_path / "served_here.py").read_text()
    (tmp_path / "served_here.py").write_text("import not_there_yet\n")
    for process in tree.children() if keeps else [eventually(tree.fork_server)]:
        process.kill()  # type: ignore[union-attr]
    eventually(lambda: tree.log.count("not_there_yet") > 5, 60)
    (tmp_path / "served_here.py").write_text(good)
    assert queue.enqueue("served_here.f").result(60) == 1
    assert tree.stop() == 0
