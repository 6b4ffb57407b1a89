"""What `ps` shows for the processes of a worker."""

from __future__ import annotations

import psutil
import pytest
from conftest import Start
from helpers import eventually

pytest.importorskip("setproctitle", reason="process titles are shown with the extra: pip install 'jobq[titles]'")


def title(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline()).strip()


def test_ps_tells_the_processes_apart(start: Start, mode: str) -> None:
    """In `top` too, which cuts titles off. The environment stays readable, by which other processes recognise their
    own."""
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
