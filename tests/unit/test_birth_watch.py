"""A forked child that does not become ready is logged, then killed; a spawned one is only logged."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jobqueue.workers.shared.journal import PULSE, SharedPage, make_file
from jobqueue.workers.supervisor.birth_watch import KILLED, SAID, BirthWatch
from jobqueue.workers.supervisor.child_handle import ChildHandle


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


@pytest.fixture
def handle(process: subprocess.Popen[bytes]) -> ChildHandle:
    handle = ChildHandle(0, SharedPage(make_file(1, 1), 0, 1))
    handle.next_owner("w")
    handle.process.pid = process.pid
    return handle


def test_a_forked_child_that_never_becomes_ready_is_killed(
    handle: ChildHandle, process: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    watch = BirthWatch()
    watch.step(handle, handle.process.born + SAID - 1)
    assert not caplog.messages
    for _ in range(2):
        watch.step(handle, handle.process.born + SAID)
    [said] = caplog.messages
    assert f"child w:0.1 (pid {process.pid}) was started 10 s ago and does not run yet" in said
    assert process.poll() is None
    watch.step(handle, handle.process.born + KILLED)
    assert process.wait(30) == -signal.SIGKILL
    assert handle.process.failure
    assert not handle.process.killed  # so it counts as a failed attempt


def test_a_spawned_child_that_imports_for_long_is_only_logged(
    handle: ChildHandle, process: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    watch = BirthWatch()
    watch.spawned = True
    watch.step(handle, handle.process.born + 10 * KILLED)
    assert "imports the served modules for itself" in caplog.text
    assert process.poll() is None


def test_a_child_that_became_ready_is_left_alone(
    handle: ChildHandle, process: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    handle.page.set(PULSE, 1)
    BirthWatch().step(handle, handle.process.born + 10 * KILLED)
    assert not caplog.messages
    assert process.poll() is None


@pytest.mark.parametrize("spawned", [True, False])
def test_a_plugin_that_does_not_come_back_is_named_and_killed(
    handle: ChildHandle, process: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture, spawned: bool
) -> None:
    watch = BirthWatch()
    watch.spawned = spawned
    handle.process.plugin, handle.process.plugin_since = "shop:Slow", handle.process.born + 100  # after a long import
    watch.step(handle, handle.process.born + 100 + SAID - 1)
    assert not caplog.messages
    watch.step(handle, handle.process.born + 100 + SAID)
    assert (
        "was started 110 s ago and does not run yet: process_start of the plugin shop:Slow has not ended" in caplog.text
    )
    watch.step(handle, handle.process.born + 100 + KILLED)
    assert process.wait(30) == -signal.SIGKILL
    assert handle.process.failure.endswith("process_start of the plugin shop:Slow has not ended")
