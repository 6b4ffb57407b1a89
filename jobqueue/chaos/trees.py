"""The worker trees of a storm, seen from outside: supervisor ─► fork server ─► children, by their pids.

Only processes below a supervisor that was started here are ever killed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from jobqueue.executor.worker_process import WorkerProcess, last_line
from jobqueue.harness.processes import GRACE, kill, leftovers

TASKS = "jobqueue.chaos.task"
# what the processes of a worker are started with; the store's server may have inherited its JOBQ_HOME and is not meant
OURS = frozenset({"jobqueue.cli", "jobqueue.workers.forking.forkserver", "jobqueue.workers.forking.spawned"})
CONSUMERS = {"thread": 4, "process": 2}  # of one tree
CHILDREN = {"thread": 1, "process": 2}


def children_of(pid: int) -> list[int]:
    """Return the pids of the living and not yet reaped children of a process; empty when it is gone.

    From /proc where the kernel lists them there: psutil reads the whole process table, too slow to do every 2 ms.
    """
    try:
        listed = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it, or one of its threads, ended meanwhile
        listed = []
    if listed:
        return [int(child) for text in listed for child in text.split()]
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def await_death(pid: int, timeout: float = 5.0) -> None:
    """Wait until a killed process runs no more; it may be somebody else's to collect."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.002)


class Tree:
    """One ``jobq worker``: kills in it, and how long each took to be made good."""

    def __init__(self, worker: WorkerProcess, width: int) -> None:
        self.worker = worker  # started
        self.width = width  # how many children it has when it is whole
        self.was_whole = False
        self._killed: set[int] = set()
        self._known: set[int] = set()
        self._waiting: deque[float] = deque()  # when children were killed that nobody has replaced yet

    @property
    def pid(self) -> int:
        return self.worker.pid

    @property
    def is_recovering(self) -> bool:
        return bool(self._waiting)

    def look(self) -> list[float]:
        """See who came; return for how long (seconds) each of the newcomers had been missed."""
        now, present = time.monotonic(), set(self._children())
        new = present - self._known
        self._known = present
        self.was_whole = self.was_whole or len(self.victims()) >= self.width
        return [now - self._waiting.popleft() for _ in range(min(len(new), len(self._waiting)))]

    def _children(self) -> list[int]:
        return [child for below in children_of(self.pid) for child in children_of(below)]

    def victims(self) -> list[int]:
        """The children that live, as far as the last look knows."""
        return sorted(self._known - self._killed)

    def fork_server(self) -> int | None:
        return next((below for below in children_of(self.pid) if children_of(below)), None)

    def kill_child(self, pid: int, measure: bool) -> bool:
        began = time.monotonic()
        self._killed.add(pid)
        done = kill(pid)
        if done and measure:
            self._waiting.append(began)
        return done

    def kill_fork_server(self) -> bool:
        """All children die with it: what was still being measured says nothing any more."""
        pid = self.fork_server()
        self.forget()
        return pid is not None and kill(pid)

    def forget(self) -> None:
        """Measure nothing of what is not yet made good."""
        self._waiting.clear()


class Forest:
    """The trees of one mode, all serving the same queues; one that ends is replaced."""

    SIZE = 2

    def __init__(self, mode: str, queues: Sequence[str], on_crash: str, env: Mapping[str, str], log: Path) -> None:
        self.trees: list[Tree] = []
        self._home = env["JOBQ_HOME"]
        self.log = log
        self._plant: Callable[[], Tree] = lambda: Tree(self._worker(mode, queues, on_crash, env), CHILDREN[mode])

    def _worker(self, mode: str, queues: Sequence[str], on_crash: str, env: Mapping[str, str]) -> WorkerProcess:
        return WorkerProcess(
            queues,
            mode=mode,
            number=CONSUMERS[mode],
            modules=[TASKS],
            flags=["--no-scheduler", "--on-crash", on_crash],
            env=env,
            log=self.log,
            grace=GRACE,
            directory=self.log.parent,
        ).start()

    def __enter__(self) -> Forest:
        try:
            for _ in range(self.SIZE):
                self.trees.append(self._plant())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for tree in self.trees:
            if tree.worker.alive and tree.was_whole:
                tree.worker.terminate()  # all at once; then one after the other is seen out
            else:  # perhaps it has only just registered: nobody has noted its name, and it must not leave the lists
                tree.worker.kill()
        for tree in self.trees:
            tree.worker.stop()
        for pid in leftovers(self._home, OURS):
            kill(pid)

    def replace(self, tree: Tree) -> None:
        """Start a new one in the place of one that ended, or whose supervisor is killed now."""
        tree.worker.crash()
        self.trees[self.trees.index(tree)] = self._plant()

    def whole(self) -> bool:
        for tree in self.trees:
            tree.look()
        return all(tree.was_whole for tree in self.trees)

    def last_words(self) -> str:
        return last_line(self.log)
