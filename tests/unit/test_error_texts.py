"""Which errors come from the store as a whole, so that waiting helps."""

from __future__ import annotations

import pytest
import redis

from jobqueue.store.error_texts import is_away

AMID = "Command # 2 (HSET rq:job:1 status\nfinished) of pipeline caused error: "  # redis-py's words


@pytest.mark.parametrize("place", ["", AMID], ids=["alone", "in a transaction"])
def test_errors_of_the_whole_store_are_told_from_errors_of_one_command(place: str) -> None:
    assert is_away(redis.ResponseError(f"{place}MISCONF Errors writing to the AOF file: No space left on device"))
    assert not is_away(redis.ResponseError(f"{place}WRONGTYPE Operation against a key of another type: MISCONF"))
