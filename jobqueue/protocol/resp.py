"""One write: a RESP command packed by hand and sent over a connection of a client's own pool.

redis-py's pipeline spends about 100 µs of Python on a single enqueue and 30 µs per job of a bulk; half of a job's
fields are the same for a whole chunk, so they are packed once. See docs/decisions.md, "Enqueue".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import redis
from redis.exceptions import ResponseError

from jobqueue.network.failover import WAIT, confirms, read_confirmation, while_refused
from jobqueue.network.kept import kept


def strings(parts: Iterable[bytes]) -> bytes:
    """Pack bulk strings, without the head that says how many."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


_WAIT = b"*%d\r\n%b" % (len(WAIT), strings(str(part).encode() for part in WAIT))


def ask(client: redis.Redis, packed: bytes) -> Any:
    """Send one packed command in one write; return the reply.

    Behind Sentinels, what is refused during a fail-over is repeated for half a minute. Raises ResponseError (nothing
    was done), ConnectionError or TimeoutError (it was done, it was not, or it will be).
    """
    return while_refused(client, lambda: _ask(client, packed))


def _ask(client: redis.Redis, packed: bytes) -> Any:
    connections = kept(client)
    connection = connections.take()
    try:
        confirm = _WAIT if confirms(connection) else b""
        connection.send_packed_command([packed + confirm])
        reply = connection.read_response()
        if confirm:
            read_confirmation(connection)
        return reply
    except ResponseError:
        if confirms(connection):  # the answer to WAIT will still arrive, late
            connection.disconnect()
        raise
    except BaseException:  # also KeyboardInterrupt: an unread reply must not meet the next command
        connection.disconnect()
        raise
    finally:
        connections.put_back(connection)
