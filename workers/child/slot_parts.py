"""Name what all slots of a process share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobqueue.plugins.calls import Plugins
from jobqueue.protocol.protocol import Protocol
from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.running.task_meter import Usage
from jobqueue.workers.shared.journal import SharedPage
from jobqueue.workers.shared.settings import Settings


@dataclass(frozen=True)
class SlotParts:
    """The settings and the objects that each slot works with."""

    settings: Settings
    owner: str
    page: SharedPage
    consumer: Consumer
    protocol: Protocol
    usage: Usage
    stir: Callable[[], None]  # wakes the watchdog when a job or callback starts
    ask_to_retire: Callable[[], None]  # has another process take the place of this one
    plugins: Plugins | None = None  # None: no plugin wants to hear of slots and jobs
