"""Which errors come from the store as a whole, so that waiting helps."""

from __future__ import annotations

import errno

import pytest
import redis

from jobqueue.store.error_texts import causes, is_away, is_own_fault

AMID = "Command # 2 (HSET rq:job:1 status\nfinished) of pipeline caused error: "  # redis-py's words


@pytest.mark.parametrize("place", ["", AMID], ids=["alone", "in a transaction"])
def test_errors_of_the_whole_store_are_told_from_errors_of_one_command(place: str) -> None:
    assert is_away(redis.ResponseError(f"{place}MISCONF Errors writing to the AOF file: No space left on device"))
    assert not is_away(redis.ResponseError(f"{place}WRONGTYPE Operation against a key of another type: MISCONF"))


def test_an_exception_that_has_led_to_itself_has_an_end() -> None:
    """redis-py raises an exception again while another is handled: each is then the other's context."""
    first, second = redis.ConnectionError("first"), redis.ConnectionError("second")
    first.__context__, second.__context__ = second, first
    assert [str(it) for it in causes(first)] == ["first", "second"]
    assert not is_own_fault(first)
    second.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert is_own_fault(first)
