"""Keep the database connections of threads that run jobs fit for use, as Django does around each request.

Django keeps a connection per thread. Around a request it closes those that are too old or broken. Nothing does so
around a job, and a worker may idle for hours: in that time the database may close a connection.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable
from typing import Any

from django.db import Error, connections, reset_queries

log = logging.getLogger(__name__)

IDLE = 1.0  # seconds without a job after which a connection is checked before it is used again; it may be lost sooner


def make_ready(idle: float) -> None:
    """Close the connections of this thread that are too old or broken, before a job. idle: seconds since the thread's
    last job; after a while, or where the database has said something meanwhile, a query checks the connection."""
    reset_queries()
    for connection in connections.all(initialized_only=True):
        _close(connection, connection.close_if_unusable_or_obsolete)
        raw = connection.connection
        if raw is not None and not connection.in_atomic_block and (idle > IDLE or _has_been_answered(raw)):
            _close_if_unusable(connection)


def put_away(open_before: frozenset[str]) -> None:
    """Do so after a job. Take away the connections on which the job has left a transaction open, except those whose
    transaction is older than the job (``open_before``: a test's, say)."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block and connection.alias not in open_before:
            log.warning("a job has left a transaction open on database %r: it is rolled back", connection.alias)
            _forget(connection)
        else:
            _close(connection, connection.close_if_unusable_or_obsolete)


def in_transaction() -> frozenset[str]:
    """Return the databases on which this thread is in a transaction."""
    return frozenset(it.alias for it in connections.all(initialized_only=True) if it.in_atomic_block)


def close_all() -> None:
    """Close all connections of this thread, and pools of connections, except where a transaction is open."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            continue
        _close(connection, connection.close)
        if hasattr(connection, "close_pool"):
            connection.close_pool()


def _has_been_answered(raw: Any) -> bool:
    """Return whether there is something to read from a connection that no query uses: as a rule, its end. A system
    call; False for drivers that do not tell the socket."""
    try:
        return bool(select.select([raw], [], [], 0)[0])
    except (TypeError, ValueError, OSError):
        return False


def _close_if_unusable(connection: Any) -> None:
    try:
        usable = connection.is_usable()
    except Error:
        usable = False
    if not usable:
        log.info("the connection to database %r was lost while no job used it; it is opened again", connection.alias)
        _close(connection, connection.close)


def _close(connection: Any, close: Callable[[], object]) -> None:
    """Close a connection by one of its methods; where the database refuses that, take the connection away."""
    try:
        close()
    except Error as e:
        log.debug("database %r: %s", connection.alias, e)
        _forget(connection)


def _forget(connection: Any) -> None:
    """Close what is below, and let this thread get a new connection object."""
    raw, connection.connection = connection.connection, None
    del connections[connection.alias]
    if raw is not None:
        try:
            raw.close()
        except Exception as e:  # a driver's own exception: it is broken, or gone
            log.debug("database %r: %s", connection.alias, e)
