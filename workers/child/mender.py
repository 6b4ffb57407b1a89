"""Mend a child's broken wire: connect, and give back jobs that a lost reply has claimed for this child, before anything
is sent again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from jobqueue.protocol.wire import Wire
from jobqueue.store.error_texts import is_own_fault
from jobqueue.workers.child.buffer import Buffer
from jobqueue.workers.child.outbox import Outbox
from jobqueue.workers.child.shared_wire import SharedWire
from jobqueue.workers.shared.retry import OWN_FAULTS
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.spare_descriptors import spare_descriptors

log = logging.getLogger(__name__)


class Mender:
    """Mends the wire, however long that takes. The consumer's lock is held on entry and on exit."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        wire: SharedWire,
        buffer: Buffer,
        outbox: Outbox,
        on_retire: Callable[[], object],
        on_cut_off: Callable[[], object],
        on_away: Callable[[], object],
    ) -> None:
        """on_away: called after each attempt that failed; may raise to give up. on_cut_off: called when this process
        will never reach the store again, and has nothing to run."""
        self._owner, self._worker = owner, settings.worker
        self._wire = wire
        self._buffer = buffer
        self._outbox = outbox
        self._on_retire = on_retire
        self._on_cut_off = on_cut_off
        self._on_away = on_away
        self._own_faults = 0  # in a row

    def mend(self, reconnect: bool) -> bool:
        """Try until the wire is free again, or there is nothing more to wait for. Return False if a rescue has struck
        off this child's name. reconnect: use a new connection also the first time."""
        self._wire.begin_to_mend()
        while True:
            failed_before = self._wire.wait_before_attempt()
            if failed_before and self._buffer.quiet and self._outbox.is_settled:
                self._wire.stay_broken()
                return True
            known = self._known()  # as they are now, under the lock
            result = self._wire.attempt(partial(self._reconcile, reconnect=reconnect, known=known))
            if not isinstance(result, Exception):
                break
            self._outbox.came_back(result)
            reconnect = True
            self._look_for_own_fault(result)
            self._on_away()
        self._wire.mended()
        self._buffer.set_out_of_work(False)
        return result >= 0

    def _reconcile(self, wire: Wire, reconnect: bool, known: list[int]) -> int:
        if reconnect:
            wire.reconnect()
            if refusals := self._outbox.refusals:
                refusals.largest = wire.largest()
        return wire.reconcile(self._owner, self._worker, known)

    def _known(self) -> list[int]:
        """Return the claims of all jobs that this child has."""
        buffer = self._buffer
        return [*buffer.in_hand, *(job.claim for job in buffer.jobs), *self._outbox.claims]

    def _look_for_own_fault(self, error: Exception) -> None:
        """Call ``on_cut_off`` if a job may have cut this process off from the store (by a limit on open files, for
        example): waiting does not help then. The finished jobs are in shared memory, and the supervisor settles
        them."""
        self._own_faults = self._own_faults + 1 if is_own_fault(error) else 0
        if self._own_faults == OWN_FAULTS and spare_descriptors.release():
            self._own_faults = 0
        if self._own_faults == OWN_FAULTS:
            log.error("this process cannot reach the store any more (%s), and leaves when its jobs are done", error)
            self._on_retire()
        if self._own_faults >= OWN_FAULTS and self._outbox.are_all_unwritten(self._buffer.in_hand):
            self._on_cut_off()
