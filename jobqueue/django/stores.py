"""Open each store that the settings name once per process: queues share its client."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING

from jobqueue.store.open import Store, open_store

if TYPE_CHECKING:
    import redis

_open: dict[str | None, tuple[Store, redis.Redis]] = {}
_lock = threading.Lock()


def shared_store(url: str | None) -> tuple[Store, redis.Redis]:
    """Return the store at this URL (None: the environment's) and its client, opened at the first use. Any thread may
    call it. Raises StoreError and UsageError."""
    with _lock:
        if url not in _open:
            store = open_store(url)
            atexit.register(store.close)
            _open[url] = store, store.client(patient=True)
        return _open[url]
