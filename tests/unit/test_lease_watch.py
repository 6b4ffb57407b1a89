"""The leases of other trees, as one worker looks at them; tests/unit/test_rescuer.py has what follows from that."""

from __future__ import annotations

import redis

from jobqueue.protocol import keys
from jobqueue.store.connection import Address
from jobqueue.workers.roles.lease_watch import LeaseWatch
from jobqueue.workers.shared.settings import Settings


def test_all_leases_are_read_with_one_command(store: redis.Redis) -> None:
    """Sixty idle workers look at each other every two seconds."""
    trees = {f"host-{n}": [f"host-{n}:0.1"] for n in range(60)}
    for worker in trees:
        store.set(keys.lease(worker), 7)
    watch = LeaseWatch(Settings(Address(url="redis://127.0.0.1:1/0"), "w", ("q",), 1, 1), store)
    before = store.info("stats")["total_commands_processed"]
    assert watch.look(trees, 100.0) == dict.fromkeys(trees, "7")
    assert store.info("stats")["total_commands_processed"] - before <= 2  # the MGET, and the INFO of this line
    store.delete(*map(keys.lease, trees))
    assert watch.look(trees, 101.0) == dict.fromkeys(trees, "0")
    assert watch.look({"rq's": []}, 102.0) == {}
