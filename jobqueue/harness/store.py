"""Open the store of a run: the user's, or one that is started for the run and ends with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from jobqueue.errors import JobqError
from jobqueue.protocol import keys
from jobqueue.store.open import Store, open_store


@contextmanager
def own_store(env: dict[str, str]) -> Iterator[Store]:
    """Start a store for the run; stop it at the end even if a process still holds a lease on it."""
    with open_store(None, env=env) as store:
        try:
            yield store
        except BaseException:
            # the thread that waits for results would log that the store went away
            logging.getLogger("jobqueue.results.waiter").disabled = True
            raise
        finally:
            if store.local is not None:
                store.local.stop(force=True)


@contextmanager
def opened(url: str | None, env: dict[str, str]) -> Iterator[tuple[Store, dict[str, str]]]:
    """Open the store at ``url``, or start one for the run if there is no URL; yield it and the environment of its
    workers."""
    if url is None:
        with own_store(env) as store:
            yield store, env
    else:
        with open_store(url) as store:
            # In the environment, because everybody can read argv. No accounting: `jobq advise` should not judge trials.
            yield store, env | {"JOBQ_URL": url, "JOBQ_ACCOUNTING": "0"}


@contextmanager
def users(url: str | None, env: dict[str, str]) -> Iterator[tuple[Store, dict[str, str]]]:
    """Open the store that every command would take: at ``url``, else the environment's, else the local store; yield it
    and the environment of the run's workers."""
    with open_store(url) as store:
        place = store.address.url or f"unix://{store.address.unix_socket_path}"
        yield store, env | {"JOBQ_URL": place, "JOBQ_ACCOUNTING": "0"}


def refuse_suspended(store: Store) -> None:
    """Raise JobqError if the queues are suspended, so that no worker would run anything."""
    with store.client() as client:
        if client.exists(keys.SUSPENDED):
            raise JobqError("All queues of this store are suspended, no worker would work: jobq resume first.")
