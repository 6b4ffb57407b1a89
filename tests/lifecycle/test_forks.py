"""Forked children have different random numbers, share no connection, and do not wait for threads that a fork loses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import rq
from helpers import Server, Tree, eventually, is_spawned

from jobqueue import Queue

Start = Callable[..., Tree]

NUMPY = """
import os
state = None
def seed(value=None):
    global state
    state = value if value is not None else int.from_bytes(os.urandom(8), "big")
def rand():
    seed(state * 6364136223846793005 % 2**64 + 1)
    return state
"""
DRAWING = """
import os, random, time
import numpy.random
random.seed(42)
numpy.random.seed(42)
own = random.Random(42)
cured = random.Random(42)
os.register_at_fork(after_in_child=cured.seed)
class Dice:
    thrown = random.Random(42).random  # nobody holds the generator but its method

def draw(end=""):
    drawn = [os.getpid(), random.random(), numpy.random.rand(), own.random()]
    if end:
        os.kill(os.getpid(), 9)
    return drawn
def draw_and_wait(barrier):
    drawn = draw()
    while not os.path.exists(barrier):
        time.sleep(0.01)
    return drawn
"""


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    """A module that seeds every generator, and a package with numpy's names and some of its functions."""
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").touch()
    (tmp_path / "numpy/random.py").write_text(NUMPY)
    (tmp_path / "drawing.py").write_text(DRAWING)
    return tmp_path


def all_differ(drawn: list[list[float]]) -> bool:
    """Assert that no two children got the same number from a global generator."""
    return all(len({one[which] for one in drawn}) == len(drawn) for which in (0, 1, 2))


def test_children_draw_different_numbers(start: Start, queue: Queue, drawing: Path) -> None:
    """Children that replace dead ones draw others too. A module with its own generator gets a warning that all children
    draw the same."""
    tree = start("-n", "3", serve=("drawing",))
    jobs = [queue.enqueue("drawing.draw_and_wait", str(drawing / "barrier")) for _ in range(3)]
    eventually(lambda: all(job.get_status(refresh=True) == "started" for job in jobs))
    (drawing / "barrier").touch()
    drawn = [job.result(30) for job in jobs]
    old = {process.pid for process in tree.children()}
    for process in tree.children():
        process.kill()
    eventually(lambda: len({p.pid for p in tree.children()} - old) == 3)
    (drawing / "barrier").unlink()
    jobs = [queue.enqueue("drawing.draw_and_wait", str(drawing / "barrier")) for _ in range(3)]
    eventually(lambda: all(job.get_status(refresh=True) == "started" for job in jobs))
    (drawing / "barrier").touch()
    drawn += [job.result(30) for job in jobs]
    assert all_differ(drawn), drawn
    assert len({one[3] for one in drawn}) == 1
    assert "drawing.own, drawing.Dice.thrown: these generators give every child the same random numbers" in tree.log
    assert "cured" not in tree.log
    assert tree.log.count("the same random numbers") == 1


def test_spawned_children_draw_different_numbers(start: Start, queue: Queue, drawing: Path) -> None:
    with open(drawing / "drawing.py", "a") as module:
        module.write("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n")
    tree = start("-n", "2", serve=("drawing",))
    jobs = [queue.enqueue("drawing.draw_and_wait", str(drawing / "barrier")) for _ in range(2)]
    eventually(lambda: all(job.get_status(refresh=True) == "started" for job in jobs))
    (drawing / "barrier").touch()
    assert all_differ([job.result(30) for job in jobs])
    assert "importing the served modules started threads: " in tree.log


def test_a_module_that_a_job_imports_draws_different_numbers(start: Start, queue: Queue, drawing: Path) -> None:
    """The module seeds when its first job runs, in each child."""
    start("-n", "2", "--allow-any", serve=())
    jobs = [queue.enqueue("drawing.draw_and_wait", str(drawing / "barrier")) for _ in range(2)]
    eventually(lambda: all(job.get_status(refresh=True) == "started" for job in jobs))
    (drawing / "barrier").touch()
    assert all_differ([job.result(30) for job in jobs])


def test_the_horses_of_rqs_worker_class_draw_different_numbers(
    server: Server, store: redis.Redis, drawing: Path
) -> None:
    """Each horse imports the module, which seeds; the second horse replaces the first, which dies."""
    queue = rq.Queue(connection=store)
    jobs = [queue.enqueue("drawing.draw"), queue.enqueue("drawing.draw", "dies"), queue.enqueue("drawing.draw")]
    argv = ["--url", server.url, "--worker-class", "jobqueue.rq.Worker", "--burst"]
    tree = Tree(server.url, drawing, argv, {}, command=("rq.cli", "worker"))
    try:
        tree.wait()
    finally:
        tree.destroy()
    assert all_differ([job.return_value(refresh=True) for job in (jobs[0], jobs[2])])


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """A server on this loopback port that answers each line with the line itself."""

    def serve(peer: socket.socket) -> None:
        with peer, peer.makefile("rwb", buffering=0) as lines:
            for line in lines:
                lines.write(line)

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[peer], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_a_connection_is_not_shared(start: Start, mode: str, queue: Queue, tmp_path: Path, echo: int) -> None:
    """A connection that is opened at import: each job gets the answer to its own request."""
    (tmp_path / "asking.py").write_text(
        "import socket, threading\n"
        f"link = socket.create_connection(('127.0.0.1', {echo}))\n"
        "lines, lock = link.makefile('rwb', buffering=0), threading.Lock()\n"
        "def ask(what):\n"
        "    with lock:\n"
        "        lines.write(what.encode() + b'\\n')\n"
        "        return lines.readline().decode().strip()\n"
    )
    tree = start("-n", "3", mode=mode, serve=("asking",))
    questions = [f"question {n}" for n in range(300)]
    assert list(queue.map("asking.ask", questions, timeout=30)) == questions
    assert f"left open a connection to 127.0.0.1:{echo} (asking.link)" in tree.log


