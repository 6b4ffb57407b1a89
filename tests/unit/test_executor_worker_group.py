"""The end of an executor's own workers."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from jobqueue.executor.worker_group import Shape, WorkerGroups


class SlowToStop:
    """A group whose end takes as long as the test says."""

    def __init__(self) -> None:
        self.queue, self.serves, self.outstanding = "q", frozenset[str](), 0
        self.stopping, self.may_stop = threading.Event(), threading.Event()

    def check(self) -> None:
        pass

    def stop(self) -> None:
        self.stopping.set()
        assert self.may_stop.wait(10)


def test_a_second_stop_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C two threads stop the group: the second one then closes the store, which the first needs to delete
    the queue."""
    group = SlowToStop()
    unused: Any = None
    groups = WorkerGroups(unused, Shape("thread", 1), ())
    monkeypatch.setattr(groups, "_make", lambda names: group)
    assert groups.queue_for("") == "q"
    first, second = threading.Thread(target=groups.stop), threading.Thread(target=groups.stop)
    first.start()
    assert group.stopping.wait(10)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    group.may_stop.set()
    for thread in (first, second):
        thread.join(10)
        assert not thread.is_alive()
