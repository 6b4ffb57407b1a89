"""The queue of a comparison: nothing of it stays in somebody's store, whenever Ctrl-C comes."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from helpers import Server

from jobqueue.compare import sweep
from jobqueue.compare.private_queue import private_queue
from jobqueue.connection import open_store


@pytest.mark.parametrize("step", ["workers_of", "listed", "delete_jobs", "delete_queue"])
def test_an_interrupt_in_the_cleaning_up(
    server: Server, store: redis.Redis, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = [KeyboardInterrupt()]

    def cut(*args: Any, really: Any = getattr(sweep, step)) -> Any:
        if cuts:
            raise cuts.pop()
        return really(*args)

    with pytest.raises(KeyboardInterrupt), private_queue(open_store(server.url), "compared") as queue:
        queue.submit("square", [(n,) for n in range(10)])
        assert store.keys("rq:*")
        monkeypatch.setattr(sweep, step, cut)
    assert cuts == []
    assert store.keys("rq:*") == []
