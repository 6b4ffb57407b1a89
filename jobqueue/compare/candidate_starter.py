"""Start and stop the candidates of a comparison, and remember what they said about the GIL."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from jobqueue.compare.candidates import BareCandidate, Candidate, Surroundings, WorkerCandidate, gil_turned_on_by
from jobqueue.compare.figures import MIXED, MODES
from jobqueue.compare.measured_queue import measured_queue
from jobqueue.store.open import Store


class CandidateStarter:
    """Makes candidates; the queues of its workers are its own."""

    def __init__(self, store: Store, around: Surroundings) -> None:
        self.around = around
        self._store = store
        self._suffix = secrets.token_hex(4)
        self._gils: set[bool] = set()

    @contextmanager
    def candidate(self, mode: str, workers: int) -> Iterator[Candidate]:
        """Start a candidate; hand it out when all its consumers are there. Raises CandidateFailed."""
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
        """Start a worker on a queue that ends in this name. Raises CandidateFailed."""
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
        """Whether any of them had it on."""
        return True in self._gils

    def turned_on_by(self) -> list[str]:
        """The modules that turned it on again, on a free-threaded build."""
        logs = sorted(self.around.directory.glob("*.log"))
        return gil_turned_on_by("\n".join(log.read_text(errors="replace") for log in logs))
