"""The queue of a comparison leaves no key in a user's store, whenever Ctrl-C is pressed."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from helpers import Server

from jobqueue.compare.measured_queue import measured_queue
from jobqueue.executor import private_queue
from jobqueue.store.open import open_store


@pytest.mark.parametrize("step", ["workers_of", "owners_of", "delete_jobs", "delete_workers", "delete_queue"])
def test_an_interrupt_during_the_cleanup_leaves_no_key(
    server: Server, store: redis.Redis, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts, really = [KeyboardInterrupt()], getattr(private_queue, step)

    def cut(*args: Any) -> Any:
        if cuts:
            raise cuts.pop()
        return really(*args)

    comparison = measured_queue(open_store(server.url), "compared")
    comparison.__enter__().submit("square", [(n,) for n in range(10)])
    assert store.keys("rq:*")
    monkeypatch.setattr(private_queue, step, cut)
    with pytest.raises(KeyboardInterrupt):
        comparison.__exit__(None, None, None)
    assert cuts == []
    assert store.keys("rq:*") == []
