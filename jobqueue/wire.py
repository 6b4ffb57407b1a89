"""One write, one transaction: RESP commands packed by hand and sent over a connection of a client's own pool.

redis-py's pipeline spends about 100 µs of Python on a single enqueue and 30 µs per job of a bulk; half of a job's
fields are the same for a whole chunk, so they are packed once. See docs/decisions.md, "Enqueue".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import redis
from redis.exceptions import ExecAbortError, ResponseError

from jobqueue.failover import WAIT, confirms, read_confirmation, while_refused


def strings(parts: Iterable[bytes]) -> bytes:
    """Pack bulk strings, without the head that says how many."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def command(*parts: bytes) -> bytes:
    """Pack one command."""
    return b"*%d\r\n%b" % (len(parts), strings(parts))


_MULTI, _EXEC = command(b"MULTI"), command(b"EXEC")
_WAIT = command(*(str(part).encode() for part in WAIT))


def transact(client: redis.Redis, commands: Sequence[bytes]) -> list[Any]:
    """Run packed commands as one MULTI in one write; return EXEC's replies.

    Behind Sentinels, what is refused during a fail-over is repeated for half a minute. Raises ResponseError (nothing
    was done), ConnectionError or TimeoutError (it was done or it was not).
    """
    return while_refused(client, lambda: _transact(client, commands))


def _transact(client: redis.Redis, commands: Sequence[bytes]) -> list[Any]:
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        confirm = (_WAIT,) if confirms(connection) else ()
        connection.send_packed_command([b"".join((_MULTI, *commands, _EXEC, *confirm))])
        replies = _replies(connection, len(commands))
        if confirm:
            read_confirmation(connection)
        return replies
    except ResponseError:
        if confirms(connection):  # an answer to WAIT comes still, and late
            connection.disconnect()
        raise
    except BaseException:  # also KeyboardInterrupt: unread replies must not meet the next command
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def _replies(connection: Any, n: int) -> list[Any]:
    refused: ResponseError | None = None
    for _ in range(n + 1):
        try:
            connection.read_response()  # OK, QUEUED, QUEUED, ...
        except ResponseError as e:
            refused = refused or e
    try:
        replies: list[Any] = connection.read_response()
    except ExecAbortError:
        raise refused or ResponseError("EXEC was refused") from None
    failed = [reply for reply in replies if isinstance(reply, ResponseError)]
    if failed:
        raise failed[0]
    return replies
