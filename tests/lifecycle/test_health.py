"""The liveness check says that a worker can claim jobs, or why it cannot."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import redis
from conftest import Start
from helpers import Server, Tree, eventually, jobq

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys


def health(server: Server, path: Path, *flags: str) -> tuple[int, str]:
    run = jobq(server, "worker-health", str(path), *flags)
    return run.returncode, run.stdout + run.stderr


def why(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["why"])
    except FileNotFoundError:
        return ""


def test_the_health_file_says_whether_the_worker_can_claim_jobs(
    start: Start, server: Server, queue: Queue, tmp_path: Path
) -> None:
    """The file says: able; not able while the store is stopped; able again; not able while the worker stops. It is
    deleted at the end."""
    path, gate = tmp_path / "health", tmp_path / "gate"
    tree: Tree = start("-n", "2", "--health-file", str(path), JOBQ_LEASE="2")
    eventually(lambda: health(server, path) == (0, "able to claim\n"))
    with server.stalled():
        eventually(lambda: why(path) == "the store does not answer")
        assert health(server, path) == (1, "the store does not answer\n")
    eventually(lambda: why(path) == "able to claim")
    job = queue.enqueue("samples.wait_for", str(tmp_path / "record"), "x", str(gate))
    eventually((tmp_path / "record").exists)
    tree.send(signal.SIGTERM)
    eventually(lambda: why(path) == "it is stopping")
    assert health(server, path) == (1, "it is stopping\n")
    gate.touch()
    assert tree.wait() == 0
    assert job.result(5) == "x"
    code, said = health(server, path)
    assert code == 1
    assert said.startswith(f"{path} is not a health file: is the worker running")


def test_a_store_that_refuses_the_scripts(
    start: Start, mode: str, server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    """Heartbeat and wait for jobs work, and nothing can be claimed."""
    path, refused = (
        tmp_path / "health",
        "the store does not answer its processes, or refuses what they ask: see the log",
    )
    store.acl_setuser("few", enabled=True, passwords=["+p"], keys=["*"], channels=["*"], categories=["+@all"])
    tree = start("-n", "1", "--health-file", str(path), "--url", f"unix://few@{server.socket}?password=p", mode=mode)
    try:
        eventually(lambda: why(path) == "able to claim")
        store.acl_setuser("few", commands=["-evalsha", "-eval"], keys=["*"], channels=["*"], enabled=True)
        store.rpush(keys.queue("default"), "a")
        eventually(lambda: why(path) == refused, 40)
        assert "the store refuses what it is asked" in tree.log
        store.acl_setuser("few", commands=["+evalsha", "+eval"], keys=["*"], channels=["*"], enabled=True)
        eventually(lambda: why(path) == "able to claim", 40)
        assert tree.stop() == 0
    finally:
        store.acl_deluser("few")


def test_a_killed_worker_is_stale(start: Start, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "health"
    tree: Tree = start("-n", "1", "--health-file", str(path), JOBQ_LEASE="1")
    eventually(lambda: why(path) == "able to claim")
    tree.kill()
    dead = set(server.client.smembers(keys.OWNERS))
    assert dead
    start("-n", "1", JOBQ_LEASE="1")
    os.utime(path)  # its content counts, not the time of the file
    said = json.loads(path.read_text())["time"]
    eventually(lambda: time.time() - said > 1.5)
    code, words = health(server, path, "--max-age", "1")
    assert code == 1
    assert words.startswith("the worker has said nothing for ")
    assert health(server, path, "--max-age", "1000")[1] == f"{why(path)}\n"  # its last report, until that is older
    eventually(lambda: not dead & set(server.client.smembers(keys.OWNERS)))  # another worker replaced the file


def test_the_health_file_names_a_module_that_imports_for_ever(start: Start, mode: str, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(1000)\n")
    file = tmp_path / "health"
    tree = start("--health-file", str(file), mode=mode, serve=("endless",))
    eventually(lambda: file.exists() and "it is starting: importing endless for" in file.read_text())
    assert not json.loads(file.read_text())["able"]
    eventually(lambda: "importing endless has not ended after" in tree.log)
    assert tree.stop() == 0
