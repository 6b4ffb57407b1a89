"""Connect the parts that run jobs in one process: the consumer, the slots, the request thread, the child watchdog.

A child of a supervisor (child.py) and our engine in RQ's worker classes (rq_classes/engine.py) are both made here; they
differ in their slots, in who listens to them, and in what they do when they cannot go on (hooks.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import redis

from jobqueue.clock import monotonic
from jobqueue.plugins.calls import IN_PROCESSES, Plugins
from jobqueue.plugins.plugin import ProcessInfo
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.wire import Wire
from jobqueue.workers.child.child_watchdog import ChildWatchdog
from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.child.core_watch import CoreWatch
from jobqueue.workers.child.give_back import GiveBack
from jobqueue.workers.child.hooks import Hooks
from jobqueue.workers.child.limit_watch import LimitWatch
from jobqueue.workers.child.request_thread import RequestThread
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.slot_parts import SlotParts
from jobqueue.workers.child.supervisor_link import SupervisorLink
from jobqueue.workers.child.title_watch import TitleWatch
from jobqueue.workers.child.wake_pipe import WakePipe
from jobqueue.workers.running.task_meter import Usage
from jobqueue.workers.shared.journal import SharedPage
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.titles import Title


def _no_other_thread(_slot: object) -> None:
    raise RuntimeError("the one slot of this process is its main thread")


def _tell_of_process(plugins: Plugins | None, store: redis.Redis, speaks: Callable[[], bool]) -> None:
    """Tell the plugins of this process."""
    if plugins and plugins.all:
        from jobqueue.admin.demand import demands

        process = ProcessInfo(store, speaks, partial(demands, store))
        for plugin in plugins.all:
            plugin.process = process


class Wiring:
    """The parts of a process that runs jobs, connected and not started yet."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        page: SharedPage,
        store: redis.Redis,
        link: SupervisorLink,
        hooks: Hooks,
        make_slot: Callable[[SlotParts, int], Slot],
        start_slot: Callable[[Slot], object] = _no_other_thread,
        title: Title | None = None,
        plugins: Plugins | None = None,
        is_alone: bool = False,
    ) -> None:
        """start_slot: starts the thread of a slot that replaces one that was written off. title: of this process, to
        show what it runs; None: the process is not ours. is_alone: no other process runs jobs for this worker."""
        protocol, usage, wake_pipe = Protocol(store), Usage(settings.slots, settings.accounting), WakePipe()
        self.request_thread = RequestThread(protocol, settings.worker, on_failed=link.ask_to_retire)
        self.consumer = Consumer(
            settings,
            owner,
            page,
            Wire(store),
            usage,
            on_out_of_work=link.out_of_work,
            on_retire=link.ask_to_retire,
            on_fenced=hooks.on_fenced,
            on_cut_off=hooks.on_cut_off,
            on_away=hooks.on_away,
        )
        _tell_of_process(plugins, store, (lambda: True) if is_alone else page.speaks_for_tree)
        hear = plugins if plugins and plugins.has(*IN_PROCESSES) else None
        parts = SlotParts(
            settings, owner, page, self.consumer, protocol, usage, wake_pipe.stir, link.ask_to_retire, hear
        )
        make = partial(make_slot, parts)
        self.slots = [make(number) for number in range(settings.slots)]
        self.limits = LimitWatch(self.slots, make, start_slot, on_written_off=link.ask_to_retire)
        self.watchdog = ChildWatchdog(
            owner,
            page,
            link,
            wake_pipe,
            self.consumer,
            self.slots,
            self.request_thread,
            self.limits,
            GiveBack(owner, page, self.consumer, self.slots, self.request_thread, monotonic()),
            CoreWatch(usage),
            TitleWatch(title),
            hooks,
        )
