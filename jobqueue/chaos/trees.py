"""Watch the worker trees of a storm from outside, supervisor ─► fork server ─► children, and kill them by their pids.

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
# Arguments of a worker's processes. The store's server may have inherited their JOBQ_HOME, and is not one of them.
OURS = frozenset({"jobqueue.cli", "jobqueue.workers.forking.forkserver", "jobqueue.workers.forking.spawned"})
CONSUMERS = {"thread": 4, "process": 2}  # of one tree
CHILDREN = {"thread": 1, "process": 2}


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children that live or are not yet reaped; an empty list when it is gone.

    Read from /proc where the kernel lists them there: psutil reads the whole process table, too slow to do every 2 ms.
    """
    try:
        listed = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # the process, or one of its threads, ended meanwhile
        listed = []
    if listed:
        return [int(child) for text in listed for child in text.split()]
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def await_death(pid: int, timeout: float = 5.0) -> None:
    """Wait until a killed process runs no more. Its parent, which reaps it, may be another process."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.002)


class Tree:
    """One ``jobq worker``: kills in it, and how long it took to replace what was killed."""

    def __init__(self, worker: WorkerProcess, width: int) -> None:
        self.worker = worker  # started
        self.width = width  # how many children it has when all are there
        self.was_whole = False
        self._killed: set[int] = set()
        self._known: set[int] = set()
        self._waiting: deque[float] = deque()  # when children were killed that are not replaced yet

    @property
    def pid(self) -> int:
        return self.worker.pid

    @property
    def is_recovering(self) -> bool:
        return bool(self._waiting)

    def look(self) -> list[float]:
        """Find the children that are new since the last call; return for each the seconds that its predecessor was
        missing."""
        now, present = time.monotonic(), set(self._children())
        new = present - self._known
        self._known = present
        self.was_whole = self.was_whole or len(self.victims()) >= self.width
        return [now - self._waiting.popleft() for _ in range(min(len(new), len(self._waiting)))]

    def _children(self) -> list[int]:
        return [child for below in children_of(self.pid) for child in children_of(below)]

    def victims(self) -> list[int]:
        """Return the children that were alive at the last ``look`` and have not been killed since."""
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
        """Kill the fork server. All children die with it, so the recoveries under way are not measured."""
        pid = self.fork_server()
        self.forget()
        return pid is not None and kill(pid)

    def forget(self) -> None:
        """Stop measuring the recoveries under way."""
        self._waiting.clear()


class Forest:
    """The trees of one mode, all on the same queues; a tree that ends is replaced."""

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
                tree.worker.terminate()  # all at once; below, wait for one after the other
            else:  # it may have just registered, before its name was noted: it must not take itself off the lists
                tree.worker.kill()
        for tree in self.trees:
            tree.worker.stop()
        for pid in leftovers(self._home, OURS):
            kill(pid)

    def replace(self, tree: Tree) -> None:
        """Kill the supervisor of a tree, if it still lives, and start a new tree in its place."""
        tree.worker.crash()
        self.trees[self.trees.index(tree)] = self._plant()

    def whole(self) -> bool:
        for tree in self.trees:
            tree.look()
        return all(tree.was_whole for tree in self.trees)

    def last_words(self) -> str:
        return last_line(self.log)
