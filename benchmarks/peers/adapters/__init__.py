"""One file per peer: how its jobs are enqueued and run, with its fastest documented settings.

Each runs in the peer's own environment and begins with the packages of that (a PEP 723 block). It has

SLOTS       what runs in one process at the same time: "threads", "coroutines", or "processes" where that is one job
SETTINGS    what is set, in one line
PROMISE     what becomes of a running job when its worker is killed with kill -9; REFERENCE says where it says so
VERSIONS    the distributions whose versions are shown
worker      (kind, number, task) → what to start: "process": that many processes, each as it is fastest for this task;
            "slot": one process with so many slots. None where it does not have that. A process that computes ("cpu")
            takes one job at a time: what it had ahead would be missing in another process at the end.
enqueue     (task, number) → a handle; task is one of ``peers.body.TASKS``
result      (handle, seconds) → the value, as fast as it can be had, within so many seconds
enqueue_many (task, numbers), where it has something for it

``enqueue`` and ``result`` may be coroutine functions, both. All keep their results in the store, as RQ and jobq do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

URL = os.environ.get("PEERS_URL", "redis://127.0.0.1:6379/0")
WIDTH = "PEERS_WIDTH"  # the variable by which an adapter tells its own module in the worker how many slots to have
SLOTS_SET = int(os.environ.get(WIDTH, "10"))


class Start(NamedTuple):
    """One process to start: a command of the peer's environment, and variables."""

    command: Sequence[str]
    env: Mapping[str, str] = {}
