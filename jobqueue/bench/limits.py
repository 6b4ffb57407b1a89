"""Name what limits a drain: the store, the worker's processes, this machine's cores, or the way to the store.

What was busy almost all the time is the limit; where nothing was, the worker waited for answers of the store.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobqueue.bench.figures import BenchDrain, BenchFigures
from jobqueue.words import count, duration

BUSY = 0.85  # of the time: from there on it is what limits
FAR = 0.0005  # seconds of a round trip from which the way to the store counts as the limit


@dataclass(frozen=True)
class Limit:
    """The limit, in one word and in a sentence: "store", "worker", "machine", "network", "waiting", "unknown"."""

    what: str
    sentence: str


def limit_of(figures: BenchFigures, drain: BenchDrain) -> Limit:
    """Judge one drain."""
    store, child = drain.store_busy, drain.child_busy
    used = drain.worker_cores + drain.typical.others + ((store or 0.0) if figures.is_near else 0.0)
    if store is not None and store >= BUSY:
        return Limit("store", f"the store: it was busy {store:.0%} of the time, and it works on one core. More workers "
                     "will not be faster; a faster core for the store will.")  # fmt: skip
    if used >= BUSY * figures.cores and (drain.interpreters > 1 or child < BUSY):
        shares = f"the worker {drain.worker_cores:.1f}, other programs {drain.typical.others:.1f}"
        if figures.is_near and store is not None:
            shares += f", the store {store:.1f}"
        return Limit("machine", f"this machine: {used:.1f} of its {count(figures.cores, 'core')} were busy ({shares}). "
                     "More cores will be faster, on this machine or with workers on others.")  # fmt: skip
    if child >= BUSY:
        more = "More processes will be faster, while there are cores and the store keeps up."
        return Limit("worker", f"the worker: its {_who(drain)} busy {child:.0%} of the time. {more}")
    if figures.round_trip >= FAR:
        return Limit("network", f"the way to the store: a round trip takes {duration(figures.round_trip)}, and the "
                     f"worker was busy only {child:.0%} of the time. More threads or processes hide it; a store "
                     "that is nearer takes it away.")  # fmt: skip
    if store is None:
        return Limit("unknown", f"something that cannot be seen from here: the worker was busy {child:.0%} of the "
                     "time, and this store does not tell how busy it was (INFO cpu).")  # fmt: skip
    return Limit("waiting", f"waiting: the worker was busy {child:.0%} of the time, the store {store:.0%}; each "
                 "waited for the other, or for a core. More processes will be faster.")  # fmt: skip


def _who(drain: BenchDrain) -> str:
    return "process was" if drain.interpreters == 1 else f"{drain.interpreters} processes were"
