"""Open the store that an address or the environment names, else the local one, started if need be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import redis

from jobqueue.store import config
from jobqueue.store.address import Address
from jobqueue.store.connection import check, client, server_version

if TYPE_CHECKING:
    from jobqueue.store.local.store import LocalStore


class Store:
    """A store that answered: its address, and, for the local one, the lease that keeps it running.

    Use it as a context manager. Build it with ``open_store``.
    """

    def __init__(self, address: Address, source: str, server: str = "", local: LocalStore | None = None) -> None:
        self.address = address
        self.local = local
        self._source = source
        self._server = server

    def client(self, **kwargs: Any) -> redis.Redis:
        """Build a new client; the arguments are those of ``connection.client``."""
        return client(self.address, **kwargs)

    def describe(self) -> str:
        """Return the line that says which store is in use."""
        if self.local is None:
            return f"store: {self.address.describe()} ({self._source})"
        started = ", started now" if self.local.started else ""
        return f"store: local, {self.address.describe()} ({self._server}{started})"

    def ensure(self) -> None:
        """Start the local server again if it died; do nothing for a URL. Safe from any thread, safe to repeat."""
        if self.local is not None:
            self.local.ensure()

    def close(self) -> None:
        """Give the local store's lease back; the last process to do so stops the server. Safe to repeat."""
        if self.local is not None:
            self.local.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_store(url: str | None = None, *, env: Mapping[str, str] = os.environ) -> Store:
    """Open the store that ``url`` or the environment names, else the local store, started if need be.

    Raises UsageError (not a URL) or a StoreError: unreachable, refused, no server binary.
    """
    found, source = config.resolve_url(url, env)
    if found is not None:
        return _opened(Address(url=found), source, None)
    from jobqueue.store.local.store import LocalStore  # imported here: a store at an address needs none of it

    local = LocalStore(config.home(env), env=env)
    try:
        return _opened(Address(unix_socket_path=local.ensure()), source, local)
    except BaseException:
        local.release()
        raise


def _opened(address: Address, source: str, local: LocalStore | None) -> Store:
    with client(address, socket_timeout=5.0, patient=True) as r:
        info = check(r, address)
    return Store(address, source, " ".join(server_version(info)), local)
