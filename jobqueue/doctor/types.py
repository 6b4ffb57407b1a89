"""Find keys of a wrong type, which a user wrote by hand, or another program.

Only keys of which there are few are checked: those of single jobs are moved aside by the scripts that come across them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from jobqueue.doctor.finding import Finding
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import queue_names
from jobqueue.store.connection import redis

PAGE = 1_000  # keys that are checked at once
SHOWN = 10

SINGLE = {
    keys.QUEUES: "set",
    keys.WORKERS: "set",
    keys.OWNERS: "set",
    keys.PAUSED: "set",
    keys.USAGE: "set",
    keys.ASIDE: "zset",
    keys.ENDED: "hash",
    keys.SEQ: "string",
    keys.CRON_LEADER: "string",
    keys.CRON_SCHEDULERS: "zset",
}  # keys.SCHEDULES and keys.CRON_ENTRIES: see schedules.py
KINDS = {"set": "set", "zset": "sorted set", "hash": "hash", "string": "string", "list": "list"}


def examine_types(client: redis.Redis) -> Iterator[Finding]:
    """Iterate over a finding for each such key."""
    wrong = dict(_wrong(client, SINGLE))
    for listed, of_one in (
        (keys.QUEUES, _of_queues),
        (keys.WORKERS, _of_workers),
        (keys.OWNERS, lambda members: {keys.own(_text(owner)): "zset" for owner in members}),
    ):
        if listed not in wrong:
            members: Any = client.smembers(listed)
            wrong |= dict(_wrong(client, of_one(members)))
    for key, (is_, should_be) in islice(wrong.items(), SHOWN):
        text = f"The key {key!a} is a {KINDS.get(is_, is_)}; a {KINDS[should_be]} belongs there."
        yield Finding("types", "problem", text, f"`redis-cli RENAME {key} {key}-moved` gets it out of the way.", (key,))
    if len(wrong) > SHOWN:
        yield Finding("types", "problem", f"{len(wrong) - SHOWN:,} more keys are of a wrong type.", "", tuple(wrong))


def safely(check: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Iterate over the findings; where a key of a wrong type interrupts that, yield a finding about it and go on."""
    try:
        yield from findings
    except redis.ResponseError as e:
        yield unreadable(check, e)


def look(find: Callable[[], Any], check: str, failed: list[Finding]) -> Any:
    """Return what ``find`` returns; None, and one finding more in ``failed``, if a key of a wrong type prevents it."""
    try:
        return find()
    except redis.ResponseError as e:
        failed.append(unreadable(check, e))
        return None


def unreadable(check: str, error: redis.ResponseError) -> Finding:
    """Return a finding about a key of a wrong type. Raises any other error again."""
    if "WRONGTYPE" not in str(error):
        raise error
    text = f"This could not be looked at to its end ({check}): a key that it reads is of a wrong type."
    return Finding(check, "problem", text, "Get the keys that are named here out of the way, and look again.")


def _of_queues(members: Iterable[bytes]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name in queue_names(members):
        found |= {keys.queue(name): "list", keys.intermediate(name): "list", keys.workers_of(name): "set"}
        found |= {keys.back(name): "zset"}
        found |= dict.fromkeys((keys.registry(kind, name) for kind in _REGISTRIES), "zset")
    return found


_REGISTRIES = ("finished", "failed", "wip", "scheduled", "deferred", "ready", "canceled")


def _of_workers(members: Iterable[bytes]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for key in map(_text, members):
        found |= {key: "hash", keys.lease(key.removeprefix(keys.worker(""))): "string"}
    return found


def _wrong(client: redis.Redis, expected: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the keys of a wrong type, with the type that they have and the one that they should have."""
    names = iter(expected)
    while page := list(islice(names, PAGE)):
        with client.pipeline(transaction=False) as pipe:
            for key in page:
                pipe.type(key)
            kinds = [kind.decode() for kind in pipe.execute()]
        yield from (
            (k, (is_, expected[k])) for k, is_ in zip(page, kinds, strict=True) if is_ not in ("none", expected[k])
        )


def _text(member: bytes) -> str:
    return member.decode(errors="replace")
