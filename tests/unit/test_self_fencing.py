"""No job is started without asking Redis while the lease may have ended, nor after it may have ended."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from jobqueue.store.connection import Address
from jobqueue.workers.roles.self_fencing import SelfFencing
from jobqueue.workers.shared.journal import CAME_BACK, REVOKED, SharedPage, make_file
from jobqueue.workers.shared.settings import Settings


class Bench:
    """Self-fencing with a lease of 10 s and two shared pages."""

    def __init__(self) -> None:
        fields: dict[str, Any] = {"worker": "w", "queues": ("default",), "children": 2, "slots": 1, "lease": 10.0}
        pages = make_file(2, 1)
        self.pages = [SharedPage(pages, n, 1) for n in range(2)]
        self.heartbeat = SimpleNamespace(renewed=0.0, lapses=0)
        self.woken = 0
        settings = Settings(Address(url="redis://127.0.0.1:1/0"), **fields)
        self.self_fencing = SelfFencing(settings, self.heartbeat, self.pages, self._wake)  # type: ignore[arg-type]

    def _wake(self) -> None:
        assert self.revoked  # a woken child sees the flag
        self.woken += 1

    def active(self, now: float) -> bool:
        """Return whether the children have to ask before they start a job."""
        self.self_fencing.step(now)
        stale = {page.is_stale(now) for page in self.pages}
        assert stale == {self.self_fencing.active}
        return self.self_fencing.active

    @property
    def revoked(self) -> bool:
        found = {page.revoked for page in self.pages}
        assert len(found) == 1
        return found.pop()

    def come_back(self) -> None:
        for page in self.pages:
            page.set(CAME_BACK, page.get(REVOKED))


def test_self_fencing_starts_before_the_lease_ends_and_stops_at_the_renewal(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.heartbeat.renewed = 100.0
    with caplog.at_level(logging.WARNING):
        assert [bench.active(now) for now in (100.0, 106.9, 107.1, 109.0, 1000.0)] == [False, False, True, True, True]
        bench.heartbeat.renewed = 1000.5
        assert [bench.active(now) for now in (1001.0, 1007.4, 1007.6)] == [False, False, True]
    assert caplog.messages == ["the store has not answered for 7 s: no further job is started"] * 2


def test_children_that_continue_before_their_supervisor_ask_first() -> None:
    """After a stop of the whole worker, the time on the page has passed, so children ask although no flag was
    written."""
    bench = Bench()
    bench.heartbeat.renewed = 100.0
    bench.self_fencing.step(101.0)
    assert [bench.pages[0].is_stale(now) for now in (106.9, 107.1)] == [False, True]


def test_after_a_lapse_the_buffers_are_revoked() -> None:
    """Buffers are revoked even if self-fencing never was active, as the renewal came before its next step."""
    bench = Bench()
    bench.heartbeat.renewed = 100.0
    bench.self_fencing.step(101.0)
    bench.heartbeat.renewed, bench.heartbeat.lapses = 120.0, 1
    bench.self_fencing.step(120.1)
    assert not bench.self_fencing.active
    assert bench.revoked
    bench.come_back()
    bench.self_fencing.step(121.0)
    assert not bench.revoked
    assert bench.woken == 1


def test_before_the_worker_is_registered_nothing_is_fenced() -> None:
    assert not Bench().active(1e9)


def test_a_wiped_page_is_set_again() -> None:
    """The page of a child that is about to start has been wiped, so the flags are written again."""
    bench = Bench()
    bench.heartbeat.renewed = 100.0
    assert bench.active(200.0)
    bench.pages[0].wipe()
    bench.pages[1].wipe()
    assert bench.active(200.0)
    bench.heartbeat.renewed = 200.0
    assert not bench.active(201.0)
