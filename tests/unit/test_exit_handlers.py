"""Which of its parent's exit handlers a forked process runs, and which processes they wait for."""

from __future__ import annotations

import subprocess
import sys

from helpers import ROOT

CODE = """
import multiprocessing, os, time
from jobqueue.workers.running import exit_handlers
process = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
process.start()
child = os.fork()
if child == 0:
    exit_handlers.forget_inherited()
    exit_handlers.run()
    os._exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), process.is_alive())
process.kill()
"""


def test_a_forked_process_does_not_wait_for_processes_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0 True\n", "")


POOL = """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
from jobqueue.workers.running import exit_handlers
pool = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
pool.submit(os.getpid).result()
child = os.fork()
if child == 0:
    exit_handlers.forget_inherited()
    exit_handlers.run()
    os._exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), pool.submit(abs, -1).result())
"""


def test_the_parents_pools_continue_to_work() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", POOL], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("0 1\n", "")
