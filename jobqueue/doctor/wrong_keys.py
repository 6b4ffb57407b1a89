"""Report what scripts moved aside: a user writes into the store by hand, or another program uses RQ's keys."""

from __future__ import annotations

from collections.abc import Iterator

from jobqueue.admin.aside import moved_aside
from jobqueue.doctor.finding import Finding
from jobqueue.store.connection import redis
from jobqueue.words import count

SHOWN = 3


def examine_wrong_keys(client: redis.Redis) -> Iterator[Finding]:
    found = moved_aside(client)
    if not found:
        return
    some = "; ".join(one.describe() for one in found[:SHOWN])
    rest = f"; and {len(found) - SHOWN:,} more: --json lists all" if len(found) > SHOWN else ""
    moved = count(len(found), "entry", "entries")
    text = f"{moved} of the store had to be moved out of the way in the last week: {some}{rest}."
    ids = tuple(one.key.decode(errors="backslashreplace") for one in found)
    yield Finding(
        "wrong keys", "warning", text, "Find out which program writes there: these keys are the queue's.", ids
    )
