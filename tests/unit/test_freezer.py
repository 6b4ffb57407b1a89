"""Nothing new is started when the lease may be over soon."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from jobqueue.connection import Address
from workers.freezer import Freezer
from workers.journal import FROZEN, Region, make_file
from workers.settings import Settings


class Bench:
    """A freezer with a lease of 10 s and two regions."""

    def __init__(self) -> None:
        fields: dict[str, Any] = {"worker": "w", "queues": ("default",), "children": 2, "slots": 1, "lease": 10.0}
        pages = make_file(2, 1)
        self.regions = [Region(pages, n, 1) for n in range(2)]
        self.heartbeat = SimpleNamespace(renewed=0.0)
        settings = Settings(Address(url="redis://127.0.0.1:1/0"), **fields)
        self.freezer = Freezer(settings, self.heartbeat, self.regions)  # type: ignore[arg-type]

    def frozen(self, now: float) -> bool:
        self.freezer.step(now)
        words = [bool(region.get(FROZEN)) for region in self.regions]
        assert set(words) == {self.freezer.frozen}
        return words[0]


def test_it_freezes_before_the_lease_is_over_and_thaws(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.heartbeat.renewed = 100.0
    with caplog.at_level(logging.WARNING):
        assert [bench.frozen(now) for now in (100.0, 107.0, 107.1, 109.0, 1000.0)] == [False, False, True, True, True]
        bench.heartbeat.renewed = 1000.5
        assert [bench.frozen(now) for now in (1001.0, 1007.5, 1007.6)] == [False, False, True]
    assert caplog.messages == ["no word from the store for 7 s: nothing new is started"] * 2


def test_before_its_birth_it_has_nothing_to_lose() -> None:
    assert not Bench().frozen(1e9)


def test_a_fresh_region_catches_up() -> None:
    """A wiped page of a child that is about to start: it may not claim while the store is away, so nothing starts."""
    bench = Bench()
    bench.heartbeat.renewed = 100.0
    assert bench.frozen(200.0)
    bench.heartbeat.renewed = 200.0
    assert not bench.frozen(201.0)
