"""Examine the server: its version, what survives its crash, what it evicts, how much room is left, its clock.

Managed servers forbid CONFIG, some INFO: a finding says what could not be read, and that is not an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from jobqueue.doctor.finding import Finding
from jobqueue.network.failover import behind_sentinels
from jobqueue.store.connection import redis, server_version
from jobqueue.words import duration

NEEDED = (6, 2)  # the first version with LMOVE, LPOS and ZRANGE by score
TESTED = (7, 0)
FULL, FILLING = 0.9, 0.75  # shares of maxmemory, or of the machine's memory
SKEW = 5.0  # seconds of difference that matter, because RQ's readers judge scores by their own clock
BIG_NODE = 1024  # bytes; see _streams


def examine_server(client: redis.Redis) -> Iterator[Finding]:
    """Iterate over the findings about the server. Raises what redis-py raises when it does not answer."""
    try:
        info = client.info()
    except redis.ResponseError as e:
        yield Finding("server", "note", f"INFO is forbidden here ({e}): version, persistence and memory are not known.")
        info = {}
    if info:
        yield _version(info)
        yield _persistence(info, config(client, "save"))
        yield _eviction(info)
        yield _memory(info)
        yield _streams(config(client, "stream-node-max-bytes"))
        yield from fail_over(info, config(client, "min-replicas-to-write"), behind_sentinels(client))
    yield _clock(client)


def config(client: redis.Redis, name: str) -> str | None:
    """Return a setting of the server; None where an ACL forbids reading it."""
    try:
        values: Any = client.config_get(name)
    except redis.ResponseError:
        return None
    value = values.get(name, values.get(name.encode()))
    return value.decode() if isinstance(value, bytes) else value


def _version(info: Mapping[str, Any]) -> Finding:
    name, version = server_version(info)
    speaks = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2] if part.isdigit())
    if speaks < NEEDED:
        return Finding("version", "problem", f"{name} {version} lacks commands that jobq needs.", "Use 7.0 or newer.")
    if speaks < TESTED:
        return Finding("version", "warning", f"{name} {version} is older than what jobq is tested with.", "Use 7.0.")
    return Finding("version", "ok", f"{name} {version}")


def _persistence(info: Mapping[str, Any], save: str | None) -> Finding:
    check = "persistence"
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") != "ok" or info.get("aof_last_bgrewrite_status", "ok") != "ok":
            return Finding(check, "problem", "The server cannot write its append-only file.", "Is its disk full?")
        return Finding(check, "ok", "append-only file: a crash of the server loses a second at most")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Finding(check, "problem", "The server cannot write its snapshots.", "Is its disk full?")
    to_do = "Set `appendonly yes` (and `appendfsync everysec`) on the server."
    if save == "":
        return Finding(check, "problem", "Nothing is written to disk: a restart of the server loses all jobs.", to_do)
    how = "Only snapshots are written" if save else "There is no append-only file"
    age = max(0, round(time.time() - float(info.get("rdb_last_save_time", time.time()))))
    changes = f", {int(info.get('rdb_changes_since_last_save', 0)):,} changes since the last one {duration(age)} ago"
    return Finding(check, "warning", f"{how}{changes}: a crash loses what came since.", to_do)


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy, limit = str(info.get("maxmemory_policy", "unknown")), int(info.get("maxmemory", 0))
    if policy == "noeviction":
        return Finding("eviction", "ok", "noeviction: nothing is thrown away")
    what = f"maxmemory-policy is {policy}"
    to_do = "Set `maxmemory-policy noeviction`: a queue's keys are not a cache."
    if not limit:
        return Finding("eviction", "note", f"{what}, and no maxmemory is set, so it does nothing yet.", to_do)
    evicted = int(info.get("evicted_keys", 0))
    text = f"{what}: a full store throws jobs away ({evicted:,} keys since its start)."
    return Finding("eviction", "problem", text, to_do)


def _memory(info: Mapping[str, Any]) -> Finding:
    used = int(info.get("used_memory", 0))
    limit, whose = int(info.get("maxmemory", 0)), "maxmemory"
    if not limit:
        limit, whose = int(info.get("total_system_memory", 0)), "its machine's memory"
    if not limit:
        return Finding("memory", "note", f"{size(used)} used; how much there is, the server does not say.")
    share = used / limit
    text = f"{size(used)} used, {share:.0%} of {whose} ({size(limit)})"
    to_do = "Give it more memory, or keep results and failed jobs for a shorter time (--result-ttl, --failure-ttl)."
    if share >= FULL:
        return Finding("memory", "problem", f"{text}: it is about to refuse jobs.", to_do)
    if share >= FILLING:
        return Finding("memory", "warning", f"{text}.", to_do)
    return Finding("memory", "ok", text)


def _streams(node_bytes: str | None) -> Finding:
    """Report what streams cost: RQ keeps each result in a stream of its own, for which the server reserves a whole node
    (4,768 bytes measured, 1,550 with a node of 512 bytes)."""
    if node_bytes is None:
        return Finding("results", "note", "CONFIG is forbidden here: how results are stored cannot be read.")
    if int(node_bytes) <= BIG_NODE and node_bytes != "0":
        return Finding("results", "ok", f"stream-node-max-bytes {node_bytes}: a result takes little memory")
    to_do = "`CONFIG SET stream-node-max-bytes 512` makes it about 1.5 kB, for new results and all readers."
    return Finding("results", "note", "Every kept result takes about 5 kB, most of it reserved and unused.", to_do)


def fail_over(info: Mapping[str, Any], least: str | None, sentinels: bool) -> Iterator[Finding]:
    """Iterate over the findings about a planned fail-over, if the server has a replica."""
    check, replicas = "fail-over", int(info.get("connected_slaves", 0))
    if least not in (None, "0") and replicas < int(least or 0):
        text = f"min-replicas-to-write is {least}, and {replicas} replicas are connected: nobody may write."
        yield Finding(check, "problem", text, "Start the replicas, or `CONFIG SET min-replicas-to-write 0`.")
    elif not (sentinels or replicas):
        return
    elif least is None:
        yield Finding(check, "note", "CONFIG is forbidden here: whether min-replicas-to-write is set cannot be read.")
    elif least == "0":
        text = "min-replicas-to-write is 0: a fail-over loses what came after the replica had left its primary."
        to_do = "Set `min-replicas-to-write 1` and `min-replicas-max-lag 5` on all servers; see docs/usage.md."
        yield Finding(check, "warning" if sentinels else "note", text, to_do)
    else:
        yield Finding(check, "ok", f"min-replicas-to-write {least}: a planned fail-over loses nothing")


def _clock(client: redis.Redis) -> Finding:
    before = time.time()
    seconds, micros = client.time()
    skew = float(seconds) + float(micros) / 1e6 - (before + time.time()) / 2
    if abs(skew) > SKEW:
        text = f"The server's clock is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's."
        return Finding("clock", "warning", text, "Run NTP on both: RQ's readers judge by their own clock.")
    return Finding("clock", "ok", "the server's clock agrees with this machine's")


def size(number: float) -> str:
    """Return bytes with a unit."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
