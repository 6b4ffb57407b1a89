"""What `ps` shows for the processes of a worker."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from conftest import Start
from helpers import eventually, submit

from jobqueue import Queue

pytest.importorskip("setproctitle", reason="process titles are shown with the extra: pip install 'jobq[titles]'")


def title(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline()).strip()


def test_ps_tells_the_processes_apart(start: Start, mode: str) -> None:
    """The titles also fit into `top`, which cuts them off. The environment stays readable: other processes recognise
    their own by it."""
    tree = start("-n", "2", mode=mode)
    children = eventually(lambda: len(found := tree.children()) == (1 if mode == "thread" else 2) and found)
    server = tree.fork_server()
    assert server
    worker = title(tree.pid).removeprefix("jobq: supervisor of ")
    assert worker in tree.log
    assert title(server.pid) == f"jobq: fork server of {worker}"
    eventually(lambda: all(title(child.pid).startswith("jobq: child ") for child in children))
    assert all(title(child.pid).endswith(f" of {worker}") for child in children)
    assert psutil.Process(server.pid).name().startswith("jobq: fork serv")
    assert psutil.Process(tree.pid).environ()["JOBQ_URL"]


def test_the_title_of_a_child_names_the_running_task(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    """The title names the oldest task and the number of others, and no task after they have ended."""
    gates = [tmp_path / "first", tmp_path / "second"]
    tree = start("-n", "2", mode=mode)
    first = submit(queue, "samples.wait_for", [(str(tmp_path / "record"), 0, str(gates[0]))])

    def shown() -> list[str]:
        return sorted(title(child.pid).partition(", ")[2] for child in tree.children())

    eventually(lambda: "running samples:wait_for" in shown())
    second = submit(queue, "samples.wait_for", [(str(tmp_path / "record"), 1, str(gates[1]))])
    eventually(
        lambda: shown() == (["running samples:wait_for +1"] if mode == "thread" else ["running samples:wait_for"] * 2)
    )
    gates[0].touch()
    first[0].result(30)
    eventually(lambda: shown()[-1] == "running samples:wait_for" and shown() != ["running samples:wait_for"] * 2)
    gates[1].touch()
    second[0].result(30)
    eventually(lambda: not any(shown()))
