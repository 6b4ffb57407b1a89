"""The log of real workers names the jobs, in the worker's own lines and in those of the user's loggers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Start
from helpers import Tree, eventually
from rq import Retry

from jobqueue.producing.queue import Queue

TASKS = """
import asyncio, json, logging, logging.config, threading

log = logging.getLogger("shop.orders")

class Lines(logging.Handler):
    def emit(self, record):
        known = {name: record.__dict__.get(name) for name in ("job", "queue", "task", "worker", "attempt")}
        with open("records", "a") as file:
            file.write(json.dumps({"text": record.getMessage(), **known}) + "\\n")

SET_UP

def order(text):
    log.info(text)
    return text

async def later(text):
    async def inner():
        await asyncio.sleep(0)
        log.info(text)
    await asyncio.gather(asyncio.create_task(inner()), asyncio.to_thread(log.info, text))

def configure(text):
    logging.config.dictConfig(CONFIG)
    log.info(text)

def bad(text):
    log.info(text)
    raise ValueError(text)
"""

CONFIG = """
CONFIG = {"version": 1, "disable_existing_loggers": True, "handlers": {"lines": {"()": Lines}},
          "loggers": {"shop": {"handlers": ["lines"], "level": "INFO"}}}
"""
# How a project may set up its logging.
SET_UPS = {
    "dictConfig": f"{CONFIG}\nlogging.config.dictConfig(CONFIG)",
    "Django": f"""{CONFIG}
import django
from django.conf import settings
settings.configure(LOGGING=CONFIG)
django.setup()
""",
    "handler": f"{CONFIG}\nlogging.getLogger().addHandler(Lines()); logging.getLogger().setLevel('INFO')",
    "factory": f"""{CONFIG}
def factory(*args, **kwargs):
    record = logging.LogRecord(*args, **kwargs)
    record.tenant = "t"
    return record
logging.setLogRecordFactory(factory)
class Own(logging.Logger):
    pass
logging.setLoggerClass(Own)
log = logging.getLogger("shop.own")
logging.config.dictConfig(CONFIG)
""",
}


def records(directory: Path, count: int) -> list[dict[str, Any]]:
    def read() -> list[dict[str, Any]]:
        path = directory / "records"
        found = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in found] if len(found) >= count else []

    return eventually(read)


@pytest.mark.spread("mode")
@pytest.mark.parametrize("set_up", SET_UPS)
def test_records_of_the_user_have_the_fields(
    start: Start, queue: Queue, mode: str, set_up: str, tmp_path: Path
) -> None:
    (tmp_path / "orders.py").write_text(TASKS.replace("SET_UP", SET_UPS[set_up]))
    tree: Tree = start("-n", "2", mode=mode, serve=("orders",))
    jobs = [queue.enqueue("orders.order", f"o{n}") for n in range(20)]
    jobs.append(queue.enqueue("orders.configure", "o20"))
    assert [job.result(60) for job in jobs[:20]] == [f"o{n}" for n in range(20)]
    jobs[20].result(60)
    found = {record["text"]: record for record in records(tmp_path, 21)}
    for n, job in enumerate(jobs):
        task = "orders.configure" if n == 20 else "orders.order"
        assert (found[f"o{n}"]["job"], found[f"o{n}"]["queue"], found[f"o{n}"]["task"]) == (job.id, "default", task)
        assert found[f"o{n}"]["attempt"] == 1
        assert found[f"o{n}"]["worker"] in tree.log


def test_coroutines_and_threads_of_asyncio(start: Start, queue: Queue, mode: str, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(TASKS.replace("SET_UP", SET_UPS["dictConfig"]))
    start("-n", "2", mode=mode, serve=("orders",))
    jobs = {f"o{n}": queue.enqueue("orders.later", f"o{n}") for n in range(5)}
    assert sorted((it["text"], it["job"]) for it in records(tmp_path, 10)) == sorted(
        (text, job.id) for text, job in jobs.items() for _ in range(2)
    )


def lines(tree: Tree) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tree.log.splitlines() if line.startswith("{")]


def about(tree: Tree, job_id: str, outcome: str) -> list[dict[str, Any]]:
    return [line for line in lines(tree) if line.get("job") == job_id and line.get("outcome") == outcome]


def test_the_workers_json_lines(start: Start, queue: Queue, mode: str, tmp_path: Path) -> None:
    """A job that is retried and fails, one that is finished; and a record of the user's without any handler."""
    plain = TASKS.replace("SET_UP", CONFIG).replace("log.info", "log.warning")
    (tmp_path / "orders.py").write_text(plain)
    tree: Tree = start("-n", "1", "-v", "--log-format", "json", mode=mode, serve=("orders",))
    bad = queue.enqueue("orders.bad", "b", retry=Retry(max=1))
    good = queue.enqueue("orders.order", "g")
    assert good.result(60) == "g"
    [failed] = eventually(lambda: about(tree, bad.id, "failed"))
    [retried] = about(tree, bad.id, "retried")
    [finished] = eventually(lambda: about(tree, good.id, "finished"))
    for line, task, attempt in ((failed, "bad", 2), (retried, "bad", 1), (finished, "order", 1)):
        assert (line["queue"], line["task"], line["attempt"]) == ("default", f"orders.{task}", attempt)
        assert 0 <= line["seconds"] < 10
    assert retried["message"] == f"job {bad.id} failed: ValueError: b"
    own = [line for line in lines(tree) if line["logger"] == "shop.orders"]
    assert [(line["message"], line["job"], line.get("outcome")) for line in own if line["message"] == "g"] == [
        ("g", good.id, None)
    ]
    assert tree.stop() == 0
    assert len({line["worker"] for line in lines(tree)}) == 1
    assert all(line.startswith("{") for line in tree.log.splitlines() if not line.startswith("store: ")), tree.log


def test_the_attempt_after_a_crash(start: Start, queue: Queue, mode: str, tmp_path: Path) -> None:
    code = "import os\nfrom pathlib import Path\ndef killed_once(path):\n    if not Path(path).exists():\n"
    (tmp_path / "deadly.py").write_text(f"{code}        Path(path).touch(); os.kill(os.getpid(), 9)\n")
    tree: Tree = start("-n", "1", "-v", "--log-format", "json", mode=mode, serve=("deadly",))
    job = queue.enqueue("deadly.killed_once", str(tmp_path / "killed"))
    job.result(60)
    [line] = eventually(lambda: about(tree, job.id, "finished"))
    assert line["attempt"] == 2


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_rqs_worker_classes(start_rq: Start, queue: Queue, place: str, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(TASKS.replace("SET_UP", SET_UPS["dictConfig"]))
    tree = start_rq(place, "default", "--serializer", "json", "--burst", "--path", str(tmp_path))
    job = queue.enqueue("orders.order", "o")
    assert tree.wait() == 0
    [record] = records(tmp_path, 1) if (tmp_path / "records").exists() else [{}]
    assert (record.get("job"), record.get("task"), record.get("attempt")) == (job.id, "orders.order", 1), tree.log


@pytest.fixture(autouse=True)
def _no_change_here() -> Iterator[None]:
    before = logging.Logger.handle
    yield
    assert logging.Logger.handle is before
