"""Limits that a job lowers are raised again; those that somebody sets before the jobs, or raises, are left alone."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from inspect import unwrap

import pytest

from jobqueue.workers.running import resource_limits as module
from jobqueue.workers.running.resource_limits import ResourceLimits

AS, INFINITY = resource.RLIMIT_AS, resource.RLIM_INFINITY
MUCH, MORE = 1 << 44, 1 << 45  # bytes; no test needs that many


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[ResourceLimits]:
    before = resource.getrlimit(AS)
    for name in ("setrlimit", "prlimit"):
        monkeypatch.setattr(resource, name, unwrap(getattr(resource, name)))  # other tests may watch too
    made = ResourceLimits()
    made.watch()
    yield made
    module._set(AS, before)


def test_a_lowered_limit_is_raised_again(limits: ResourceLimits) -> None:
    before = resource.getrlimit(AS)
    assert not limits.were_set
    resource.setrlimit(AS, (MUCH, before[1]))
    assert limits.were_set
    limits.put_back()
    assert limits.stuck == []
    assert resource.getrlimit(AS) == before
    assert not limits.were_set


def test_a_limit_that_was_set_before_or_is_raised_stays(limits: ResourceLimits) -> None:
    hard = resource.getrlimit(AS)[1]
    resource.setrlimit(AS, (MUCH, hard))
    limits.keep()
    resource.setrlimit(AS, (MORE, hard))
    limits.put_back()
    assert limits.stuck == []
    assert resource.getrlimit(AS) == (MORE, hard)


def test_a_limit_that_cannot_be_raised_is_named(limits: ResourceLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    resource.setrlimit(AS, (MUCH, resource.getrlimit(AS)[1]))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_set", refuse)
        limits.put_back()
        assert limits.stuck == ["RLIMIT_AS"]


def test_watching_twice_is_harmless(limits: ResourceLimits) -> None:
    first = resource.setrlimit
    limits.watch()
    assert resource.setrlimit is first
