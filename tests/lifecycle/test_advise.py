"""The advice on the built-in tasks, from the records of real workers that ran all of them at the same time."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Start
from helpers import Server, jobq

from jobqueue.harness.site import spawn_site
from jobqueue.producing.queue import Queue

VERDICTS = {
    "heavy": ("computes", "process"),
    "download": ("waits", "thread"),
    "scrape": ("waits", "thread"),
    "square": ("tiny", "process"),
}
gil = getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.mark.skipif(not gil, reason="without a GIL heavy is advised threads, see test_advice.py")
def test_the_advice_on_the_builtin_tasks(server: Server, queue: Queue, start: Start, mode: str, tmp_path: Path) -> None:
    with spawn_site(latency=0.05) as site:
        files = itertools.cycle(file.url for file in site.files)
        pages = itertools.cycle(page.url for page in site.pages)
        for number in range(60):
            queue.enqueue("download", next(files))
            queue.enqueue("scrape", next(pages))
            queue.enqueue_many("square", range(5))
            if number % 3 == 0:
                queue.enqueue("heavy", 50)
        number = "2" if mode == "process" else "16"
        tree = start("-n", number, "--burst", "--allow-private", mode=mode, serve=(), JOBQ_DOWNLOAD_DIR=str(tmp_path))
        assert tree.wait() == 0
    found = json.loads(jobq(server, "advise", "--json").stdout)
    advice = {task["task"].removeprefix("jobqueue.tasks."): task["advice"] for task in found["tasks"]}
    assert {task: (a["kind"], a["mode"]) for task, a in advice.items()} == VERDICTS, found
    assert advice["heavy"]["workers"] == found["machine"]["cores"]
    assert "the queue costs more than the job" in advice["square"]["reason"].lower()
    assert all(task["profile"]["errors"] == 0 for task in found["tasks"])
    queues = {q["queue"]: set(q["tasks"]) for q in found["queues"]}
    assert queues["computing"] == {"jobqueue.tasks.heavy"}
    assert {"jobqueue.tasks.download", "jobqueue.tasks.scrape"} <= queues["waiting"]
    if mode == "thread":
        assert all(r["memory_peak_mb"] is None for task in found["tasks"] for r in task["records"])


@pytest.mark.skipif(not gil or sys.platform != "linux", reason="the kernel tells who waits for what on Linux only")
@pytest.mark.parametrize("task", ["samples.hold_the_gil", "samples.nap_with_a_lock"])
def test_tasks_that_wait_for_each_other_in_a_process_need_processes(
    server: Server, queue: Queue, start: Start, task: str
) -> None:
    """Two tasks look as if they waited for input or output, but wait within the process: more threads do not help,
    processes do."""

    def advised(*flags: str) -> dict[str, Any]:
        list(queue.enqueue_many(task, [0.05] * 40))
        assert start("--burst", *flags).wait() == 0
        (found,) = json.loads(jobq(server, "advise", "--json").stdout)["tasks"]
        advice: dict[str, Any] = found["advice"]
        return advice

    def said(advice: dict[str, Any]) -> str:
        return f"{advice['reason']} {advice['would_change']}"

    line = f"`jobq compare {task.replace('.', ':')} VALUE...`"
    among_threads = advised("--mode", "thread", "-n", "8")
    assert among_threads["kind"] == "unknown", among_threads
    assert line in said(among_threads)
    both = advised("--mode", "process", "-n", "2")
    assert (both["kind"], both["mode"]) == ("takes turns", "process"), both
    jobq(server, "advise", "--reset")
    alone = advised("--mode", "process", "-n", "2")
    if task == "samples.hold_the_gil":  # meanwhile its process could do nothing else
        assert (alone["kind"], alone["mode"]) == ("takes turns", "process"), alone
    else:
        assert alone["mode"] == "thread"
        assert line in said(alone)
