"""Ask a server for its state: the fields of ``StoreStatus``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobqueue.store.connection import Address, client, explain, redis, server_version


@dataclass(frozen=True)
class StoreStatus:
    """What is known about a store; None where it is not known. Sizes in bytes, uptime in seconds."""

    running: bool
    url: str | None = None
    socket: str | None = None
    directory: str | None = None
    server: str | None = None
    version: str | None = None
    pid: int | None = None
    uptime: float | None = None
    memory: int | None = None
    queues: int | None = None
    waiting: int | None = None
    aof_size: int | None = None
    users: tuple[int, ...] | None = None
    kept: bool = False


def server_status(address: Address) -> StoreStatus:
    """Report on a server that is not the local store's. Raises StoreUnreachable or StoreRefused."""
    return StoreStatus(running=True, url=address.describe(), **figures(address))


def figures(address: Address) -> dict[str, Any]:
    """Return the fields of StoreStatus that the server knows. Raises StoreUnreachable or StoreRefused."""
    try:
        with client(address, socket_timeout=5.0) as r:
            info: dict[str, Any] = r.info()
            waiting = _waiting(r)
    except redis.RedisError as e:
        raise explain(e, address) from e
    server, version = server_version(info)
    return {
        "server": server,
        "version": version,
        "pid": info.get("process_id"),
        "uptime": float(info.get("uptime_in_seconds", 0)),
        "memory": info.get("used_memory"),
        "queues": len(waiting),
        "waiting": sum(waiting),
        "aof_size": info.get("aof_current_size"),
    }


def _waiting(r: redis.Redis) -> list[int]:
    """Return the length of each queue."""
    from jobqueue.protocol import keys  # imported here: it imports rq, which takes longer than starting a server

    pipeline = r.pipeline(transaction=False)
    for name in r.smembers(keys.QUEUES):
        pipeline.llen(name)
    lengths: list[int] = pipeline.execute()
    return lengths
