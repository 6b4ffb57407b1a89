"""One child process: its slots, its courier, its steward. Forked (warm) or spawned by the fork server.

Life: silence SIGINT and SIGTERM (only the supervisor decides) → slots take and run jobs → the supervisor says quiet →
running jobs end and are settled → exit 0. It dies at once (exit 3) when its name was struck off by a rescue, and
(exit 4) when its supervisor is gone.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial

from jobqueue.connection import client
from jobqueue.protocol import Protocol, Wire
from workers.courier import Courier
from workers.current import CurrentJob
from workers.journal import Region
from workers.runner import Runner
from workers.settings import Settings
from workers.slot import Slot
from workers.steward import Clerk, Steward

log = logging.getLogger(__name__)

FENCED, ORPHANED = 3, 4
PR_SET_PDEATHSIG = 1


class Child:
    """What one child process is made of."""

    def __init__(self, settings: Settings, owner: str, region: Region, control: socket.socket, runner: Runner) -> None:
        store = client(settings.address)
        protocol = Protocol(store)
        clerk = Clerk(protocol, settings.worker)
        self._courier = Courier(
            settings, owner, region, Wire(store), lambda: self._steward.hungry(), partial(leave, FENCED)
        )
        self._slots = [
            Slot(
                number=n,
                settings=settings,
                owner=owner,
                region=region,
                courier=self._courier,
                runner=runner,
                protocol=protocol,
                make_current=partial(CurrentJob, connection=store),
                stir=lambda: self._steward.stir(),
            )
            for n in range(settings.slots)
        ]
        self._steward = Steward(
            settings, owner, control, self._courier, self._slots, clerk, on_orphaned=partial(leave, ORPHANED)
        )

    def run(self) -> None:
        """Run until the supervisor says that it is over."""
        self._steward.start()
        if len(self._slots) == 1:
            self._slots[0].run()
            return
        threads = [threading.Thread(target=slot.run, name=f"jobq-slot-{slot.number}") for slot in self._slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def leave(code: int) -> None:
    """Leave at once: no clean-up may touch what belongs to somebody else by now."""
    logging.shutdown()
    os._exit(code)


def become_child(make: Callable[[], Child], parent: int) -> None:
    """Turn the calling process into a child. Does not return."""
    code = 1
    try:
        die_with(parent)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # not SIG_IGN: a job's own subprocesses would inherit that
        random.seed()
        make().run()
        code = 0
    except BaseException:
        log.exception("a child failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        leave(code)


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies. (macOS has no such thing: the steward sees the end of
    the supervisor's socket, which C code holding the GIL can delay.)"""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        leave(ORPHANED)
