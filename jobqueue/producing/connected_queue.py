"""RQ's Queue with a connection of its own: open the store at the first use, and close what was opened."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Self, cast

import redis
import rq.queue
from rq.timeouts import UnixSignalDeathPenalty

from jobqueue.errors import BadType, UsageError
from jobqueue.job import Job
from jobqueue.plugins.plugin import Plugin
from jobqueue.plugins.producer import ProducerPlugins
from jobqueue.protocol import bounds, names
from jobqueue.serializers import JSON
from jobqueue.store.connection import takes_bytes
from jobqueue.store.open import Store, open_store


class ConnectedQueue(rq.queue.Queue):
    """The name, the serializer and the connection of a queue; the subclass ``Queue`` enqueues.

    connection: the caller's client, which the caller closes; otherwise url or store name what to open, and without them
    the environment does. plugins: those whose before_enqueue is called, each an object or module:Class; None: those of
    JOBQ_PLUGINS, of installed packages and of jobq. Raises BadValue, BadType, UsageError; at the first use
    StoreUnreachable, StoreRefused.
    """

    job_class = Job

    def __init__(
        self,
        name: str = "default",
        connection: redis.Redis | None = None,
        default_timeout: int | None = None,
        is_async: bool = True,
        job_class: str | type[rq.job.Job] | None = None,
        serializer: Any = None,
        death_penalty_class: Any = UnixSignalDeathPenalty,
        *,
        url: str | None = None,
        store: Store | None = None,
        plugins: Sequence[str | Plugin] | None = None,
        **kwargs: Any,
    ) -> None:
        names.queue_name(name)
        if isinstance(connection, (str, bytes)):
            raise BadType("connection is a text: give a client (redis.Redis), or the URL as url=.")
        if url is not None and (connection is not None or store is not None):
            raise UsageError(
                f"Both url and {'store' if connection is None else 'connection'} were given: give one of them."
            )
        if default_timeout:
            default_timeout = bounds.TIMEOUT.check("default_timeout", default_timeout)
        if isinstance(plugins, str):
            raise BadType(f"plugins is a list, such as [{plugins!r}].")
        self._producer_plugins = ProducerPlugins(plugins)
        self._url = url
        self._store = store
        self._opened_store = False
        self._client: redis.Redis | None = None
        later = cast(redis.Redis, self)  # RQ requires a true value here; the property below opens the store later
        super().__init__(
            name,
            connection or later,
            default_timeout,
            is_async,
            job_class,
            serializer or JSON,
            death_penalty_class,
            **kwargs,
        )

    @classmethod
    def from_queue_key(cls, queue_key: str, *args: Any, **kwargs: Any) -> Self:
        """Make a queue from its key, as in RQ; also for a queue in the store whose name a new queue could not have."""
        prefix = cls.redis_queue_namespace_prefix
        known = prefix + "default" if queue_key.startswith(prefix) else queue_key
        queue = cast(Self, super().from_queue_key(known, *args, **kwargs))
        queue.name, queue._key = queue_key.removeprefix(prefix), queue_key
        return queue

    @property
    def connection(self) -> redis.Redis:
        """The client; opens the store at the first use."""
        if self._client is None:
            if self._store is None:
                self._store, self._opened_store = open_store(self._url), True
                weakref.finalize(self, self._store.close)
            self._client = self._store.client(patient=True)
        return self._client

    @connection.setter
    def connection(self, client: redis.Redis) -> None:
        self._client = None if cast(object, client) is self else takes_bytes(client)

    def close(self) -> None:
        """Close the connection, and the store if this queue opened it. Safe to repeat."""
        if self._store is not None and self._client is not None:
            # A connection that was passed in is closed by its owner.
            self._client.close()
            self._client = None
        if self._store is not None and self._opened_store:
            self._store.close()
            self._store, self._opened_store = None, False

    def __exit__(self, *error: object) -> None:
        self.close()
