"""What a worker refuses at its start, and which jobs it does not claim."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import rq
from conftest import Start
from helpers import Server, Tree, eventually, failed, is_spawned, lines, submit
from rq import suspension

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

pytestmark = pytest.mark.parametrize("mode", ["thread", "process"])


def refuses(tree: Tree, *words: str) -> None:
    """Assert that the worker ended at once with one line that has these words."""
    assert tree.wait() == 2
    complaints = [line for line in tree.log.splitlines() if line.startswith("jobq: ")]
    assert len(complaints) == 1, tree.log
    for word in words:
        assert word in complaints[0]
    assert "Traceback" not in tree.log


def test_a_module_that_cannot_be_imported(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import samples\n\nraise RuntimeError('no licence')\n")
    job = queue.enqueue("samples.ok", 1)
    refuses(start(mode=mode, serve=("samples", "broken")), "RuntimeError: no licence", "broken.py:3")
    refuses(start(mode=mode, serve=("samples", "nowhere")), "No module named 'nowhere'")
    assert job.get_status(refresh=True).value == "queued"
    assert queue.job_ids == [job.id]


def test_a_module_that_ends_the_process_at_its_import(start: Start, mode: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys\nsys.exit(0)\n")
    refuses(start(mode=mode, serve=("script",)), "cannot be imported")


@pytest.mark.parametrize("flag", ["--strict-queue", "--check"])
def test_strict_queue_refuses_a_first_job_in_another_format(
    start: Start, mode: str, store: redis.Redis, flag: str
) -> None:
    job = rq.Queue(connection=store).enqueue("samples.ok", 1)
    refuses(start(flag, mode=mode), "'default' is pickle", "--accept json,pickle")
    assert store.lrange(keys.queue("default"), 0, -1) == [job.id.encode()]
    assert start("--burst", "--strict-queue", "--accept", "json,pickle", mode=mode).wait() == 0
    assert job.return_value(refresh=True) == 1


def test_strict_queue_refuses_a_first_job_of_another_module(
    start: Start, mode: str, queue: Queue, store: redis.Redis
) -> None:
    job = queue.enqueue("samples.ok", 1)
    for flag in ("--strict-queue", "--check"):
        refuses(
            start(flag, mode=mode, serve=()), f"{job.id} at the head", "'default' calls samples.ok", "-I samples:ok"
        )
    assert store.llen(keys.queue("default")) == 1
    assert start("--burst", "--strict-queue", "--allow-any", mode=mode, serve=()).wait() == 0
    assert store.llen(keys.queue("default")) == 0


def test_a_first_job_that_is_not_served_does_not_prevent_the_start(
    start: Start, mode: str, queue: Queue, store: redis.Redis
) -> None:
    """A worker that starts treats the first job like all others: the job fails, and the next one runs."""
    ids = [queue.enqueue("json.dumps", 5).id, rq.Queue(connection=store).enqueue("samples.ok", 1).id]
    good = queue.enqueue("samples.ok", 2)
    tree = start("--burst", "-n", "1", mode=mode)
    assert tree.wait() == 0
    assert good.result(1) == 2
    assert f"warning: the job {ids[0]} at the head of queue 'default' calls json.dumps" in tree.log
    assert "-I json:dumps" in tree.log
    assert "start it with -I json:dumps " in failed(store, ids[0])
    assert "--accept json,pickle" in failed(store, ids[1])


@pytest.mark.spread("mode")
@pytest.mark.parametrize("name", ["os.system", "operator.add", "heapq.heappush", "passing_on.add"])
def test_the_flag_that_the_message_names_works(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path, name: str
) -> None:
    """This holds for functions that are defined in another module than they are found in, too: os.system is posix's."""
    (tmp_path / "passing_on.py").write_text("from samples import os, ok\nfrom operator import add\n")
    args = {"os.system": ("true",), "heapq.heappush": ([], 1)}.get(name, (1, 2))
    for serve in ((), (name.rpartition(".")[0],)):
        job = queue.enqueue(name, *args)
        assert start("--burst", "-n", "1", mode=mode, serve=serve).wait() == 0
        if job.get_status(refresh=True) == "finished":
            assert serve, "it was not served before"
            return
        (flag,) = set(re.findall(r"-I (\S+:\S+)", failed(store, job.id)))
        assert start("--burst", "-n", "1", "-I", flag, mode=mode, serve=()).wait() == 0
        good = queue.enqueue(name, *args)
        assert start("--burst", "-n", "1", "-I", flag, mode=mode, serve=()).wait() == 0
        assert good.get_status(refresh=True) == "finished"


