"""Start and stop the candidates of a comparison, and collect what they report about the GIL."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from jobqueue.compare.candidates import BareCandidate, Candidate, Surroundings, WorkerCandidate, gil_turned_on_by
from jobqueue.compare.figures import MIXED, MODES
from jobqueue.compare.measured_queue import measured_queue
from jobqueue.store.open import Store


class CandidateStarter:
    """Starts candidates of all kinds; workers get private queues in the store."""

    def __init__(self, store: Store, around: Surroundings) -> None:
        self.around = around
        self._store = store
        self._suffix = secrets.token_hex(4)
        self._gils: set[bool] = set()

    @contextmanager
    def candidate(self, mode: str, workers: int) -> Iterator[Candidate]:
        """Start a candidate; yield it when all its consumers are ready. Raises CandidateFailed."""
        if mode in (*MODES, MIXED):
            with self.worker(mode, workers, str(workers)) as made:
                yield made
            return
        candidate = BareCandidate(mode, workers, self.around)
        try:
            candidate.boot()
            yield candidate
        finally:
            candidate.close()
            self._gils.add(candidate.gil)

    @contextmanager
    def worker(self, mode: str, workers: int, name: str) -> Iterator[WorkerCandidate]:
        """Start a worker on a private queue whose name ends in ``name``; yield it when ready. Raises
        CandidateFailed."""
        with measured_queue(self._store, f"compare-{self._suffix}-{mode.replace(' ', '-')}-{name}") as queue:
            candidate = WorkerCandidate(mode, workers, self.around, queue)
            try:
                candidate.boot()
                self._gils.add(candidate.gil)
                yield candidate
            finally:
                candidate.close()

    @property
    def gil(self) -> bool:
        """Return whether the GIL was on in any candidate."""
        return True in self._gils

    def turned_on_by(self) -> list[str]:
        """Return the modules that turned the GIL on again in a free-threaded Python."""
        logs = sorted(self.around.directory.glob("*.log"))
        return gil_turned_on_by("\n".join(log.read_text(errors="replace") for log in logs))
