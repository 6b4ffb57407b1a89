"""The store of a run: the user's, or one of its own that ends with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from jobqueue.errors import JobqError
from jobqueue.protocol import keys
from jobqueue.store.open import Store, open_store


@contextmanager
def own_store(env: dict[str, str]) -> Iterator[Store]:
    """Start a store of the run's own; stop it at the end although somebody may still hold a lease."""
    with open_store(None, env=env) as store:
        try:
            yield store
        except BaseException:
            # the thread that waits for results would say that the store went away
            logging.getLogger("jobqueue.results.waiter").disabled = True
            raise
        finally:
            if store.local is not None:
                store.local.stop(force=True)


@contextmanager
def opened(url: str | None, env: dict[str, str]) -> Iterator[tuple[Store, dict[str, str]]]:
    """Open the store at ``url``, or start our own without one; yield it and the environment of its workers."""
    if url is None:
        with own_store(env) as store:
            yield store, env
    else:
        with open_store(url) as store:
            # by the environment: everybody can read argv; and `jobq advise` is not asked about what is tried out here
            yield store, env | {"JOBQ_URL": url, "JOBQ_ACCOUNTING": "0"}


def refuse_suspended(store: Store) -> None:
    """Raise JobqError where no worker would take anything."""
    with store.client() as client:
        if client.exists(keys.SUSPENDED):
            raise JobqError("All queues of this store are suspended, no worker would work: jobq resume first.")