def test_a_module_that_starts_a_thread(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    """A fork would not copy the thread, so each child imports the module itself."""
    (tmp_path / "threaded.py").write_text(
        "import os, threading\n"
        "asked, answered = threading.Event(), threading.Event()\n"
        "def answer():\n    asked.wait()\n    answered.set()\n"
        "threading.Thread(target=answer, daemon=True).start()\n"
        "def ask():\n    asked.set()\n    assert answered.wait(20)\n    return os.getpid()\n"
    )
    tree = start("-n", "2", mode=mode, serve=("threaded",))
    assert queue.enqueue("threaded.ask").result(30) in [process.pid for process in tree.children()]
    assert is_spawned(tree.children()[0].pid)
    assert "importing the served modules started threads" in tree.log


def test_a_suspended_worker_claims_no_job(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """``rq suspend``: no worker claims a job until ``rq resume``, also one that is started meanwhile."""
    record = str(tmp_path / "record")
    tree = start("-n", "2", mode=mode)
    queue.enqueue("samples.note", record, "before")
    eventually(lambda: lines(record) == ["before"])
    suspension.suspend(store)
    jobs = submit(queue, "samples.note", [(record, n) for n in range(20)])
    other = start("-n", "2", mode=mode)
    eventually(lambda: store.scard(keys.OWNERS) == 2 * len(tree.children()))
    commands = store.info("stats")["total_commands_processed"]
    eventually(lambda: store.info("stats")["total_commands_processed"] > commands + 50)  # they look, and leave the job
    assert store.llen(keys.queue("default")) == 20
    assert lines(record) == ["before"]
    assert {tree.process.poll(), other.process.poll()} == {None}
    suspension.resume(store)
    assert [job.result(30) for job in jobs] == list(range(20))


def test_a_burst_ends_while_workers_are_suspended(start: Start, mode: str, queue: Queue, store: redis.Redis) -> None:
    suspension.suspend(store)
    queue.enqueue("samples.ok")
    assert start("--burst", "-n", "2", mode=mode).wait() == 0
    assert store.llen(keys.queue("default")) == 1


def test_a_paused_queue_waits(start: Start, mode: str, store: redis.Redis) -> None:
    store.sadd(keys.PAUSED, "closed")
    waiting = Queue("closed", connection=store).enqueue("samples.ok", 1)
    start("-n", "2", "closed", "open", mode=mode)
    assert Queue("open", connection=store).enqueue("samples.ok", 2).result(30) == 2
    assert waiting.get_status(refresh=True).value == "queued"
    store.srem(keys.PAUSED, "closed")
    assert waiting.result(30) == 1


def test_a_module_that_configures_logging(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    """The configuration disables all loggers that it does not name; the worker's own lines are still written."""
    (tmp_path / "shop.py").write_text(
        "import logging.config\n"
        "logging.config.dictConfig({'version': 1, 'root': {'level': 'ERROR'}})\n"
        "def fail():\n    raise ValueError('no stock')\n"
    )
    job = queue.enqueue("shop.fail")
    tree = start("--burst", mode=mode, serve=("shop",))
    assert tree.wait() == 0
    assert f"job {job.id} failed: ValueError: no stock" in tree.log


def test_a_pickled_class_of_a_script(start: Start, mode: str, server: Server, tmp_path: Path) -> None:
    """Settings is also a name in the fork server's own module; Order is not."""
    (tmp_path / "producer.py").write_text(
        "import sys, redis, rq\n"
        "class Order: pass\n"
        "class Settings: pass\n"
        "for made in (Order(), Settings()):\n"
        "    print(rq.Queue(connection=redis.from_url(sys.argv[1])).enqueue('samples.ok', made).id)\n"
    )
    argv = [sys.executable, "producer.py", server.url]
    ids = subprocess.run(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert start("--burst", "--accept", "json,pickle", mode=mode).wait() == 0
    for job_id, name in zip(ids, ("Order", "Settings"), strict=True):
        why = failed(server.client, job_id)
        assert f"{name} is defined in __main__" in why
        assert "workers" not in why.splitlines()[-1]