def test_rqs_worker_class_warns_of_a_shared_connection(
    server: Server, store: redis.Redis, tmp_path: Path, echo: int
) -> None:
    """The horse is forked from the program, as RQ's is, as it needs the program's objects."""
    (tmp_path / "program.py").write_text(
        "import os, redis, rq, socket\nfrom jobqueue.rq import Worker\n"
        f"link = socket.create_connection(('127.0.0.1', {echo}))\n"
        "store = redis.Redis.from_url(os.environ['JOBQ_URL'])\n"
        "store.ping()\n"
        "Worker([rq.Queue(connection=store)], connection=store).work(burst=True)\n"
    )
    tree = Tree(server.url, tmp_path, [], {}, command=("program",))
    try:
        assert tree.wait() == 0
    finally:
        tree.destroy()
    assert f"open in this process and shared with its work horse: a connection to 127.0.0.1:{echo}. " in tree.log


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; it = os.pipe()", "a pipe (2 times)"),
        ("import select; it = select.epoll()", "an event loop's epoll (opening.it)"),
        ("import socket; it = socket.socketpair()", "one of a pair of sockets (2 times)"),
        ("import socket; it = socket.socket(type=socket.SOCK_DGRAM)", "a socket for datagrams (opening.it)"),
        ("import sqlite3; it = sqlite3.connect('own.db'); it.execute('create table if not exists t (n)')", "the file "),
        ("it = open(__file__)", "opening.py (opening.it)"),
        (
            "import subprocess; it = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)",
            "a pipe (2 times)",
        ),
        ("import _thread, time; _thread.start_new_thread(time.sleep, (1000,))", "started threads of native code"),
    ],
    ids=["pipe", "epoll", "socketpair", "datagrams", "sqlite", "file", "program", "native thread"],
)
def test_connections_and_generators_that_cannot_be_shared_are_named(
    start: Start, queue: Queue, tmp_path: Path, code: str, said: str
) -> None:
    (tmp_path / "opening.py").write_text(f"import os\n{code}\ndef pid():\n    return os.getpid()\n")
    tree = start("-n", "1", serve=("opening",))
    pid = queue.enqueue("opening.pid").result(30)
    assert said in tree.log
    assert is_spawned(pid)


@pytest.mark.parametrize(
    "code",
    [
        "import socket; it = socket.create_server(('127.0.0.1', 0))",
        "it = open('own.log', 'a')",
        "import logging.handlers; it = logging.handlers.SysLogHandler(('127.0.0.1', 9))",
        "import os; it = os.dup(2)",
        "import os; it = open(os.devnull, 'r+')",
        "import mmap; f = open(__file__); it = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()",
        "import threading; it = threading.Thread(target=print); it.start(); it.join()",
        "import redis, os; it = redis.Redis.from_url(os.environ['JOBQ_URL']); it.ping()",
        "import jobqueue; it = jobqueue.Queue(); it.count",
    ],
    ids=["listener", "log file", "syslog", "stderr", "null", "mapped file", "ended thread", "redis pool", "queue"],
)
def test_descriptors_that_can_be_shared_are_not_named(start: Start, queue: Queue, tmp_path: Path, code: str) -> None:
    (tmp_path / "opening.py").write_text(f"import os\n{code}\ndef pid():\n    return os.getpid()\n")
    tree = start("-n", "1", serve=("opening",))
    pid = queue.enqueue("opening.pid").result(30)
    assert "importing the served modules" not in tree.log
    assert not is_spawned(pid)


def test_a_job_that_waits_for_a_native_thread(start: Start, queue: Queue, tmp_path: Path) -> None:
    """A thread that native code starts at import, unknown to Python's threading. A fork would lose it: the job would
    wait for ever."""
    (tmp_path / "pool.py").write_text(
        "import _thread, queue\n"
        "asked, answered = queue.SimpleQueue(), queue.SimpleQueue()\n"
        "def serve():\n"
        "    while True:\n"
        "        answered.put(asked.get() ** 2)\n"
        "_thread.start_new_thread(serve, ())\n"
        "def square(n):\n    asked.put(n)\n    return answered.get()\n"
    )
    start("-n", "2", serve=("pool",))
    assert queue.enqueue("pool.square", 4, job_timeout=20).result(30) == 16
